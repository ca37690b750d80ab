"""Exactness: many images at once, in any batches and for any number of ranks, are what the reference says of each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import BY_HAND, anything, model, named
from hypothesis import given, settings
from hypothesis import strategies as st

from realrun import exact
from realrun.exact import Shares, exact_images
from realrun.run import Settings, build_model, inputs
from realrun.verify import expected
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.workload import Workload

FLOAT64 = Settings(seed=3, dtype="float64")


def hold(schedule: Schedule, ranks: int, images: int, wire: str = "float64", dtype: Settings = FLOAT64) -> None:
    """Exact images and ages against the reference's, to 1e-10."""
    workload = Workload(model(schedule, classes=10), ranks, images, wire)
    right = expected(schedule, workload, dtype)
    numbers = range(ranks * images)
    network = build_model(workload.model, range(workload.model.experts), dtype)
    shares = Shares(ranks, images, wire)
    made = exact_images(schedule, network, numbers, *inputs(workload.model, numbers, dtype), shares=shares)
    atol = 1e-10 if dtype.dtype == "float64" else 2e-5
    torch.testing.assert_close(made.final_BCHW, right.final.flatten(0, 1), rtol=0, atol=atol)
    assert torch.equal(made.ages, right.ages)


@settings(max_examples=25)
@given(named(most_steps=5, most_layers=3, deciding=True), st.sampled_from([1, 2, 4]))
def test_every_named_schedule_on_any_number_of_ranks(schedule: Schedule, ranks: int) -> None:
    hold(schedule, ranks, images=1)


@settings(max_examples=25)
@given(anything())
def test_any_order_at_all(schedule: Schedule) -> None:
    hold(schedule, ranks=1, images=3)


@pytest.mark.parametrize("schedule", BY_HAND, ids=lambda schedule: schedule.name)
@pytest.mark.parametrize(("ranks", "images"), [(1, 4), (4, 1), (2, 3)])
def test_micro_batches_are_those_of_each_rank(schedule: Schedule, ranks: int, images: int) -> None:
    hold(schedule, ranks, images)


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "int8", "float8"])
@pytest.mark.parametrize("source", ["dice", "distrifusion", "data_parallel"])
def test_rows_take_the_round_trip_of_the_wire(source: str, wire: str) -> None:
    hold(load_schedule(source, 4, 2), ranks=2, images=2, wire=wire)


@pytest.mark.parametrize("source", ["sync", "dice", "interweaved conditional=random seed=5", "overlap"])
@pytest.mark.parametrize("tokens", [1, 96, 10_000])
def test_batches_do_not_interact(source: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image at a time, three, or all."""
    monkeypatch.setattr(exact, "_BATCH_TOKENS", tokens)
    hold(load_schedule(source, 4, 2), ranks=4, images=2)


def test_without_effect_of_guidance_one_half_is_enough() -> None:
    schedule = load_schedule("interweaved conditional=random micro_batches=2", 4, 2)
    workload, settings = Workload(model(schedule, classes=10), 2, 2, "float64"), replace(FLOAT64, guidance=1.0)
    network = build_model(workload.model, range(8), settings)
    made = exact_images(schedule, network, range(4), *inputs(workload.model, range(4), settings), 1.0, Shares(2, 2))
    right = expected(schedule, workload, settings)
    torch.testing.assert_close(made.final_BCHW, right.final.flatten(0, 1), rtol=0, atol=1e-10)
    assert made.ages.sum() == right.ages.sum() // 2


def test_float32_differs_by_its_rounding_only() -> None:
    hold(load_schedule("dice", 4, 2), ranks=2, images=4, wire="float32", dtype=Settings(seed=3))


def test_any_subset_of_the_images_can_be_made() -> None:
    schedule, shape = load_schedule("overlap conditional=random", 3, 2), {"classes": 10}
    network = build_model(model(schedule, **shape), range(8), FLOAT64)
    draw: Any = lambda numbers: inputs(network.shape, numbers, FLOAT64)  # noqa: E731
    shares = Shares(ranks=2, images=4)
    whole = exact_images(schedule, network, range(8), *draw(range(8)), shares=shares)
    some = exact_images(schedule, network, range(3, 6), *draw(range(3, 6)), shares=shares)
    torch.testing.assert_close(some.final_BCHW, whole.final_BCHW[3:6], rtol=0, atol=1e-10)
