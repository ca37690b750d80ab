"""Transfers in flight together against sums by hand, invariants, and runs in which there is only one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from cases import cluster, model, skewed
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy import Environment
from simpy.events import Timeout

from sim import plan
from sim.cluster import COMPUTE_KINDS, Cluster, Host, Interference, Link, Rate
from sim.engine import simulate
from sim.fluid import Fluid
from sim.load import load_schedule
from sim.passes import on_communicators
from sim.schedule import Schedule
from sim.trace import Trace
from sim.transfers import sharing
from sim.transfers.fabric import Fabric
from sim.transfers.moving import Moving
from sim.transfers.network import Network, Resource, Route
from sim.transfers.sharing import Sharing
from sim.transfers.stage import Crowd, Run
from sim.workload import Workload

Array = npt.NDArray[np.float64]
FREE = dict.fromkeys(COMPUTE_KINDS, Rate(0.0, 1e30))
HALVES = """
halves steps=1 layers=1 micro_batches=2
P0 A0.0a A0.0b D0.0a D0.0b{b} S0.0a S0.0b E0.0a E0.0b C0.0a C0.0b{b} R0.0a<0 R0.0b<0 F0 Z0
"""
SWITCH = Network({"port": Resource(1e3)}, (Route(8, ("port",)),))
HOSTED = Network(
    {"port": Resource(20.0), "bridge": Resource(30.0, 2), "host": Resource(40.0, 8, duplex=False)},
    (Route(2, ("port",)), Route(8, ("port", "bridge", "host"))),
)
TWO_STEPS = replace(HOSTED, all_to_all="hierarchical")  # within bridges, between them, within


def span(trace: Trace, name: str, rank: int = 0) -> tuple[float, float]:
    return trace.span_s(rank, trace.schedule.ops[trace.schedule.position[name]])


def halves(second: str, link: Link | Network, **changes: object) -> Trace:
    schedule = Schedule.parse(HALVES.format(b=second)).check()
    machine = replace(cluster(2, compute=FREE, link=link), **changes)
    return simulate(schedule, Workload(model(schedule), 2, 2), machine)


# ------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize("link", [SWITCH, Link(0.0, 1e3), Link(0.0, 1e3, "pair", buffered=True)])
def test_two_communicators_have_half_of_the_link_each(link: Link | Network) -> None:
    after, beside = halves("", link), halves("@1", link)
    alone = span(after, "D0.0a")[1]
    assert [span(after, f"D0.0{half}") for half in "ab"] == [(0, alone), (alone, 2 * alone)]
    for half in "ab":
        assert span(beside, f"D0.0{half}") == (0, pytest.approx(2 * alone))
    assert beside.makespan_s == pytest.approx(after.makespan_s), "nothing is gained on a full link"


def test_latencies_of_two_communicators_pass_together() -> None:
    link = replace(SWITCH, resources={"port": Resource(1e30, latency_s=1.0)})
    assert halves("", link).makespan_s == pytest.approx(4.0)
    assert halves("@1", link).makespan_s == pytest.approx(2.0)


def test_a_transfer_that_starts_later_shares_what_is_left_of_the_first() -> None:
    """A0.0b takes until a third of D0.0a is done; then both share, and when D0.0a is over C0.0a takes its place."""
    schedule = Schedule.parse(HALVES.format(b="@1")).check()
    workload = Workload(model(schedule), 2, 2)
    alone = span(halves("", SWITCH), "D0.0a")[1]
    machine = cluster(2, compute={**FREE, "A": Rate(alone / 3, 1e30)}, link=SWITCH)
    trace = simulate(schedule, workload, machine)
    first, second = span(trace, "D0.0a"), span(trace, "D0.0b")
    assert first[0] == pytest.approx(alone / 3)
    assert first[1] == pytest.approx(alone * (1 / 3 + 1 / 3 + 2 * 2 / 3))
    assert second == (pytest.approx(alone * 2 / 3), pytest.approx(alone * (2 + 2 / 3)))


def test_both_slow_down_together_while_a_rank_computes() -> None:
    alone = halves("@1", SWITCH).makespan_s
    busy = halves("@1", SWITCH, compute={**FREE, "S": Rate(1e6, 1e30)}, interference=Interference({}, 0.5))
    assert span(busy, "D0.0b")[1] == pytest.approx(1.5 * alone / 2)


# ---------------------------------------------------------------------------------------------- invariants


def alike(ranks: int, seed: int, network: Network, communicators: tuple[str, ...]) -> tuple[Trace, Cluster, Workload]:
    schedule = on_communicators(load_schedule("sync", 3, 2, counts="ahead"), communicators).check()
    workload = Workload(model(schedule), ranks, images=2)
    workload = replace(workload, routing=skewed(schedule, workload, seed)).fits(schedule)
    machine = cluster(ranks, link=network)
    return simulate(schedule, workload, machine), machine, workload


@settings(max_examples=25)
@given(st.sampled_from([4, 8]), st.integers(0, 99), st.sampled_from([SWITCH, HOSTED, TWO_STEPS]))
def test_a_transfer_that_is_alone_takes_what_max_min_flows_say(ranks: int, seed: int, network: Network) -> None:
    trace, machine, workload = alike(ranks, seed, network, ("N", "DC"))
    fabric = machine.fabric
    for i, op in enumerate(trace.schedule.ops):
        if op.kind in "DC":
            expected = fabric.all_to_all_s(workload.moved_bytes(trace.schedule, op), exact=True)
            np.testing.assert_allclose(trace.end_s[:, i] - trace.start_s[:, i], expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=50)
@given(st.integers(0, 2**32), st.integers(2, 4), st.sampled_from([SWITCH, HOSTED]))
def test_bytes_are_conserved_and_time_is_not_wasted(seed: int, transfers: int, network: Network) -> None:
    random = np.random.default_rng(seed)
    env, fabric = Environment(), Fabric.of(network, 4)
    together = Sharing(env, Fluid(env, cluster(4), [], [0] * 4), fabric, 1e6)
    begins, ends = random.integers(0, 10**6, transfers), np.zeros((transfers, 4))
    moved = random.exponential(1.0, (transfers, 4, 4)) * (random.random((transfers, 4, 4)) < 0.7)

    def begin(n: int) -> None:
        def then(ranks: list[int]) -> None:
            assert not ends[n, ranks].any(), "a rank ends once"
            ends[n, ranks] = env.now

        together.transfer([Moving(fabric, moved[n], 0.0, 1.0, 1.0, n, (0, 1, 2, 3))], 1.0, 0.0, then)

    for n, at in enumerate(begins.tolist()):
        timer = Timeout(env, at)
        assert timer.callbacks is not None
        timer.callbacks.append(lambda _, n=n: begin(n))
    env.run()
    assert (ends >= begins[:, None]).all()
    took = (ends - begins[:, None]) / 1e6
    for n in range(transfers):
        assert took[n].max() >= fabric.busy_s(moved[n]).max() - 1e-3
    whole = float(fabric.busy_s(moved.sum(axis=0)).max())
    last = (ends.max() - begins.min()) / 1e6
    assert last >= whole - 1e-3, "no resource carried more than its rate"
    sums = sum(float(fabric.busy_s(m).sum()) for m in moved)
    assert last <= (begins.max() - begins.min()) / 1e6 + sums + 1e-3, "while bytes move, something is full"


@settings(max_examples=25)
@given(st.integers(0, 99), st.sampled_from([SWITCH, HOSTED]))
def test_no_resource_is_over_its_rate_at_any_moment(seed: int, network: Network) -> None:
    seen: list[float] = []

    class Watched(Crowd):
        def __init__(self, passes: Array, bytes_per_tick: Array, gates: npt.NDArray[np.int64]) -> None:
            super().__init__(passes, bytes_per_tick, gates)
            self.all = passes / bytes_per_tick[:, None]

        def run(self, left: Array, slow: Array, tick: float) -> Run:
            found = super().run(left, slow, tick)
            for _, flowing, pace in found.past:
                assert ((pace > 0) == (flowing < np.inf)).all()
                seen.append(float((self.all @ (pace * slow)).max()))
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "Crowd", Watched)
        schedule = Schedule.parse(HALVES.format(b="@1")).check()
        workload = Workload(model(schedule), 4, 2)
        workload = replace(workload, routing=skewed(schedule, workload, seed))
        simulate(schedule, workload, cluster(4, link=network))
    assert max(seen) == pytest.approx(1.0), "something is full while bytes move, and nothing fuller than full"


def test_a_seed_stretches_shared_transfers_too() -> None:
    schedule = Schedule.parse(HALVES.format(b="@1")).check()
    machine = cluster(2, compute=FREE, link=SWITCH, jitter={"D": 0.3})
    workload = Workload(model(schedule), 2, 2)
    ends = [simulate(schedule, workload, machine, seed).end_s for seed in (1, 1, 2)]
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[0], ends[2])


# --------------------------------------------------------------------------- multiprocessors and priority


def late(priority: bool, kernels: int = 1, **changes: object) -> float:
    """When D0.0a starts, of which everything is ready at 1 s, while A0.0b runs from 1 to 2 s."""
    schedule = Schedule.parse(HALVES.format(b="")).check()
    machine = replace(
        cluster(2, compute={**FREE, "A": Rate(1.0, 1e30)}, link=SWITCH, host=Host(priority=priority)), **changes
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "launches", lambda schedule, *_: [kernels] * len(schedule.ops))
        return span(simulate(schedule, Workload(model(schedule), 2, 2), machine), "D0.0a")[0]


def test_without_priority_a_collective_waits_for_the_kernel_that_runs() -> None:
    assert late(priority=True) == 1.0
    assert late(priority=False) == 2.0
    assert late(priority=False, interference=Interference({"A": 0.5})) == 2.0
    assert late(priority=False, compute={**FREE, "A": Rate(1.0, 1e30), "P": Rate(0.5, 1e30)}) == 2.5


def test_a_kernel_ends_sooner_than_its_op(monkeypatch: pytest.MonkeyPatch) -> None:
    """D0.0a is issued 0.3 s into A0.0b, whose four kernels take 0.25 s each."""
    monkeypatch.setattr(plan, "launches", lambda schedule, *_: [4] * len(schedule.ops))
    schedule = Schedule.parse(HALVES.format(b="")).check()
    for interference in (Interference(), Interference({}, 0.5)):
        machine = cluster(2, compute={**FREE, "A": Rate(1.0, 1e30)}, link=SWITCH, interference=interference,
                          host=Host(collective_s=1.3, priority=False))  # fmt: skip
        trace = simulate(schedule, Workload(model(schedule), 2, 2), machine)
        assert span(trace, "D0.0a")[0] == pytest.approx(1.5)


def test_every_kernel_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = load_schedule("sync", 1, 1)
    machine = cluster(2, compute=FREE, link=Link(0.0, 1e30), host=Host(launch_s=1.0))
    workload = Workload(model(schedule), 2, 2)
    assert simulate(schedule, workload, machine).makespan_s == pytest.approx(6.0)
    monkeypatch.setattr(plan, "launches", lambda schedule, *_: [3] * len(schedule.ops))
    assert simulate(schedule, workload, machine).makespan_s == pytest.approx(18.0)


def test_communication_takes_a_share_of_the_multiprocessors() -> None:
    schedule = Schedule.parse("x steps=1 layers=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0")
    rates = {**FREE, "S": Rate(1.0, 1e30)}

    def seconds(interference: Interference, link: Link | Network) -> tuple[float, float]:
        trace = simulate(
            schedule, Workload(model(schedule), 2, 2), cluster(compute=rates, link=link, interference=interference)
        )
        return span(trace, "S0.0")[1] - span(trace, "S0.0")[0], span(trace, "C0.0")[1] - span(trace, "C0.0")[0]

    slow = replace(SWITCH, resources={"port": Resource(1e2)})
    for link in (Link(0.0, 1e2), slow):
        alone = seconds(Interference(), link)
        assert seconds(Interference(multiprocessors=0.25), link) == (pytest.approx(4 / 3), alone[1])
        assert seconds(Interference({"S": 0.5}, multiprocessors=0.25), link) == (pytest.approx(1.5), alone[1])
        curve = Interference(multiprocessors=0.25, rate_at={0.2: 0.4, 0.3: 0.6})
        assert seconds(curve, link) == (pytest.approx(4 / 3), pytest.approx(2 * alone[1]))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"interference": Interference(multiprocessors=0.1, rate_at={0.1: 1.5})},
            "rate_at.0.1=1.5 should be at most 1",
        ),
        (
            {"interference": Interference(multiprocessors=0.1, rate_at={2.0: 0.5})},
            "rate_at.2.0: should be a share of the",
        ),
        ({"interference": Interference(multiprocessors=1.0)}, "interference.multiprocessors=1 should be below 1"),
        ({"interference": Interference(multiprocessors=0.1, rate_at={0.1: 0.0})}, "rate_at.0.1=0 should be above 0"),
    ],
)
def test_shares_and_rates_that_cannot_be_are_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        cluster(2, link=SWITCH, **changes)
