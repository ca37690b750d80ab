"""Placements: where experts live, where rows then go, and that none is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import anything, cluster, model, skewed
from hypothesis import given
from hypothesis import strategies as st

from sim.engine import simulate
from sim.load import load_schedule
from sim.memory import memory
from sim.mesh import Mesh
from sim.placement import Placement, balanced, contiguous, parse
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import sync
from sim.workload import Workload

Loads = npt.NDArray[np.float64]


def routed(schedule: Schedule, ranks: int = 4, seed: int = 0, **changes: Any) -> Workload:
    workload = Workload(model(schedule), ranks, images=2, **changes)
    return replace(workload, routing=skewed(schedule, workload, seed))


def loads_of(workload: Workload) -> Loads:
    assert workload.routing is not None
    return np.asarray(workload.routing.counts.sum(axis=(0, 2, 3, 4)))


def uneven(seed: int, layers: int = 2, experts: int = 8) -> Loads:
    return np.random.default_rng(seed).exponential(1.0, (layers, experts))


# ------------------------------------------------------------------------------------------------ the kinds


def round_robin(experts: int, ranks: int) -> Placement:
    """Expert e on rank e mod ranks: what no placement means."""
    return Placement(ranks, (tuple((e % ranks,) for e in range(experts)),))


@given(anything(), st.integers(0, 9))
def test_said_or_not_round_robin_is_the_same(schedule: Schedule, seed: int) -> None:
    without = routed(schedule, seed=seed)
    placed = replace(without, placement=round_robin(8, 4))
    a, b = (simulate(schedule, workload, cluster(4)) for workload in (without, placed))
    np.testing.assert_array_equal(a.end_s, b.end_s)


def test_contiguous_experts_are_neighbours() -> None:
    assert contiguous(8, 4).held(0).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    schedule = sync(1, 2)
    workload = routed(schedule).fits(schedule)
    assert workload.routing is not None
    op = schedule.ops[schedule.position["D0.1"]]
    to = workload.routing.counts[0, 1, 0].sum(axis=0)  # [src, expert]
    rows = replace(workload, placement=contiguous(8, 4)).rows(schedule, op)
    np.testing.assert_array_equal(rows, to.reshape(4, 4, 2).sum(axis=2))


@given(st.integers(0, 999), st.sampled_from([2, 4]))
def test_balanced_ranks_differ_by_no_more_than_experts_do(seed: int, ranks: int) -> None:
    loads = uneven(seed)
    for mine, layer in zip(loads, range(2), strict=True):
        full = mine[balanced(loads, ranks).held(layer)].sum(axis=1)
        assert full.max() - full.min() <= mine.max() - mine.min() + 1e-12


@given(st.integers(0, 999), st.sampled_from([4, 8, 16, 24]), st.sampled_from([1, 2]))
def test_copies_go_to_the_most_loaded_and_are_on_different_ranks(seed: int, copies: int, near: int) -> None:
    loads = uneven(seed)
    placement = balanced(loads, 4, copies, near)
    for layer, holders in enumerate(placement.holders):
        number = np.array([len(ranks) for ranks in holders])
        assert number.sum() == 8 + copies
        order = np.argsort(loads[layer])
        assert (np.diff(number[order]) >= 0).all(), "who has more to do has no fewer copies"
    np.testing.assert_allclose(placement.shares(0).sum(), 4 * 8, err_msg="every source sends each expert's rows once")


# ------------------------------------------------------------------------------------------ rows go somewhere


@given(st.integers(0, 99), st.sampled_from([0, 8]), st.sampled_from([1, 2]))
def test_no_row_is_lost_or_sent_twice(seed: int, copies: int, near: int) -> None:
    schedule = sync(2, 2)
    workload = routed(schedule, ranks=8, seed=seed, mesh=Mesh(data=2, expert=4))
    placed = replace(workload, placement=balanced(loads_of(workload), 4, copies, near)).fits(schedule)
    for op in schedule.ops:
        if op.kind in "DEC":
            rows = placed.rows(schedule, op)
            np.testing.assert_allclose(rows.sum(axis=1), 2 * workload.tokens)
            assert not rows[:4, 4:].any()
            np.testing.assert_allclose(placed.expert_rows(schedule, op).sum(axis=1), rows.sum(axis=0))


def test_a_row_stays_at_home_or_near_if_it_can() -> None:
    """Expert 0 on ranks 0, 2 and 3; of ranks 2 and 3, and of 0 and 1, each two are near each other."""
    holders = ((0, 2, 3), (1,), (1,), (0,), (2,), (3,))
    for near, of_rank_1 in [(1, [1 / 3, 1 / 3, 1 / 3]), (2, [1, 0, 0])]:
        shares = Placement(4, (holders,), near).shares(0)[:, [0, 2, 3], 0]
        np.testing.assert_allclose(shares[1], of_rank_1)
        np.testing.assert_allclose(shares[[0, 2, 3]], np.eye(3))


def test_balance_shortens_experts_and_copies_shorten_them_more_for_memory() -> None:
    schedule = sync(3, 2)
    workload = Workload(model(schedule, hidden=256, heads=4), 4, images=8)
    workload = replace(workload, routing=Routing.skewed(workload.model, 4, workload.tokens, 3, imbalance=3.0, seed=1))
    loads = loads_of(workload)
    kinds = [None, balanced(loads, 4), balanced(loads, 4, copies=8)]
    placed = [replace(workload, placement=kind) for kind in kinds]
    times = [simulate(schedule, each, cluster(4)).makespan_s for each in placed]
    assert times[0] > times[1] > times[2]
    weights = [memory(schedule, each).bytes_of["weights"] for each in placed]
    assert weights[0] == weights[1] < weights[2]
    assert "placement" in simulate(schedule, placed[2], cluster(4)).about


def test_layers_may_differ_under_one_routing() -> None:
    """Costs are told apart by layer even if token counts are not."""
    schedule = sync(1, 2)
    workload = routed(schedule)
    assert workload.routing is not None
    same = replace(workload, routing=Routing(workload.routing.counts[:, :1]))
    a, b = contiguous(8, 4).holders[0], round_robin(8, 4).holders[0]
    ends = [
        simulate(schedule, replace(same, placement=Placement(4, holders)), cluster(4)) for holders in [(a, b), (a,)]
    ]
    took = [(trace.end_s - trace.start_s)[:, schedule.position["E0.1"]] for trace in ends]
    assert (took[0] != took[1]).any()


# ----------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: contiguous(8, 3), "8 experts cannot be spread evenly over 3 ranks"),
        (lambda: balanced(uneven(0), 4, 3), "8 experts and 3 copies cannot be spread evenly over 4 ranks"),
        (lambda: balanced(uneven(0), 4, 28), "copies=28 should be 0 to 24: a rank holds one of each"),
        (lambda: balanced(-uneven(0), 4), r"loads should be \[layer, expert\] and not negative"),
        (lambda: Placement(2, (((0,), ()),)), r"expert 1 of layer 0 is on ranks \[\]; it should be on one or more"),
        (lambda: Placement(2, (((0,), (2,)),)), r"expert 1 of layer 0 is on ranks \[2\]"),
        (lambda: Placement(2, (((0,), (0,)),)), "equally many experts in layer 0, not 0: 2, 1: 0"),
        (lambda: Placement(2, (((0,), (1,)), ((0, 1), (0, 1)))), "equally many experts in every layer"),
        (lambda: Placement(2, (((0,), (1,)),), near=3), "near=3 should be 1 to 2"),
        (lambda: parse("random", 8, 4, None), "cannot read 'random'; it should be contiguous, or balanced"),
        (lambda: parse("contiguous", 8, 1, None), "contiguous has no effect: a group is one rank"),
        (lambda: parse("balanced", 8, 4, None), "balanced has no effect where routing is balanced"),
        (lambda: parse("balanced near=2", 8, 4, uneven(0)), "near=2 has no effect without copies"),
        (lambda: parse("balanced copies=x", 8, 4, uneven(0)), "cannot read 'copies=x'"),
    ],
)
def test_a_placement_that_cannot_be_is_named(make: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make()


@pytest.mark.parametrize(
    ("schedule", "placement", "why"),
    [
        (
            load_schedule("data_parallel", 1, 1),
            contiguous(8, 4),
            "contiguous has no effect: schedule data_parallel has",
        ),
        (sync(1, 1), contiguous(8, 2), "placement is of 8 experts on 2 ranks; there are 8 on 4"),
        (sync(1, 1), balanced(uneven(0), 4), "placement has 2 layers, model small 1"),
    ],
)
def test_a_placement_that_does_not_fit_is_refused(schedule: Schedule, placement: Placement, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Workload(model(schedule), 4, 2, placement=placement).fits(schedule)


def test_a_placement_reads_as_it_is_written() -> None:
    loads = uneven(0)
    assert parse("balanced copies=8 near=2", 8, 4, loads) == balanced(loads, 4, 8, 2)
    assert parse("contiguous", 8, 4, None) == contiguous(8, 4)
