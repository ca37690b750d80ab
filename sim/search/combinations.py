"""All settings that lists of values and whole numbers can be combined to: how many there are, and one not tried yet.

It knows axes and combinations; it refuses to know what they come to, or who asks for them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations, product
from random import Random
from typing import Any

from sim.sweeps.sweep import Axis

COUNTED = 10**5  # values of an axis; of a wider range of whole numbers hardly one is drawn twice


def possible(axes: Sequence[Axis]) -> int | None:
    """How many combinations there are; None where an axis is a range of numbers that are not whole, or too wide."""
    sizes = [len(values_of(axis)) for axis in axes]
    return math.prod(sizes) if all(0 < size <= COUNTED for size in sizes) else None


def values_of(axis: Axis) -> Sequence[Any]:
    """Every value that an axis may have; () where they cannot be counted."""
    if axis.values or not axis.whole:
        return axis.values
    return range(int(axis.low), int(axis.high) + 1)


def nearest(
    asked: Sequence[Any], axes: Sequence[Axis], tried: Collection[tuple[Any, ...]], random: Random
) -> tuple[Any, ...] | None:
    """A combination that was not tried, which differs from `asked` in as few axes as possible; None if all were."""
    for count in range(len(axes) + 1):
        for changed in _shuffled(combinations(range(len(axes)), count), random):
            others = [_shuffled((v for v in values_of(axes[i]) if v != asked[i]), random) for i in changed]
            for values in product(*others):
                found = dict(zip(changed, values, strict=True))
                other = tuple(found.get(i, value) for i, value in enumerate(asked))
                if other not in tried:
                    return other
    return None


def _shuffled(items: Iterable[Any], random: Random) -> list[Any]:
    found = [*items]
    random.shuffle(found)
    return found
