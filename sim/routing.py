"""Routing: which tokens go to which experts, of a real run or of a modelled router (sim/router.py).

A Routing holds token counts, and where it was recorded token by token, the records (sim/records.py) that the counts
follow from.  It knows how routing is counted, cut into micro-batches, kept in files and compared from step to step; it
refuses to know bytes, ranks' links and why a router chose as it did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

import numpy as np
import numpy.typing as npt

from sim.output import whole_file
from sim.records import Records

if TYPE_CHECKING:
    from sim.shape import ModelShape

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Routing:
    """Token counts of a run.  counts [step, layer, part, slot, src, expert]: how many of a micro-batch's tokens on
    rank src have `expert` as their slot-th best.  An axis of length 1 for step, layer or src serves every one.

    records: the tokens that were counted, where each was recorded; `Routing.of` counts them."""

    counts: npt.NDArray[Any]
    source: str = "recorded"
    records: Records | None = None

    def __post_init__(self) -> None:
        if self.counts.ndim != 6 or not self.counts.size:
            shape = self.counts.shape
            raise ValueError(f"routing counts should be [step, layer, part, slot, src, expert], not of shape {shape}")
        if not (np.isfinite(self.counts) & (self.counts >= 0)).all():
            raise ValueError("routing counts should be finite and not negative")
        if self.records is not None and not np.array_equal(self.counts, self.records.counts(self.counts.shape[2])):
            raise ValueError("routing counts are not those of the recorded tokens: let Routing.of count them")

    @staticmethod
    def of(records: Records, parts: int = 1, source: str = "recorded") -> Routing:
        """The counts of recorded tokens, cut into `parts` micro-batches."""
        return Routing(records.counts(parts), source, records)

    @staticmethod
    def balanced(model: ModelShape, ranks: int, tokens: int, parts: int = 1) -> Routing:
        """Every expert gets the same share of every slot of the `tokens` of a rank."""
        counts = np.full((1, 1, parts, model.top_k, ranks, model.experts), tokens / parts / model.experts)
        return Routing(counts, "balanced")

    @staticmethod
    def skewed(
        model: ModelShape, ranks: int, tokens: int, steps: int, *, imbalance: float = 1.0, keep: float = 1.0,
        seed: int = 0, parts: int = 1,
    ) -> Routing:  # fmt: skip
        """Routing of a modelled router (sim/router.py), with records of a sample of the `tokens` of a rank.

        imbalance: tokens of a layer's most loaded expert over the mean of its experts.  keep: probability that a
        token has the same best expert one step later.  Raises ValueError for what no router could do."""
        from sim.router import modelled

        records = modelled(model, ranks, tokens, steps, imbalance=imbalance, keep=keep, seed=seed)
        return Routing.of(records, parts, f"modelled: imbalance {imbalance:g}, keep {keep:g}, seed {seed}")

    @property
    def experts(self) -> npt.NDArray[np.integer[Any]] | None:
        """[step, layer, src, token, slot]: see Records; None where tokens were only counted."""
        return None if self.records is None else self.records.experts

    @property
    def scores(self) -> npt.NDArray[np.float32] | None:
        """[step, layer, src, token, slot]: see Records; None where they were not kept."""
        return None if self.records is None else self.records.scores

    def at(self, step: int, layer: int, part: int) -> Array:
        """counts [slot, src, expert] of one chain."""
        steps, layers = self.counts.shape[:2]
        counts: Array = self.counts[step if steps > 1 else 0, layer if layers > 1 else 0, part]
        return counts

    def cut(self, parts: int) -> Routing:
        """The same tokens in another number of micro-batches; itself where only counts are known, or nothing changes.

        Raises ValueError if the recorded tokens cannot be cut so."""
        if self.records is None or self.counts.shape[2] == parts:
            return self
        return Routing.of(self.records, parts, self.source)

    def imbalance(self) -> Array:
        """[step, layer]: tokens of the most loaded expert over the mean of all experts, slots and ranks together."""
        loads = self.counts.sum(axis=(2, 3, 4))
        shares: Array = loads.max(axis=-1) / loads.mean(axis=-1)
        return shares

    def kept(self) -> Array:
        """[step - 1, layer, slot]: share of tokens whose slot has the expert that it had one step before.

        Raises ValueError where routing is only counted, or is the same at all steps: neither tells tokens apart."""
        if self.experts is None:
            raise ValueError(f"routing {self.source}: counts do not say which token went where")
        if len(self.experts) == 1:
            raise ValueError(f"routing {self.source} is of one step that serves all: nothing changes from step to step")
        shares = [(a == b).mean(axis=(1, 2)) for a, b in zip(self.experts, self.experts[1:], strict=False)]
        return np.array(shares)

    # ------------------------------------------------------------------------------------------ files

    def save(self, path: Path | str) -> None:
        """Writes an .npz that `load` reads: counts, or the records and how many micro-batches they are cut into."""
        arrays: dict[str, Any] = {"source": np.array(self.source)}
        if (records := self.records) is None:
            arrays["counts"] = self.counts
        else:
            arrays |= {"experts": records.experts} | ({} if records.scores is None else {"scores": records.scores})
            arrays |= {"of_experts": records.of_experts, "tokens": records.tokens, "parts": self.counts.shape[2]}
        with whole_file(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @staticmethod
    def load(path: Path | str) -> Routing:
        """Reads what `save` wrote.  Raises ValueError with the path if something else wrote it."""
        with open(path, "rb") as file:
            if not is_zipfile(file):
                raise ValueError(f"{path}: not an .npz file")
        with np.load(path, allow_pickle=False) as data:
            wanted = ("experts", "of_experts", "tokens", "parts") if "experts" in data.files else ("counts",)
            if missing := {*wanted, "source"} - {*data.files}:
                raise ValueError(f"{path}: lacks {' and '.join(sorted(missing))}; it has {', '.join(data.files)}")
            try:
                arrays = {name: data[name] for name in data.files}
                return _routing(arrays)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}: {error}") from None


def _routing(arrays: dict[str, npt.NDArray[Any]]) -> Routing:
    """The routing that a file's arrays hold."""
    source = str(arrays["source"])
    if "experts" not in arrays:
        return Routing(arrays["counts"], source)
    of_experts, tokens, parts = (int(arrays[name]) for name in ("of_experts", "tokens", "parts"))
    if parts < 1:
        raise ValueError(f"parts={parts} micro-batches should be at least 1")
    return Routing.of(Records(arrays["experts"], arrays.get("scores"), of_experts, tokens), parts, source)
