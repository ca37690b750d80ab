"""How alike routing is at two steps, layer by layer: what staleness of routing costs little where it is alike.

From a Routing that was recorded token by token.  Two measures, shares of 0 to 1: of tokens whose best expert is the
same (`best`), and of experts that are among a token's best at both steps (`overlap`); and how far a token's scores of
the experts that it keeps have moved (`score_change`).  It knows routing; it refuses to know what experts compute."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.routing import Routing

Array = npt.NDArray[np.float64]


class Similarity(NamedTuple):
    """Between every two steps."""

    best: Array  # [layer, step, step]
    overlap: Array  # [layer, step, step]
    score_change: Array | None  # [layer, step, step] mean |difference| of the scores of kept slots; None without scores
    slots: Array  # [step - 1, layer, slot] share of tokens whose slot keeps its expert for a step
    imbalance: Array  # [step, layer] tokens of the most loaded expert over the mean

    @staticmethod
    def of(routing: Routing) -> Similarity:
        """Raises ValueError where routing was only counted, or serves all steps alike."""
        if routing.records is None:
            raise ValueError(f"routing {routing.source}: counts do not say which token went where")
        if len(routing.records.experts) < 2:
            raise ValueError(f"routing {routing.source} is of one step that serves all: nothing changes")
        pairs = [_layer(routing, layer) for layer in range(routing.records.experts.shape[1])]
        best, overlap, change = (np.array(each) for each in zip(*pairs, strict=True))
        scored = None if routing.scores is None else change
        return Similarity(best, overlap, scored, routing.kept(), routing.imbalance())


def by_lag(shares: Array) -> Array:
    """[layer, lag - 1] of [layer, step, step]: means over all pairs of steps that are 1, 2, ... steps apart."""
    steps = shares.shape[1]
    return np.array([[np.diagonal(layer, lag).mean() for lag in range(1, steps)] for layer in shares])


def _layer(routing: Routing, layer: int) -> tuple[Array, Array, Array]:
    """best, overlap and change of scores [step, step] of one layer."""
    assert routing.records is not None
    experts: npt.NDArray[Any] = routing.records.experts[:, layer]  # [step, src, token, slot]
    scores = routing.records.scores
    steps = len(experts)
    best, overlap, change = (np.empty((steps, steps)) for _ in range(3))
    for a in range(steps):
        for b in range(a, steps):
            same = experts[a] == experts[b]
            best[a, b] = best[b, a] = same[..., 0].mean()
            shared = (experts[a][..., :, None] == experts[b][..., None, :]).any(axis=-1)
            overlap[a, b] = overlap[b, a] = shared.mean()
            moved = (
                np.nan if scores is None or not same.any() else np.abs(scores[a, layer] - scores[b, layer])[same].mean()
            )
            change[a, b] = change[b, a] = moved
    return best, overlap, change
