"""Two candidate causes at once: which pairs leave nothing to explain, as far as the data can tell.

Each with the parameter set anew, and by the engines of single causes (causes.py).  It knows predictions; it refuses
to know why a cause should hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from calibration.reproduction.causes import Cause, causes
from calibration.reproduction.draws import interval
from calibration.reproduction.predict import PUBLISHED, READINGS, Case, predict_many

Tell = Callable[[str], None]
Spread = Sequence[tuple[float, float]]  # [published] ends of what draws say, over their median


def contradict(one: Cause, other: Cause) -> bool:
    """Whether both cannot hold: two values of one thing, or a cost of what the other leaves out."""
    return not one.about.isdisjoint(other.about)


def pairs(reading: str) -> list[tuple[str, str, Case]]:
    """(cause, other cause, the case with both)."""
    base = Case(READINGS[reading])
    found = []
    for one, other in combinations(causes(reading), 2):
        if one.change and other.change and not contradict(one, other):
            found.append((one.name, other.name, other.change(one.change(base))))
    return found


def found(reading: str, tell: Tell) -> list[dict[str, Any]]:
    """A row a pair: what it leaves of each published number."""
    tell(f"{reading}: pairs of causes")
    listed = pairs(reading)
    made = predict_many([case for *_, case in listed])
    return [
        {"pair": [one, other], "residual": [round(prediction.residual(each), 4) for each in PUBLISHED]}
        for (one, other, _), prediction in zip(listed, made, strict=True)
    ]


def spread(draws: Sequence[Sequence[float]]) -> Spread:
    """How far all that is unknown spreads each prediction about its median."""
    ends = [interval(draws, number) for number in range(len(PUBLISHED))]
    return [(low / middle, high / middle) for low, middle, high in ends]


def inside(residual: Sequence[float], within: Spread, rounding: float) -> bool:
    """Whether every published number (give or take its rounding) lies in that spread about its prediction."""
    for left, (low, high), each in zip(residual, within, PUBLISHED, strict=True):
        predicted = each.speed_up * (1 + left)
        if not predicted * low - rounding <= each.speed_up <= predicted * high + rounding:
            return False
    return True


def worst(row: Mapping[str, Any]) -> float:
    """The largest residual of a row."""
    return float(max(map(abs, row["residual"])))
