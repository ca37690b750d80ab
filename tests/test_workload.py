"""Rows and bytes: what is sent is received, experts live where they should, and misfits are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_HAND, anything, model, skewed
from hypothesis import given
from hypothesis import strategies as st

from sim.routing import Routing
from sim.schedule import Op, Schedule
from sim.schedules import sync
from sim.workload import MODELS, Workload

RANKS = st.sampled_from([1, 2, 4, 8])


def routed(schedule: Schedule, ranks: int, seed: int = 0) -> Workload:
    workload = Workload(model(schedule), ranks, images=2)
    return replace(workload, routing=skewed(schedule, workload, seed)).fits(schedule)


def kind(schedule: Schedule, *kinds: str) -> list[Op]:
    return [op for op in schedule.ops if op.kind in kinds]


@given(anything(), RANKS, st.integers(0, 99))
def test_every_token_is_sent_once_a_slot(schedule: Schedule, ranks: int, seed: int) -> None:
    workload = routed(schedule, ranks, seed)
    for op in kind(schedule, "D"):
        sent = len(schedule.slots_sent(op)) * workload.tokens / schedule.micro_batches
        np.testing.assert_array_equal(workload.rows(schedule, op).sum(axis=1), np.full(ranks, sent))


@given(anything(), RANKS)
def test_experts_and_combine_carry_what_their_dispatch_carries(schedule: Schedule, ranks: int) -> None:
    workload = routed(schedule, ranks)
    for op in kind(schedule, "D"):
        experts, combine = (op._replace(kind=k, slots=()) for k in "EC")
        np.testing.assert_array_equal(workload.rows(schedule, experts), workload.rows(schedule, op))
        np.testing.assert_array_equal(workload.sent_bytes(schedule, combine), workload.sent_bytes(schedule, op).T)


def test_rows_go_to_the_rank_that_holds_the_expert() -> None:
    schedule = sync(2, 3)
    workload = routed(schedule, ranks=4)
    assert workload.routing is not None
    counts = workload.routing.counts
    assert len({counts[s, l].tobytes() for s in range(2) for l in range(3)}) == 6  # noqa: E741
    for op in kind(schedule, "D"):
        want = np.zeros((4, 4))
        for slot, src, expert in np.ndindex(2, 4, 8):
            assert workload.home(expert) == expert % 4
            want[src, expert % 4] += counts[op.step, op.layer, 0, slot, src, expert]
        np.testing.assert_array_equal(workload.rows(schedule, op), want)


def test_only_the_slots_and_the_micro_batch_of_a_chain_travel() -> None:
    halves, conditional = BY_HAND
    for schedule, name, part, slots in [(conditional, "D1.0", 0, [0]), (halves, "D0.1b", 1, [0, 1])]:
        op, workload = schedule.ops[schedule.position[name]], routed(schedule, ranks=8)
        assert workload.routing is not None
        want = workload.routing.counts[op.step, op.layer, part, slots].sum(axis=0)  # with 8 ranks: expert is rank
        np.testing.assert_array_equal(workload.rows(schedule, op), want)


def test_rows_of_one_step_or_layer_serve_all() -> None:
    schedule = sync(3, 2)
    workload = Workload(model(schedule), 2, 2)
    one = Routing(skewed(schedule, workload, 0).counts[:1, :1])
    workload = replace(workload, routing=one).fits(schedule)
    first, *rest = (workload.rows(schedule, op) for op in kind(schedule, "D"))
    assert all((rows == first).all() for rows in rest)


def test_bytes_are_rows_times_hidden_times_element_size_and_nothing_stays_on_a_link() -> None:
    schedule = sync(1, 28)
    workload = Workload(MODELS["XL"], ranks=8, images=16).fits(schedule)
    sent = workload.sent_bytes(schedule, schedule.ops[schedule.position["D0.5"]])
    assert (sent.diagonal() == 0).all()
    # Both halves of 16 images of 256 tokens, top-2, 1152 elements of 2 bytes: 37.7 MB, of which an eighth stays.
    np.testing.assert_allclose(sent.sum(axis=1), 2 * 16 * 256 * 2 * 1152 * 2 * 7 / 8)
    in_four_bytes = replace(workload, wire="float32").sent_bytes(schedule, schedule.ops[schedule.position["D0.5"]])
    np.testing.assert_array_equal(in_four_bytes, 2 * sent)


def test_routing_saves_and_loads_back(tmp_path: Path) -> None:
    schedule = sync(2, 2)
    routing = replace(skewed(schedule, Workload(model(schedule), 4, 2), 1), source="a run")
    routing.save(tmp_path / "routing.npz")
    loaded = Routing.load(tmp_path / "routing.npz")
    np.testing.assert_array_equal(loaded.counts, routing.counts)
    assert loaded.source == "a run"


# -------------------------------------------------------------------------------------------- misfits


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layers": 0}, "model small: layers=0 should be a whole number above 0"),
        ({"hidden": 16.0}, "model small: hidden=16.0 should be a whole number above 0"),
        ({"heads": 3}, "model small: hidden=16 is not divisible by 3"),
        ({"latent": 9}, "model small: latent=9 is not divisible by 2"),
        ({"top_k": 9}, "model small: top_k=9 of only 8 experts"),
    ],
)
def test_an_impossible_model_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        model(sync(1, 1), **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ranks": 0}, "workload: ranks=0 should be at least 1"),
        ({"images": -1}, "workload: images=-1 should be at least 1"),
        ({"wire": "int4"}, "workload: unknown wire 'int4'; known: float64"),
    ],
)
def test_an_impossible_workload_is_refused(changes: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Workload(model(sync(1, 1)), **{"ranks": 2, "images": 2, **changes})


def counts(*shape: int, each: float = 4.0) -> Routing:
    return Routing(np.full(shape, each))


@pytest.mark.parametrize(
    ("schedule", "changes", "why"),
    [
        (sync(2, 3), {}, r"schedule sync has layers=3, but model small has layers=2"),
        (sync(2, 2, top_k=1), {}, r"schedule sync has top_k=1, but model small has top_k=2"),
        (replace(sync(2, 2), micro_batches=3), {}, r"4 rows of images \(with guidance\) do not divide into 3 micro-"),
        (sync(2, 2), {"ranks": 3}, r"8 experts cannot be spread evenly over 3 ranks"),
        (sync(2, 2), {"ranks": 16}, r"8 experts cannot be spread evenly over 16 ranks"),
        (replace(sync(2, 2), pieces=3), {}, r"sync cuts the experts of a rank into pieces=3, which has 4"),
        (replace(sync(2, 2), patches="sharded"), {"ranks": 8}, r"shares out patches, but 4 rows of them over 8 ranks"),
        (sync(2, 2), {"routing": counts(3, 2, 1, 2, 2, 8)}, r"has shape \(3, 2, .*\); .* need \(2, 2, 1, 2, 2, 8\)"),
        (sync(2, 2), {"routing": counts(2, 2, 1, 1, 2, 8)}, r"routing recorded has shape"),
        (replace(sync(2, 2), micro_batches=2), {"routing": counts(2, 2, 1, 2, 2, 8)}, r"routing recorded has shape"),
        (sync(2, 2), {"routing": counts(1, 1, 1, 2, 4, 8)}, r"routing recorded has shape"),
        (
            sync(2, 2),
            {"routing": counts(1, 1, 1, 2, 2, 8, each=5)},
            r"routes 40 to 40 tokens of a rank; 2 images .* 64",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule: Schedule, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Workload(model(sync(2, 2)), **{"ranks": 2, "images": 2, **changes}).fits(schedule)


@pytest.mark.parametrize(
    ("shape", "each", "why"),
    [((2, 8), 1, r"should be \[step, layer, .*\], not of shape \(2, 8\)"), ((1,) * 6, -1, "not negative"),
     ((1,) * 6, np.nan, "finite")],
)  # fmt: skip
def test_counts_that_count_nothing_are_refused(shape: tuple[int, ...], each: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        counts(*shape, each=each)


def test_a_trace_is_told_everything_about_the_workload() -> None:
    about = Workload(MODELS["G"], ranks=8, images=4, wire="float32").about()
    told = {"model": "G", "model.layers": "40", "model.qk_norm": "True", "ranks": "8", "images": "4", "wire": "float32"}
    assert about.items() >= {**told, "routing": "balanced"}.items()
