"""Records: which experts each token chose, with which scores, and how often each expert was chosen.

It knows tokens one by one; it refuses to know where they come from (a real run, or sim/router.py) and what follows from
their counts (sim/routing.py)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK = 2**22  # table entries that are checked or counted at once, so that no copy of the whole is made


@dataclass(frozen=True, eq=False)
class Records:
    """What the router chose, token by token.

    experts [step, layer, src, token, slot]: whole numbers, best first.  scores, of the same shape, float32: the
    router's softmax over all experts; None if they were not kept.  The token axis holds the rows of rank src in the
    order of its forward (the conditional half first, image by image), so micro-batches are equal chunks of it.  A step,
    layer or src axis of length 1 serves every step, layer or rank.

    of_experts: experts that there are.  tokens: rows of a rank; where fewer are recorded they are a sample, and each
    stands for tokens / recorded of them."""

    experts: npt.NDArray[np.integer[Any]]
    scores: npt.NDArray[np.float32] | None
    of_experts: int
    tokens: int

    def __post_init__(self) -> None:
        shape, kind = self.experts.shape, self.experts.dtype.kind
        if self.experts.ndim != 5 or not self.experts.size or kind not in "iu":
            raise ValueError(f"recorded experts should be whole numbers [step, layer, src, token, slot], not {shape}")
        if not 0 < shape[3] <= self.tokens:
            raise ValueError(f"{shape[3]} recorded tokens cannot stand for the {self.tokens} of a rank")
        if (low := self.experts.min()) < 0 or (high := self.experts.max()) >= self.of_experts:
            raise ValueError(f"recorded experts should be 0 to {self.of_experts - 1}, not {low if low < 0 else high}")
        for a, b in combinations(range(shape[4]), 2):
            if (self.experts[..., a] == self.experts[..., b]).any():
                raise ValueError(f"recorded experts: a token has the same expert in slots {a} and {b}")
        if self.scores is not None:
            self._check_scores(self.scores)

    def _check_scores(self, scores: npt.NDArray[np.float32]) -> None:
        if scores.shape != self.experts.shape or scores.dtype != np.float32:
            found = f"{scores.dtype} {scores.shape}"
            raise ValueError(
                f"recorded scores should be float32 of the experts' shape {self.experts.shape}, not {found}"
            )
        if not (scores.min() >= 0 and scores.max() <= 1):  # written so that NaN fails too
            raise ValueError("recorded scores should be shares of a softmax, 0 to 1")
        if (scores[..., 1:] > scores[..., :-1]).any():
            raise ValueError("recorded scores should fall from slot to slot: slot 0 is a token's best expert")

    @property
    def share(self) -> float:
        """How many tokens each recorded one stands for."""
        return self.tokens / int(self.experts.shape[3])

    def at(self, step: int, layer: int) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.float32] | None]:
        """experts and scores [src, token, slot] of one layer at one step."""
        steps, layers = self.experts.shape[:2]
        at = (step if steps > 1 else 0, layer if layers > 1 else 0)
        return self.experts[at], None if self.scores is None else self.scores[at]

    def counts(self, parts: int) -> npt.NDArray[Any]:
        """counts [step, layer, part, slot, src, expert] of `parts` micro-batches: whole numbers, unless of a sample.

        Raises ValueError if the recorded tokens cannot be cut into `parts` equal chunks."""
        steps, layers, srcs, tokens, slots = self.experts.shape
        if tokens % parts:
            raise ValueError(f"{tokens} recorded tokens do not divide into {parts} micro-batches")
        cells = self.experts.reshape(-1, tokens // parts, slots)  # [(step, layer, src, part), token, slot]
        counted = np.empty((len(cells), slots, self.of_experts), np.int64)
        rows = max(1, _CHUNK // cells[0].size)
        for first in range(0, len(cells), rows):
            counted[first : first + rows] = _count(cells[first : first + rows], self.of_experts)
        whole = counted.reshape(steps, layers, srcs, parts, slots, self.of_experts).transpose(0, 1, 3, 4, 2, 5)
        return np.ascontiguousarray(whole if self.share == 1 else whole * self.share)


def _count(experts: npt.NDArray[np.integer[Any]], of_experts: int) -> npt.NDArray[np.int64]:
    """[cell, slot, expert] of experts [cell, token, slot]."""
    cells, _, slots = experts.shape
    bins = np.arange(cells * slots).reshape(cells, 1, slots) * of_experts + experts
    return np.bincount(bins.ravel(), minlength=cells * slots * of_experts).reshape(cells, slots, of_experts)
