"""The simulated machine against recurrences, closed forms and bounds that know nothing of SimPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cases import anything, cluster, interfering, machines, model, named, skewed
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.cluster import COMPUTE_KINDS, Cluster, Host, Link, Rate
from sim.cost import durations_s
from sim.engine import simulate
from sim.fluid import Fluid
from sim.load import load_schedule
from sim.op import Op
from sim.routing import Routing
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

Ticks = npt.NDArray[np.int64]
SEEDS, RANKS = st.integers(0, 99), st.sampled_from([1, 2, 4])
PICOSECOND = 1e-12


def routed(schedule: Schedule, ranks: int, seed: int) -> Workload:
    workload = Workload(model(schedule), ranks, images=2)
    return replace(workload, routing=skewed(schedule, workload, seed)).fits(schedule)


def joined(schedule: Schedule) -> Schedule:
    """The same on one communicator, so that no two transfers are ever in flight."""
    return replace(schedule, ops=tuple(op._replace(communicator=0) if op.collective else op for op in schedule.ops))


def spans(trace: Trace) -> npt.NDArray[np.float64]:
    return np.array([trace.reached_s, trace.start_s, trace.end_s])


def ticks(schedule: Schedule, workload: Workload, machine: Cluster) -> Ticks:
    """Picoseconds [op, rank] of every op alone."""
    return np.rint(durations_s(schedule, workload, machine) * 1e12).astype(np.int64)


# ------------------------------------------------------------------------------------------- recurrence


def by_link(schedule: Schedule, workload: Workload, machine: Cluster, op: Op) -> npt.NDArray[np.float64]:
    """Bytes [link] of a collective that moves rows, on the links that it waits for; none of one that moves counts."""
    sent = workload.sent_bytes(schedule, op) if op.kind != "N" else np.zeros((machine.ranks, machine.ranks))
    if machine.link.scope == "pair":
        return sent.ravel()
    return np.concatenate([sent.sum(axis=0), np.zeros(0) if machine.link.buffered else sent.sum(axis=1)])


def by_recurrence(schedule: Schedule, workload: Workload, machine: Cluster) -> npt.NDArray[np.float64]:
    """Reached, start and end [3, rank, op] first-in first-out: the latest of what an op waits for, in one pass."""
    alone = ticks(schedule, workload, machine)
    launch, collective, wake = (
        round(s * 1e12) for s in (machine.host.launch_s, machine.host.collective_s, machine.host.wake_s)
    )
    host = np.zeros(machine.ranks, np.int64)
    free = {"compute": host, "communication": host}
    burst = round(machine.link.burst_bytes / machine.link.bytes_per_s * 1e12)
    latency, landed, carried = round(machine.link.latency_s * 1e12), -burst, np.zeros(0)
    end: dict[str, Ticks] = {}
    times = []
    for op, duration in zip(schedule.ops, alone, strict=True):
        talks = op.stream == "communication"
        host = host + (collective if talks else launch)
        reached = np.max([host + wake * talks, free[op.stream], *(end[name] for name in schedule.inputs(op))], axis=0)
        start = reached
        if talks:
            start = np.full_like(reached, reached.max())
            loads = by_link(schedule, workload, machine, op)
            if carried.any() and loads.any():  # the link that is now the fullest may have been free earlier
                rest_bytes = carried.max() - max(b for b, now in zip(carried, loads, strict=True) if now == loads.max())
                landed -= round(rest_bytes / machine.link.bytes_per_s * 1e12)
            saved = 0 if op.kind == "N" else min(burst, start[0] - landed)
            duration = np.maximum(duration - saved, np.minimum(duration, latency))
            landed, carried = (start + duration).max(), loads
        free[op.stream] = end[op.name] = start + duration
        if op.blocks or (machine.host.synchronous and op.stream == "compute"):
            host = np.maximum(host, end[op.name])
        times.append((reached, start, end[op.name]))
    whole = np.array(times).transpose(1, 2, 0)
    return (whole - whole[1].min()) / 1e12


@settings(max_examples=150)
@given(anything() | named(), RANKS.flatmap(lambda ranks: machines(ranks, bursts=True)), SEEDS)
def test_without_interference_it_is_the_recurrence_to_the_last_bit(
    schedule: Schedule, machine: Cluster, seed: int
) -> None:
    schedule = joined(schedule)
    workload = routed(schedule, machine.ranks, seed)
    np.testing.assert_array_equal(
        spans(simulate(schedule, workload, machine)), by_recurrence(schedule, workload, machine)
    )


@given(anything(), RANKS.flatmap(lambda ranks: machines(ranks, bursts=True)), SEEDS)
def test_factors_of_zero_change_no_bit(schedule: Schedule, machine: Cluster, seed: int) -> None:
    workload = routed(schedule, machine.ranks, seed)
    plain = spans(simulate(schedule, workload, machine))
    np.testing.assert_array_equal(spans(simulate(schedule, workload, interfering(machine, 0.0, 0.0))), plain)
    with pytest.MonkeyPatch.context() as patch:  # the code that a factor above 0 runs through
        patch.setattr(Fluid, "flows", property(lambda self: True, lambda self, value: None), raising=False)
        np.testing.assert_array_equal(spans(simulate(schedule, workload, machine)), plain)


# ----------------------------------------------------------------------------------------- interference


def one_beside_the_other(shared_s: float, transfer_s: float, compute: float, communication: float) -> Trace:
    """D beside S, and nothing else of any length; C beside nothing."""
    schedule = Schedule.parse("x steps=1 layers=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0")
    rates = {kind: Rate(shared_s if kind == "S" else 0.0, 1e30) for kind in COMPUTE_KINDS}
    machine = cluster(compute=rates, link=Link(transfer_s, 1e30))
    return simulate(schedule, Workload(model(schedule), 2, 2), interfering(machine, compute, communication))


def seconds(trace: Trace, name: str) -> float:
    start, end = trace.span_s(0, trace.schedule.ops[trace.schedule.position[name]])
    return end - start


def test_compute_beside_a_long_transfer_takes_one_plus_its_factor() -> None:
    assert seconds(one_beside_the_other(1.0, 5.0, compute=0.25, communication=0.0), "S0.0") == 1.25


def test_a_transfer_beside_long_compute_takes_one_plus_its_factor() -> None:
    assert seconds(one_beside_the_other(5.0, 1.0, compute=0.0, communication=0.25), "D0.0") == 1.25


def test_nothing_is_slow_alone() -> None:
    trace = one_beside_the_other(1.0, 2.0, compute=0.5, communication=0.0)
    assert seconds(trace, "C0.0") == 2.0
    assert one_beside_the_other(0.0, 2.0, 9.0, 9.0).makespan_s == 4.0


@given(st.floats(0.1, 5), st.floats(0.1, 5), st.floats(0, 2), st.floats(0, 2))
def test_both_slow_down_until_the_first_is_done(work_s: float, transfer_s: float, slow: float, drag: float) -> None:
    trace = one_beside_the_other(work_s, transfer_s, slow, drag)
    together = min(work_s * (1 + slow), transfer_s * (1 + drag))
    assert seconds(trace, "S0.0") == pytest.approx(together + work_s - together / (1 + slow), abs=3 * PICOSECOND)
    assert seconds(trace, "D0.0") == pytest.approx(together + transfer_s - together / (1 + drag), abs=3 * PICOSECOND)


def overlap(start: float, end: float, others: list[tuple[float, float]]) -> float:
    """Seconds of one span that lie in at least one of the others."""
    covered, until = 0.0, start
    for begin, stop in sorted(others):
        covered += max(0.0, min(stop, end) - max(begin, until))
        until = max(until, min(stop, end))
    return covered


@given(anything(), RANKS.flatmap(machines), SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_every_op_gets_exactly_its_work_done(
    schedule: Schedule, machine: Cluster, seed: int, slow: float, drag: float
) -> None:
    workload = routed(schedule, machine.ranks, seed)
    trace = simulate(schedule, workload, interfering(machine, slow, drag))
    alone = ticks(schedule, workload, machine) / 1e12
    talks = trace.on_communication
    every = np.stack([trace.start_s, trace.end_s], axis=-1).tolist()
    talking = [[every[rank][i] for i in np.flatnonzero(talks)] for rank in range(machine.ranks)]
    computing = [[every[rank][i] for i in np.flatnonzero(~talks)] for rank in range(machine.ranks)]
    for i, op in enumerate(schedule.ops):
        for rank in range(machine.ranks):
            start, end = every[rank][i]
            beside = overlap(start, end, sum(computing, []) if talks[i] else talking[rank])  # noqa: RUF017
            done = end - start - beside + beside / (1 + (drag if talks[i] else slow))
            assert done == pytest.approx(alone[i, rank], abs=len(schedule.ops) * machine.ranks * PICOSECOND), op


@given(anything(), RANKS.flatmap(machines), SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_interference_never_speeds_a_run_up(
    schedule: Schedule, machine: Cluster, seed: int, slow: float, drag: float
) -> None:
    workload = routed(schedule, machine.ranks, seed)
    free, slowed = (simulate(schedule, workload, m) for m in (machine, interfering(machine, slow, drag)))
    assert (slowed.end_s >= free.end_s - len(schedule.ops) * PICOSECOND).all()


def test_an_idle_link_lets_a_burst_pass_and_a_busy_one_does_not() -> None:
    schedule = Schedule.parse("x steps=1 layers=1\nP0 A0.0 N0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0")
    free = dict.fromkeys(COMPUTE_KINDS, Rate(0.0, 1e30))
    workload = Workload(model(schedule), 2, 2).fits(schedule)
    sent = workload.sent_bytes(schedule, schedule.ops[schedule.position["D0.0"]]).max()
    link = Link(1.0, sent / 10, burst_bytes=0.4 * sent)
    trace = simulate(schedule, workload, cluster(compute=free, link=link))
    assert [seconds(trace, "D0.0"), seconds(trace, "C0.0")] == [1 + 10, 1 + 10]
    for rest_s, saved_s in [(3.0, 3), (9.0, 4)]:
        rested = simulate(schedule, workload, cluster(compute={**free, "E": Rate(rest_s, 1e30)}, link=link))
        assert seconds(rested, "C0.0") == pytest.approx(1 + 10 - saved_s), "idle seconds are saved up, four at most"


def test_a_combine_finds_links_that_have_rested_while_its_dispatch_ended() -> None:
    schedule = Schedule.parse("x steps=1 layers=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0")
    counts = np.zeros((1, 1, 1, 2, 2, 8))
    counts[..., 0, 0, :2] = 32.0  # rank 0 sends half of its rows of slot 0, rank 1 all: twice as many
    counts[..., 0, 1, 0] = counts[..., 1, 0, 2] = counts[..., 1, 1, 3] = 64.0
    workload = Workload(model(schedule), 2, 2, routing=Routing(counts)).fits(schedule)
    there, back = (workload.sent_bytes(schedule, schedule.ops[schedule.position[name]]) for name in ("D0.0", "C0.0"))
    assert (there[1, 0], there[0, 1]) == (back[0, 1], back[1, 0]) == (2 * there[0, 1], back[0, 1] / 2)
    free, rate = dict.fromkeys(COMPUTE_KINDS, Rate(0.0, 1e30)), there.max() / 10
    for burst_s, saved_s in [(3.0, 3.0), (7.0, 5.0)]:  # from rank 0 to rank 1 nothing has gone for 5 s
        link = Link(1.0, rate, "pair", burst_bytes=burst_s * rate)
        trace = simulate(schedule, workload, cluster(compute=free, link=link))
        assert seconds(trace, "C0.0") == pytest.approx(1 + 10 - saved_s)


def test_a_rank_ends_when_its_own_rows_have_come() -> None:
    schedule = load_schedule("sync", 2, 1)
    counts = np.zeros((1, 1, 1, 2, 2, 8))
    counts[..., [0, 2]] = 32  # every token of both slots goes to experts of rank 0
    workload = Workload(model(schedule), 2, 2, routing=Routing(counts))
    for buffered, wait in [(True, False), (False, True)]:
        trace = simulate(schedule, workload, cluster(link=Link(0.0, 1e6, buffered=buffered)))
        end = trace.end_s[:, schedule.position["D0.0"]]
        assert (end[1] == end[0]) == wait, "rank 1 receives nothing, but sends"


# ------------------------------------------------------------------------------------------------ noise


def test_a_seed_decides_the_noise_to_the_last_bit() -> None:
    schedule = load_schedule("interweaved", 4, 3)
    workload, machine = Workload(model(schedule), 2, 2), cluster(jitter={"A": 0.05, "D": 0.05})
    runs = [spans(simulate(schedule, workload, machine, seed)) for seed in (7, 7, 8, None)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert not np.array_equal(runs[0], runs[3])


def test_noise_has_the_spread_that_the_cluster_says_and_is_shared_by_a_collective() -> None:
    schedule = load_schedule("sync", 100, 5)
    workload, machine = Workload(model(schedule), 2, 2), cluster(jitter={"A": 0.1, "D": 0.2})
    alone = durations_s(schedule, workload.fits(schedule), machine).T
    trace = simulate(schedule, workload, machine, seed=0)
    noise = np.log((trace.end_s - trace.start_s) / alone)
    kinds = np.array([op.kind for op in schedule.ops])
    for kind, sigma in {"A": 0.1, "D": 0.2, "S": 0.0, "C": 0.0}.items():
        assert noise[:, kinds == kind].std() == pytest.approx(sigma, rel=0.1, abs=1e-6)
    np.testing.assert_array_equal(trace.end_s[0, kinds == "D"], trace.end_s[1, kinds == "D"])
    assert abs(np.corrcoef(noise[:, kinds == "A"])[0, 1]) < 0.1, "ranks have noise of their own"


def test_a_seed_that_would_change_nothing_is_refused() -> None:
    schedule = load_schedule("sync", 2, 2)
    for jitter in ({}, {"N": 0.1}):
        with pytest.raises(ValueError, match="seed has no effect: cluster test has no jitter for the ops of sync"):
            simulate(schedule, Workload(model(schedule), 2, 2), cluster(jitter=jitter), seed=1)


# ------------------------------------------------------------------------------- bounds and closed forms


def round_machine(ranks: int = 2, transfer_s: float = 4.0, **changes: Any) -> Cluster:
    """Whole seconds: P, A, S, E, R, F, Z take 1 .. 7, a transfer `transfer_s`."""
    rates = {kind: Rate(i + 1.0, 1e30) for i, kind in enumerate(COMPUTE_KINDS)}
    return cluster(ranks, **{"compute": rates, "link": Link(transfer_s, 1e30), **changes})


@pytest.mark.parametrize("transfer_s", [1.0, 4.0])
def test_sync_is_the_sum_of_what_it_waits_for(transfer_s: float) -> None:
    schedule = load_schedule("sync", 5, 3)
    trace = simulate(schedule, Workload(model(schedule), 2, 2), round_machine(transfer_s=transfer_s))
    p, a, s, e, r, f, z = range(1, 8)
    step = p + 3 * (a + max(transfer_s, s) + e + transfer_s + r) + f + z
    assert trace.makespan_s == 5 * step
    assert trace.step_s.tolist() == [step] * 5


@pytest.mark.parametrize("name", ["displaced", "interweaved"])
@pytest.mark.parametrize("transfer_s", [1.0, 9.0])
def test_a_steady_stale_step_takes_the_busier_stream(name: str, transfer_s: float) -> None:
    schedule = load_schedule(name, 40, 6)
    trace = simulate(schedule, Workload(model(schedule), 2, 2), round_machine(transfer_s=transfer_s))
    compute, communication = 1 + 6 * (2 + 3 + 4 + 5) + 6 + 7, 6 * 2 * transfer_s
    assert trace.step_s[25:28].tolist() == [max(compute, communication)] * 3


def longest_chain_s(schedule: Schedule, alone: npt.NDArray[np.float64]) -> float:
    """Seconds with as many streams as it takes: only inputs are waited for, and other ranks."""
    end: dict[str, npt.NDArray[np.float64]] = {}
    for op, duration in zip(schedule.ops, alone, strict=True):
        ready = np.max([np.zeros(len(duration)), *(end[name] for name in schedule.inputs(op))], axis=0)
        end[op.name] = (ready.max() if op.stream == "communication" else ready) + duration
    return float(max(e.max() for e in end.values()))


@given(anything(), RANKS.flatmap(machines), SEEDS, st.sampled_from([0.0, 0.5]))
def test_no_run_is_shorter_than_its_busiest_stream_or_longest_chain(
    schedule: Schedule, machine: Cluster, seed: int, factor: float
) -> None:
    workload = routed(schedule, machine.ranks, seed)
    trace = simulate(schedule, workload, interfering(machine, factor, factor))
    alone = ticks(schedule, workload, machine) / 1e12
    a_bit_more = trace.makespan_s * (1 + 1e-9) + len(schedule.ops) * PICOSECOND
    assert a_bit_more >= alone[trace.on_communication].sum(axis=0).max()
    assert a_bit_more >= alone[~trace.on_communication].sum(axis=0).max()
    assert a_bit_more >= longest_chain_s(schedule, alone)


@given(anything(), RANKS.flatmap(machines), SEEDS, st.floats(1, 10))
def test_a_slower_link_makes_no_op_earlier(schedule: Schedule, machine: Cluster, seed: int, slower: float) -> None:
    workload, link = routed(schedule, machine.ranks, seed), machine.link
    slow = replace(machine, link=replace(link, bytes_per_s=link.bytes_per_s / slower))
    assert (simulate(schedule, workload, slow).end_s >= simulate(schedule, workload, machine).end_s).all()


@given(named(), st.sampled_from([0.0, 0.3]))
def test_eight_equal_ranks_are_two_equal_ranks_with_the_same_traffic_a_port(schedule: Schedule, factor: float) -> None:
    assume(not schedule.sharded_patches)  # what is gathered grows with the ranks

    def run(ranks: int, bytes_per_s: float) -> Trace:
        machine = interfering(cluster(ranks, link=Link(1e-6, bytes_per_s)), factor, factor)
        return simulate(schedule, Workload(model(schedule, experts=16), ranks, images=2), machine)

    two, eight = run(2, 4e9), run(8, 7e9)  # of what a rank has routed, 4/8 and 7/8 leave it
    np.testing.assert_allclose(eight.end_s[:2], two.end_s, rtol=0, atol=len(schedule.ops) * PICOSECOND)
    np.testing.assert_array_equal(eight.end_s, eight.end_s[:1].repeat(8, axis=0))


def test_the_slowest_rank_decides() -> None:
    schedule = load_schedule("sync", 2, 1)
    counts = np.zeros((1, 1, 1, 2, 2, 8))
    counts[..., [0, 2]] = 32  # every token of both slots goes to experts of rank 0
    workload = Workload(model(schedule), 2, 2, routing=Routing(counts))
    trace = simulate(schedule, workload, round_machine(compute=dict.fromkeys(COMPUTE_KINDS, Rate(0.0, 1e6))))
    experts, combine = schedule.position["E0.0"], schedule.position["C0.0"]
    assert trace.end_s[0, experts] > trace.end_s[1, experts] == trace.start_s[1, experts]
    assert trace.reached_s[1, combine] == trace.end_s[1, experts]
    assert trace.start_s[:, combine].tolist() == [trace.end_s[0, experts]] * 2


def test_a_host_that_waits_issues_late() -> None:
    text = "x steps=1 layers=1\nP0 A0.0 D0.0{} S0.0 E0.0 C0.0 R0.0<0 F0 Z0"
    free, waits = (
        simulate(schedule, Workload(model(schedule), 2, 2), round_machine())
        for schedule in (Schedule.parse(text.format(mark)) for mark in ("", "!"))
    )
    shared = free.schedule.position["S0.0"]
    assert free.start_s[0, shared] == 1 + 2
    assert waits.start_s[0, shared] == 1 + 2 + 4


@pytest.mark.parametrize("synchronous", [True, False])
def test_launches_cost_time_where_the_host_is_slower_than_the_device(synchronous: bool) -> None:
    schedule = load_schedule("sync", 1, 1)
    machine = round_machine(transfer_s=0.0, host=Host(100.0, 100.0, synchronous=synchronous))
    trace = simulate(schedule, Workload(model(schedule), 2, 2), machine)
    computed = 1 + 2 + 3 + 4 + 5 + 6 + 7 if synchronous else 7
    assert trace.makespan_s == 8 * 100 + computed, "from the first op's start to the last one's end"


def test_a_run_of_a_century_is_still_counted_right() -> None:
    schedule = load_schedule("sync", 1, 1)
    trace = simulate(schedule, Workload(model(schedule), 2, 2), round_machine(transfer_s=1.6e9))
    assert trace.makespan_s == pytest.approx(2 * 1.6e9)


def test_misfits_are_refused() -> None:
    schedule = load_schedule("sync", 2, 3)
    with pytest.raises(ValueError, match="workload has 4 ranks, but cluster test has 2"):
        simulate(schedule, Workload(model(schedule), 4, 2), cluster(2))
    with pytest.raises(ValueError, match="schedule sync has layers=3, but model small has layers=2"):
        simulate(schedule, Workload(model(schedule, layers=2), 2, 2), cluster(2))
    with pytest.raises(ValueError, match="the schedule ends without Z1"):
        simulate(replace(schedule, ops=schedule.ops[:-1]), Workload(model(schedule), 2, 2), cluster(2))


def test_a_trace_says_what_made_it() -> None:
    schedule = load_schedule("sync", 2, 3)
    trace = simulate(schedule, Workload(model(schedule), 2, 2), cluster(jitter={"A": 0.1}), seed=5)
    assert trace.origin == "simulated"
    assert trace.about.items() >= {"cluster": "test", "model": "small", "ranks": "2", "seed": "5"}.items()
    assert trace.staleness.tolist() == schedule.staleness()
