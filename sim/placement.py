"""Where experts live: which ranks of a group hold a copy of each, and to which copy a token's row goes.

Without a placement expert e is on rank e mod ranks, once.  A row goes to its own rank if that holds a copy; else to the
copies that are near (ranks in the same block of `near` neighbours, such as a node), evenly; else to all copies, evenly.
That is the rule of the nearest replica, with ties shared out: what a source sends to an expert is cut into equal
parts, which may be fractions of a row.  A rule that looks at loads could do better; none is modelled.

It knows experts and ranks; it refuses to know links and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Holders = tuple[tuple[int, ...], ...]  # [expert]: the ranks of a group that hold it


@dataclass(frozen=True)
class Placement:
    """holders [layer][expert]: ranks of a group with a copy; one layer serves all.  Ranks hold equally many experts.

    near: ranks 0 to near - 1 are near each other, and so on; 1: none is."""

    ranks: int  # of a group
    holders: tuple[Holders, ...]
    near: int = 1
    source: str = "given"

    def __post_init__(self) -> None:
        for layer, holders in enumerate(self.holders):
            for expert, held in enumerate(holders):
                if not held or len({*held}) < len(held) or not all(0 <= rank < self.ranks for rank in held):
                    raise ValueError(
                        f"placement: expert {expert} of layer {layer} is on ranks {list(held)}; it should be on one or "
                        f"more of ranks 0 to {self.ranks - 1}, once on each"
                    )
            sizes = Counter(rank for held in holders for rank in held)
            if len({sizes[rank] for rank in range(self.ranks)}) > 1:
                told = ", ".join(f"{rank}: {sizes[rank]}" for rank in range(self.ranks))
                raise ValueError(f"placement: ranks should hold equally many experts in layer {layer}, not {told}")
        if len({len(self.held(layer)[0]) for layer in range(len(self.holders))}) != 1:
            raise ValueError("placement: a rank should hold equally many experts in every layer")
        if not 1 <= self.near <= self.ranks:
            raise ValueError(f"placement: near={self.near} should be 1 to {self.ranks}, the ranks of a group")

    @property
    def experts(self) -> int:
        """That there are, copies not counted."""
        return len(self.holders[0])

    @property
    def held_experts(self) -> int:
        """That a rank holds."""
        return len(self.held(0)[0])

    def held(self, layer: int) -> npt.NDArray[np.int64]:
        """[rank, place]: the experts that each rank holds, in rising order."""
        return self._held[layer if len(self.holders) > 1 else 0]

    def shares(self, layer: int) -> Array:
        """[src, rank, place]: what part of the rows of src for this expert goes to the copy on this rank."""
        return self._shares[layer if len(self.holders) > 1 else 0]

    @cached_property
    def _held(self) -> list[npt.NDArray[np.int64]]:
        return [
            np.array([[e for e, ranks in enumerate(holders) if rank in ranks] for rank in range(self.ranks)])
            for holders in self.holders
        ]

    @cached_property
    def _shares(self) -> list[Array]:
        found = []
        for holders, held in zip(self.holders, self._held, strict=True):
            share = np.zeros((self.ranks, *held.shape))
            for rank, place in np.ndindex(*held.shape):
                for src in range(self.ranks):
                    chosen = _nearest(src, holders[held[rank, place]], self.near)
                    share[src, rank, place] = (rank in chosen) / len(chosen)
            found.append(share)
        return found


def _nearest(src: int, holders: Sequence[int], near: int) -> Sequence[int]:
    """The copies to which `src` sends."""
    if src in holders:
        return (src,)
    return [rank for rank in holders if rank // near == src // near] or holders


# ------------------------------------------------------------------------------------------- kinds of placement


def contiguous(experts: int, ranks: int) -> Placement:
    """The first experts on rank 0, and so on, as checkpoints are usually cut.  Raises ValueError if uneven."""
    _refuse_uneven(experts, ranks)
    each = experts // ranks
    return Placement(ranks, (tuple((e // each,) for e in range(experts)),), source="contiguous")


def balanced(loads: npt.ArrayLike, ranks: int, copies: int = 0, near: int = 1) -> Placement:
    """By `loads` [layer, expert], layer by layer: `copies` more go to the experts with most load a copy, one by one;
    then, most load a copy first, copies go to the ranks that hold fewest experts, and of those to the least loaded.

    Greedy (as deepseek-ai/EPLB packs).  Without copies, the loads of two ranks differ by no more than those of two
    experts.  Raises ValueError if copies cannot be shared out evenly, or are more than ranks can hold."""
    every = np.asarray(loads, dtype=np.float64)
    if every.ndim != 2 or not every.size or not (every >= 0).all():
        raise ValueError(f"placement: loads should be [layer, expert] and not negative, not\n{every}")
    experts = every.shape[1]
    _refuse_uneven(experts + copies, ranks, copies)
    if copies < 0 or experts + copies > experts * ranks:
        raise ValueError(f"placement: copies={copies} should be 0 to {experts * (ranks - 1)}: a rank holds one of each")
    holders = tuple(_packed(mine, ranks, copies) for mine in every)
    return Placement(ranks, holders, near, f"balanced, {copies} copies" if copies else "balanced")


def _packed(loads: Array, ranks: int, copies: int) -> Holders:
    number = np.ones(len(loads), dtype=np.int64)
    for _ in range(copies):
        number[np.argmax(np.where(number < ranks, loads / number, -1.0))] += 1
    full, held, holders = np.zeros(ranks), np.zeros(ranks, dtype=np.int64), dict[int, tuple[int, ...]]()
    for expert in np.argsort(-loads / number, kind="stable").tolist():
        # Fewest experts first: ranks then never differ by more than one, so there is room for all copies to the end.
        chosen = np.lexsort((full, held))[: number[expert]]
        full[chosen] += loads[expert] / number[expert]
        held[chosen] += 1
        holders[expert] = tuple(sorted(chosen.tolist()))
    return tuple(holders[expert] for expert in range(len(loads)))


def _refuse_uneven(held: int, ranks: int, copies: int = 0) -> None:
    if held % ranks:
        what = f"{held - copies} experts and {copies} copies" if copies else f"{held} experts"
        raise ValueError(f"placement: {what} cannot be spread evenly over {ranks} ranks")


def parse(text: str, experts: int, ranks: int, loads: Array | None) -> Placement:
    """The placement that `contiguous`, or `balanced copies=8 near=4`, writes, of experts on the ranks of a group.

    loads [layer, expert]: what balanced goes by; None where all experts have as much to do.  Raises ValueError for
    another word, or one without effect."""
    kind, *words = text.split() or [""]
    if kind not in ("contiguous", "balanced") or (words and kind == "contiguous"):
        raise ValueError(f"placement: cannot read {text!r}; it should be contiguous, or balanced copies=8 near=4")
    if ranks == 1:
        raise ValueError(f"placement: {text} has no effect: a group is one rank, which has all experts")
    if kind == "contiguous":
        return contiguous(experts, ranks)
    settings = {"copies": 0, "near": 1}
    for word in words:
        key, _, value = word.partition("=")
        if key not in settings or not value.isdecimal() or words.count(word) > 1:
            raise ValueError(f"placement: cannot read {word!r} of {text!r}; balanced takes copies=8 and near=4, once")
        settings[key] = int(value)
    if settings["near"] > 1 and not settings["copies"]:
        raise ValueError(f"placement: near={settings['near']} has no effect without copies to choose from")
    if loads is None:
        raise ValueError("placement: balanced has no effect where routing is balanced: record it, or model it")
    return balanced(loads, ranks, **settings)
