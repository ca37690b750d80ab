"""The points of a sweep: grids, draws, filters, keys (what a row says of one: tests/test_sweep_rows.py)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sweeps import SMALL, Make, every

from sim.sweeps.points import Points, row_keys


def test_a_grid_has_every_combination_once(make: Make) -> None:
    points = Points(make(SMALL))
    assert len(points) == 18
    found = {(p["schedule"], p["images"], p["times.cluster.link.bytes_per_s"]) for p in every(points)}
    assert found == {(s, i, f) for s in ("sync", "displaced", "dice") for i in (1, 2) for f in (0.5, 1, 2)}
    assert points.borders == [0, 6, 12, 18]


def test_filters_leave_out_points_and_nothing_else(make: Make) -> None:
    points = Points(make(SMALL + "filters: [images < 2 or schedule != 'sync', steps == 3]"))
    kept = [p for p in every(Points(make(SMALL))) if p["images"] < 2 or p["schedule"] != "sync"]
    assert sorted(map(str, every(points))) == sorted(map(str, kept))
    assert points.before_filters - len(points) == 3
    with pytest.raises(ValueError, match="none of 18 points is left by images > 9"):
        Points(make(SMALL + "filters: [images > 9]"))


@pytest.mark.parametrize("kind", ["random", "latin", "sobol"])
def test_drawn_points_are_seeded_in_range_and_together_by_list_of_ops(make: Make, kind: str) -> None:
    text = SMALL.replace("[1, 2]", "{low: 1, high: 64}").replace("[0.5, 1, 2]", "{low: 0.1, high: 10, scale: log}")
    drawn = {seed: every(Points(make(f"{text}\nplan: {{kind: {kind}, points: 256, seed: {seed}}}"))) for seed in (0, 1)}
    assert drawn[0] == every(Points(make(f"{text}\nplan: {{kind: {kind}, points: 256, seed: 0}}")))
    assert drawn[0] != drawn[1]
    images = [p["images"] for p in drawn[0]]
    factors = np.array([p["times.cluster.link.bytes_per_s"] for p in drawn[0]])
    assert {type(n) for n in images} == {int}
    assert 1 <= min(images) < 8 < 56 < max(images) <= 64
    assert 0.1 <= factors.min() < 0.2 < 5 < factors.max() <= 10
    assert 0.35 < (factors < 1).mean() < 0.65  # evenly on the logarithmic axis
    schedules = [p["schedule"] for p in drawn[0]]
    assert sum(a != b for a, b in pairwise(schedules)) == 2


def test_points_drawn_twice_are_there_once(make: Make) -> None:
    points = Points(make(SMALL + "plan: {kind: random, points: 500}"))
    assert len(points) == 18
    assert len({*map(str, every(points))}) == 18


def test_keys_tell_points_apart_and_know_them_again(make: Make) -> None:
    sweep = make(SMALL)
    points = Points(sweep)
    keys = row_keys(points.chunk(0, 6), sweep.sources) + row_keys(points.chunk(6, 18), sweep.sources)
    assert len({*keys}) == 18
    assert keys[2:5] == row_keys(points.chunk(2, 5), sweep.sources)
    other = make(SMALL.replace("schedule: [sync, displaced, dice]", "schedule: [dice]").replace("[1, 2]", "[2]"))
    assert {*row_keys(Points(other).chunk(0, 3), other.sources)} < {*keys}
    same = make(SMALL.replace("steps: 3", "steps: 3, wire: bfloat16"))  # the default, said
    assert row_keys(Points(same).chunk(0, 6), same.sources) == keys[:6]
