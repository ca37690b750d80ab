"""Predictions with everything unknown drawn at once, and what the published numbers tell of what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.reproduction.machine import RANGES, Doubt, draw
from calibration.reproduction.predict import FEW_STEPS, IMAGES, PUBLISHED, READINGS, STEPS, Case, predict

DRAWS = 30  # for each reading; the same doubts in each
NEAREST = 0.1  # of all draws: those that the published numbers do not rule out
FEW_IMAGES = (8, 16, 32)  # a rank in the runs of ten steps, of which nothing is published
Array = npt.NDArray[np.float64]
Tell = Callable[[str], None]


def case(reading: str, seed: int) -> Case:
    """One draw: of the machine, and of the images of the runs of ten steps."""
    few = FEW_IMAGES[np.random.default_rng([seed, 1]).integers(len(FEW_IMAGES))]
    return Case(READINGS[reading], draw(seed), {STEPS: IMAGES, FEW_STEPS: int(few)})


def one(reading: str, seed: int) -> list[float]:
    """Speed-ups [published] of one draw."""
    made = predict(case(reading, seed))
    return [round(made.speed_up(each), 4) for each in PUBLISHED]


def drawn(tell: Tell, draws: int = DRAWS) -> dict[str, list[list[float]]]:
    """Reading -> speed-ups [draw][published]."""
    found: dict[str, list[list[float]]] = {reading: [] for reading in READINGS}
    for seed in range(draws):
        for reading, mine in found.items():
            tell(f"{reading}: draw {seed + 1} of {draws}")
            mine.append(one(reading, seed))
    return found


def interval(speed_ups: Sequence[Sequence[float]], number: int) -> tuple[float, float, float]:
    """5th percentile, median, 95th, of one published number."""
    low, middle, high = np.percentile([row[number] for row in speed_ups], [5, 50, 95])
    return float(low), float(middle), float(high)


def told(speed_ups: dict[str, list[list[float]]]) -> dict[str, Any]:
    """What the draws nearest to all published numbers at once have in common.

    Distance: the largest |log(predicted / published)|.  For each unknown, the ends of the nearest draws beside those of
    all; "readings": how many of the nearest are of which."""
    targets = np.log([each.speed_up for each in PUBLISHED])
    every = [(reading, seed) for reading, rows in speed_ups.items() for seed in range(len(rows))]
    miss: Array = np.abs(np.log([speed_ups[r][seed] for r, seed in every]) - targets).max(axis=1)
    nearest = np.argsort(miss, kind="stable")[: max(2, round(NEAREST * len(every)))]
    doubts = {seed: draw(seed) for _, seed in every}
    mine: list[Doubt] = [doubts[every[i][1]] for i in nearest]
    ends = {key: [_ends([getattr(d, key) for d in some]) for some in (doubts.values(), mine)] for key in RANGES}
    return {
        "nearest": len(nearest),
        "farthest_miss": round(float(np.expm1(miss[nearest].max())), 4),
        "least_miss": round(float(np.expm1(miss.min())), 4),
        "readings": {reading: sum(every[i][0] == reading for i in nearest) for reading in speed_ups},
        "ends": ends,
    }


def _ends(values: Sequence[float]) -> list[float]:
    return [float(f"{end:.3g}") for end in (min(values), max(values))]
