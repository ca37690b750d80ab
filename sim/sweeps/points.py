"""The points of a sweep by number: which settings point 0, 1, 2, ... has, as columns.

Points of one list of ops stand together, and among them those of one workload, so that engines can take many at once.
A grid needs no memory but for what filters leave; drawn points are kept.  It knows numbers and columns; it refuses to
know what settings mean."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.sweeps.formula import Formula
from sim.sweeps.point import Sources
from sim.sweeps.settings import DEFAULTS
from sim.sweeps.sweep import Axis, Plan, Sweep

Numbers = npt.NDArray[Any]
_AT_ONCE = 2**18
_STRUCTURE = ("schedule", "steps", "model")  # and their dotted settings: what decides the list of ops
_MACHINE = ("cluster.", "times.", "seed")  # settings that change no shapes, beside the cluster itself


@dataclass(frozen=True)
class Column:
    """One setting of many points: `values` where `codes` says which; or, without values, `codes` are the values."""

    codes: Numbers
    values: tuple[Any, ...] = ()

    @property
    def cells(self) -> Numbers:
        """[point] values: numbers where all are (None is nan), else objects."""
        if not self.values:
            return self.codes
        return as_cells(self.values)[self.codes]

    def __getitem__(self, which: Any) -> Column:
        return Column(self.codes[which], self.values)


def as_cells(values: Sequence[Any]) -> Numbers:
    """An array of values: numbers where all are (None is nan), else objects."""
    if all(isinstance(value, int | float) or value is None for value in values):
        return np.array([math.nan if value is None else float(value) for value in values])
    cells = np.empty(len(values), object)
    cells[:] = values
    return cells


@dataclass(frozen=True)
class Chunk:
    """Points first to last - 1, all of one list of ops.  constant: what they share; varying: what they do not;
    stretch: how many points of the sweep have that list."""

    first: int
    last: int
    constant: Mapping[str, Any]
    varying: Mapping[str, Column]
    kinds: Mapping[str, str]  # setting -> kind of column
    stretch: int = 1

    def __len__(self) -> int:
        return self.last - self.first

    def point(self, i: int) -> dict[str, Any]:
        """The settings of its i-th point."""
        own = {}
        for key, column in self.varying.items():
            code = column.codes[i].item()
            own[key] = column.values[code] if column.values else code
        return {**self.constant, **own}

    def __getitem__(self, part: slice) -> Chunk:
        first, last, _ = part.indices(len(self))
        varying = {key: column[first:last] for key, column in self.varying.items()}
        return Chunk(self.first + first, self.first + last, self.constant, varying, self.kinds, self.stretch)


class Points:
    """All points of `sweep`, in an order that depends on nothing else.

    Raises ValueError if filters leave none."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.axes = sorted(sweep.axes, key=lambda axis: _rank(axis.key))
        self._grid = sweep.plan.kind == "grid"
        self._drawn = [] if self._grid else _drawn(self.axes, sweep.plan)
        drawn = sweep.plan.points or 0
        self.before_filters = math.prod(len(axis.values) for axis in self.axes) if self._grid else drawn
        self._kept: Numbers | None = None
        if sweep.filters or not self._grid:
            self._kept = self._filtered()
        if not len(self):
            told = " and ".join(sweep.filters)
            raise ValueError(f"filters: none of {self.before_filters} points is left by {told}")

    def __len__(self) -> int:
        return self.before_filters if self._kept is None else len(self._kept)

    @cached_property
    def borders(self) -> list[int]:
        """Where the list of ops changes: the first of each stretch, and the number of points."""
        structural = [i for i, axis in enumerate(self.axes) if _rank(axis.key) == 0]
        if self._kept is None:
            step = math.prod(len(axis.values) for axis in self.axes[len(structural) :])
            return [*range(0, len(self) + 1, step)]
        changes = [np.zeros(1, bool)]
        for first, last in _stretches(len(self)):
            codes = self._codes(max(0, first - 1), last)
            changed = np.zeros(last - max(0, first - 1) - 1, bool)
            for i in structural:
                changed |= np.diff(codes[i]) != 0
            changes.append(changed)
        return [0, *np.flatnonzero(np.concatenate(changes)).tolist(), len(self)]

    def columns(self, first: int, last: int) -> dict[str, Column]:
        """What axes say of points first to last - 1."""
        codes = self._codes(first, last)
        return {axis.key: Column(mine, axis.values) for axis, mine in zip(self.axes, codes, strict=True)}

    def chunk(self, first: int, last: int) -> Chunk:
        """Points first to last - 1, which have one list of ops."""
        constant, varying = dict(self.sweep.base), {}
        for key, column in self.columns(first, last).items():
            if (column.codes == column.codes[0]).all():
                code = column.codes[0].item()
                constant[key] = column.values[code] if column.values else code
            else:
                varying[key] = column
        border = bisect_right(self.borders, first)
        stretch = self.borders[border] - self.borders[border - 1]
        return Chunk(first, last, constant, varying, self.sweep.kinds, stretch)

    def _codes(self, first: int, last: int) -> list[Numbers]:
        which = np.arange(first, last) if self._kept is None else self._kept[first:last]
        if not self._grid:
            return [drawn[which] for drawn in self._drawn]
        if not self.axes:
            return []
        return [*np.unravel_index(which, [len(axis.values) for axis in self.axes])]

    def _filtered(self) -> Numbers:
        """Numbers of the points that every filter leaves; of drawn ones in order, and each once."""
        filters = [Formula(text) for text in self.sweep.filters]
        kept, total = [], self.before_filters
        for first, last in _stretches(total):
            columns = {**self._constants(last - first), **{k: c.cells for k, c in self.columns(first, last).items()}}
            mask = np.ones(last - first, bool)
            for formula in filters:
                mask &= formula.mask(columns)
            kept.append(first + np.flatnonzero(mask))
        found = np.concatenate(kept) if kept else np.zeros(0, int)
        if self._grid:
            return found
        order = np.lexsort([drawn[found] for drawn in reversed(self._drawn)])
        new = np.ones(len(found), bool)
        new[1:] = np.any([np.diff(drawn[found][order]) != 0 for drawn in self._drawn], axis=0)
        return found[order][new]

    def _constants(self, rows: int) -> dict[str, Numbers]:
        said = {**DEFAULTS, **self.sweep.base}
        return {key: np.broadcast_to(as_cells([value]), (rows,)) for key, value in said.items()}


def _rank(key: str) -> int:
    """0: decides the list of ops; 1: the workload, or the cluster's kind; 2: numbers of the machine."""
    if key in _STRUCTURE or key.startswith(("schedule.", "model.")):
        return 0
    return 2 if key.startswith(_MACHINE) else 1


def _stretches(total: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, _AT_ONCE):
        yield first, min(total, first + _AT_ONCE)


def _drawn(axes: Sequence[Axis], plan: Plan) -> list[Numbers]:
    """[axis][point]: codes of values, or values of a range, drawn over all axes at once (scipy.stats.qmc)."""
    points, seed = plan.points or 0, plan.seed or 0
    unit = _unit(plan.kind, len(axes), points, seed)
    found: list[Numbers] = []
    for axis, share in zip(axes, unit.T, strict=True):
        if axis.values:
            found.append(np.minimum((share * len(axis.values)).astype(np.int32), len(axis.values) - 1))
            continue
        low, high = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
        if axis.whole and not axis.log:
            low, high = low - 0.5, high + 0.5
        values = low + share * (high - low)
        values = np.exp(values) if axis.log else values
        found.append(np.clip(np.rint(values), axis.low, axis.high).astype(np.int64) if axis.whole else values)
    return found


def _unit(kind: str, axes: int, points: int, seed: int) -> Numbers:
    """[point, axis] in [0, 1)."""
    if kind == "random":
        return np.random.default_rng(seed).random((points, axes))
    from scipy.stats import qmc

    if kind == "latin":
        return np.asarray(qmc.LatinHypercube(axes, rng=np.random.default_rng(seed)).random(points))
    sampler = qmc.Sobol(axes, rng=np.random.default_rng(seed))
    return np.asarray(sampler.random_base2(max(0, math.ceil(math.log2(points))))[:points])


# ------------------------------------------------------------------------------------------------- keys


def row_keys(chunk: Chunk, sources: Sources) -> list[str]:
    """[point] 16 hexadecimal digits: the hash of all its settings, files' contents included, defaults filled in.

    Equal for equal points of any two sweeps.  Of a million others, two are equal once in 40 million sweeps."""
    total = np.zeros(len(chunk), np.uint64)
    for key, value in {**DEFAULTS, **chunk.constant}.items():
        if key not in chunk.varying:
            total += _hashed(key, (value,), sources)[0]
    for key, column in chunk.varying.items():
        if column.values:
            total += _hashed(key, column.values, sources)[column.codes]
        else:
            total += _mixed(column.codes.astype(np.float64).view(np.uint64) ^ _word(key))
    return [f"{each:016x}" for each in _mixed(total).tolist()]


def _hashed(key: str, values: Sequence[Any], sources: Sources) -> npt.NDArray[np.uint64]:
    found = np.empty(len(values), np.uint64)
    for i, value in enumerate(values):
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[i] = _mixed(np.array([float(value)]).view(np.uint64) ^ _word(key))[0]
        else:
            found[i] = 0 if value is None else _word(f"{key}={value} {sources.digest(key, value)}")
    return found


def _word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()))


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit spread over all (splitmix64's finaliser, Steele 2014)."""
    for shift, factor in [(30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)]:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))
