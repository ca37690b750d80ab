"""The critical path: as long as the run, made of what the run waited for, and right about what would shorten it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import anything, cluster, interfering, machines, model, named, skewed
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster import COMPUTE_KINDS, Cluster, Host, Link, Rate
from sim.critical import HOST, CriticalPath, critical_path, gains_s, what_if
from sim.engine import simulate
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

SEEDS, RANKS = st.integers(0, 99), st.sampled_from([1, 2, 4])
FREE = Host()  # runs ahead, costs nothing
PICOSECOND = 1e-12


def traced(schedule: Schedule, machine: Cluster, seed: int) -> Trace:
    workload = Workload(model(schedule), machine.ranks, images=2)
    return simulate(schedule, replace(workload, routing=skewed(schedule, workload, seed)), machine)


def shorter(trace: Trace, rank: int, i: int, factor: float = 0.0) -> float:
    """The makespan if one op took `factor` of its time."""
    factors = np.ones((1, *trace.end_s.shape))
    factors[0, rank, i] = factor
    return float(what_if(trace, factors)[0])


def assert_joined(path: CriticalPath) -> None:
    """From the first start to the last end, without a gap, each piece inside the span of its op."""
    trace = path.trace
    assert path.segments[0].begin_s == trace.start_s.min()
    assert path.segments[-1].end_s == trace.end_s.max()
    for before, after in pairwise(path.segments):
        assert before.end_s == after.begin_s
    for segment in path.segments:
        at = trace.schedule.position[segment.name]
        if segment.kind != HOST:
            assert segment.kind == trace.schedule.ops[at].kind
            assert segment.begin_s == trace.start_s[segment.rank, at]
            assert segment.end_s <= trace.end_s[segment.rank, at] + 1e-9
        else:
            assert segment.end_s <= trace.start_s[segment.rank, at] + 1e-9
    assert sum(path.seconds(lambda s: s.kind).values()) == pytest.approx(trace.makespan_s)


@given(anything() | named(), RANKS.flatmap(machines), SEEDS, st.booleans())
def test_the_path_is_as_long_as_the_run(schedule: Schedule, machine: Cluster, seed: int, slow: bool) -> None:
    assert_joined(critical_path(traced(schedule, interfering(machine, 0.3, 0.2) if slow else machine, seed)))


@given(anything() | named(), RANKS.flatmap(machines), SEEDS)
def test_without_a_host_in_the_way_nothing_but_ops_is_on_the_path(
    schedule: Schedule, machine: Cluster, seed: int
) -> None:
    path = critical_path(traced(schedule, replace(machine, host=FREE), seed))
    assert HOST not in path.seconds(lambda segment: segment.kind)


@given(anything() | named(), RANKS.flatmap(machines), SEEDS, st.booleans())
def test_durations_as_they_were_give_the_trace_back(
    schedule: Schedule, machine: Cluster, seed: int, slow: bool
) -> None:
    trace = traced(schedule, interfering(machine, 0.3, 0.2) if slow else machine, seed)
    assert what_if(trace, np.ones((1, *trace.end_s.shape)))[0] == pytest.approx(trace.makespan_s, rel=1e-12)


@given(anything() | named(), RANKS.flatmap(machines), SEEDS, st.randoms())
def test_what_is_not_on_the_path_cannot_shorten_the_run_and_removing_its_slack_changes_nothing(
    schedule: Schedule, machine: Cluster, seed: int, random: Any
) -> None:
    trace = traced(schedule, machine, seed)
    on = {(segment.rank, segment.name) for segment in critical_path(trace).segments if segment.kind != HOST}
    off = [
        (rank, i)
        for rank in range(trace.ranks)
        for i, op in enumerate(schedule.ops)
        if (rank, op.name) not in on and not trace.on_communication[i]
    ]
    factors = np.ones((1, *trace.end_s.shape))
    for rank, i in random.sample(off, min(3, len(off))):
        assert shorter(trace, rank, i) == pytest.approx(trace.makespan_s, rel=1e-12)
        factors[0, rank, i] = 0.5
    assert what_if(trace, factors)[0] == pytest.approx(trace.makespan_s, rel=1e-12)


@given(anything() | named(), RANKS.flatmap(machines), SEEDS)
def test_the_longer_an_op_takes_the_longer_the_run_by_that_much_if_it_is_on_the_path(
    schedule: Schedule, machine: Cluster, seed: int
) -> None:
    trace = traced(schedule, machine, seed)
    last = max(critical_path(trace).segments, key=lambda segment: (segment.kind != HOST) * segment.end_s)
    at = schedule.position[last.name]
    more = trace.end_s[last.rank, at] - trace.start_s[last.rank, at]
    assert shorter(trace, last.rank, at, 2.0) == pytest.approx(trace.makespan_s + more)


@given(
    anything() | named(), RANKS.flatmap(machines), SEEDS, st.sampled_from("APSERDC"), st.sampled_from([0.5, 0.9]),
    st.booleans(),
)  # fmt: skip
def test_a_faster_kind_of_op_brings_what_simulating_it_says(
    schedule: Schedule, machine: Cluster, seed: int, kind: str, left: float, synchronous: bool
) -> None:
    """Of a machine whose durations do not depend on each other; a host that computes itself costs time, too."""
    host = Host(2e-6, 3e-6, 1e-6, synchronous=True) if synchronous else FREE
    assert isinstance(machine.link, Link)
    assert not isinstance(machine.compute, Gpu)
    link = replace(machine.link, latency_s=0.0, counts_s=0.0)
    machine = replace(machine, host=host, link=link)
    trace = traced(schedule, machine, seed)
    alike = {"D": "DCK", "C": "DCK", "A": "AQ"}  # over the same links; at the same rate
    faster = alike.get(kind, kind)
    factors = np.ones((1, *trace.end_s.shape))
    factors[..., [op.kind in faster for op in schedule.ops]] = left
    if kind in "DC":
        machine = replace(machine, link=replace(link, bytes_per_s=link.bytes_per_s / left))
    else:
        rate = machine.compute[kind]
        rates = {**machine.compute, kind: Rate(rate.fixed_s * left, rate.flops_per_s / left)}
        machine = replace(machine, compute=rates)
    again = traced(schedule, machine, seed).makespan_s
    assert again == pytest.approx(float(what_if(trace, factors)[0]), abs=2 * len(schedule.ops) * PICOSECOND)


# ----------------------------------------------------------------------------------------------- by hand

Spans = dict[str, list[tuple[float, float, float]]]
ONE_LAYER = "x steps=1 layers=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0"


def drawn(spans: Spans, about: dict[str, str] | None = None) -> Trace:
    """A trace by (reached, start, end) [rank] of each op."""
    schedule = Schedule.parse(ONE_LAYER)
    times = np.array([spans[op.name] for op in schedule.ops]).transpose(2, 1, 0)
    return Trace(schedule, "simulated", *times, np.zeros((1, 1, 2), int), about or {})


def lockstep(
    attention_s: tuple[float, float] = (2, 3), gap_s: float = 0.0
) -> dict[str, list[tuple[float, float, float]]]:
    """Two ranks, of which the second attends longer; S ends before D does.  The host issues E `gap_s` late."""
    spans: dict[str, list[tuple[float, float, float]]] = {"P0": [(0, 0, 1)] * 2}
    spans["A0.0"] = [(1, 1, 1 + s) for s in attention_s]
    last = 1 + max(attention_s)
    spans["D0.0"] = [(1 + s, last, last + 4) for s in attention_s]
    spans["S0.0"] = [(1 + s, 1 + s, 2 + s) for s in attention_s]
    now = last + 4 + gap_s
    spans["E0.0"] = [(now, now, now + 2), (now, now, now + 1)]
    spans["C0.0"] = [(now + 2, now + 2, now + 5), (now + 1, now + 2, now + 5)]
    for name in ("R0.0", "F0", "Z0"):
        start = {"R0.0": now + 5, "F0": now + 6, "Z0": now + 7}[name]
        spans[name] = [(start, start, start + 1)] * 2
    return spans


def names(path: CriticalPath) -> list[tuple[int, str, str]]:
    return [(segment.rank, segment.kind, segment.name) for segment in path.segments]


def test_it_goes_through_the_rank_that_came_last() -> None:
    path = critical_path(drawn(lockstep()))
    assert names(path) == [
        (1, "P", "P0"), (1, "A", "A0.0"), (0, "D", "D0.0"), (0, "E", "E0.0"), (0, "C", "C0.0"), (0, "R", "R0.0"),
        (0, "F", "F0"), (0, "Z", "Z0"),
    ]  # fmt: skip
    assert path.seconds(lambda segment: segment.rank) == {0: 12.0, 1: 4.0}


def test_gains_stop_where_another_chain_is_as_long() -> None:
    trace = drawn(lockstep(), {"host": "runs ahead"})
    cases = [("A", None), ("A", 0), ("A", 1), ("S", None), ("E", 0), ("E", 1), ("D", None), ("C", 0)]
    gains = gains_s(trace, cases, 0.5)
    #                     both 1.5   slack  to rank 0's 2   E: rank 1's 1 is next
    assert gains.tolist() == [1.5, 0.0, 1.0, 0.0, 1.0, 0.0, 2.0, 0.0]


def test_time_that_the_host_takes_is_the_hosts() -> None:
    late = critical_path(drawn(lockstep(gap_s=0.5), {"host": "computes itself"}))
    assert (0, HOST, "E0.0") in names(late)
    assert late.seconds(lambda segment: segment.kind)[HOST] > 0.5
    ahead = drawn(lockstep(gap_s=0.5), {"host": "runs ahead"})
    assert names(critical_path(ahead))[0] == (0, HOST, "E0.0"), "issued when it was, whatever came before"
    assert gains_s(ahead, [("A", None)], 0.5).tolist() == [0.0]


def test_stamps_that_overlap_a_little_are_no_obstacle() -> None:
    """Clocks of measured traces: an op seems to begin before what it needs has ended."""
    trace = drawn(lockstep())
    early = replace(trace, start_s=trace.start_s - 1e-4 * (np.arange(9) > 1), reached_s=trace.reached_s)
    path = critical_path(early)
    assert_joined_loosely(path)
    assert what_if(early, np.ones((1, 2, 9)))[0] == pytest.approx(early.makespan_s, abs=1e-3)


def assert_joined_loosely(path: CriticalPath) -> None:
    assert path.segments[0].begin_s == path.trace.start_s.min()
    assert all(a.end_s == b.begin_s for a, b in pairwise(path.segments))
    assert sum(path.seconds(lambda s: s.name).values()) == pytest.approx(path.trace.makespan_s)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="a share of 0 to 1 less time, not"):
        gains_s(drawn(lockstep()), [("A", None)], share)


@pytest.mark.parametrize("factors", [np.ones((2, 9)), np.ones((1, 2, 8)), np.full((1, 2, 9), -1.0)])
def test_factors_of_another_shape_are_refused(factors: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"factors \[case, rank, op\] should be at least 0"):
        what_if(drawn(lockstep()), factors)


def test_a_run_of_xl_is_quick() -> None:
    import time

    schedule = load_schedule("interweaved", 50, 28)
    trace = traced(schedule, cluster(8), 0)
    began_s = time.process_time()
    critical_path(trace)
    gains_s(trace, [(kind, None) for kind in COMPUTE_KINDS], 0.1)
    assert time.process_time() - began_s < 3.0


def test_a_measured_op_that_begins_a_little_late_still_waited_for_what_ended_last() -> None:
    """Handing over takes time on a real machine; only where a simulated op is late was its host the reason."""
    late = lockstep(gap_s=0.01)
    measured = replace(drawn(late, {"host": "computes itself"}), origin="measured")
    path = critical_path(measured)
    assert {(0, "D", "D0.0"), (1, "A", "A0.0"), (0, HOST, "E0.0")} <= {*names(path)}
    assert path.seconds(lambda segment: segment.kind)[HOST] == pytest.approx(0.01)
    assert gains_s(measured, [("A", None)], 0.5)[0] == pytest.approx(1.5)
    assert what_if(measured, np.ones((1, 2, 9)))[0] == pytest.approx(measured.makespan_s)
