"""Rounds that are skipped against the same rounds walked: equal to the last bit."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from anything import anything as all_there_is
from cases import anything, machines, model, named
from hypothesis import given, settings
from hypothesis import strategies as st
from test_maxplus import on_one_communicator

from sim import MODELS, Cluster, Schedule, Workload, load_schedule, simulate
from sim.cluster import COMPUTE_KINDS, Host, Interference
from sim.vectorised import steady
from sim.vectorised.batch import batch
from sim.vectorised.costs import Config, Costs
from sim.vectorised.lockstep import Lockstep
from sim.vectorised.program import Program


def walk(schedule: Schedule, workload: Workload, clusters: list[Cluster], skips: bool) -> Lockstep:
    """The engine, ready to walk `schedule` on machines that all have or lack hosts that wait."""
    costs, fitted = Costs(schedule), workload.fits(schedule)
    configs = [Config(fitted, cluster) for cluster in clusters]
    together = batch(costs, configs, costs.seconds(configs), 1)
    program = Program(schedule, clusters[0].host.synchronous, "collectives")
    return Lockstep(together, program, np.array([not c.host.priority for c in clusters]), skips)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, Workload, list[Cluster]]:
    """Any schedule, mostly with time to come to a steady state, on machines with hosts from fast to slow."""
    schedule = on_one_communicator(draw(st.one_of(named(24, 3), named(24, 3), all_there_is(), anything())))
    random, machine = Random(draw(st.integers(0, 2**32))), draw(machines(2, bursts=True))

    def one() -> Cluster:
        compute = {kind: random.choice([0.0, 0.19, 1.7]) for kind in COMPUTE_KINDS}
        host = Host(10 ** random.uniform(-8, -5), 1e-6, random.choice([0, 2e-5]), machine.host.synchronous)
        link = replace(machine.links, bytes_per_s=10 ** random.uniform(6, 11))
        slow = Interference(compute, random.choice([0.0, 0.3]) if any(compute.values()) else 0.3)
        return replace(machine, link=link, host=replace(host, priority=random.random() < 0.5), interference=slow)

    return schedule, Workload(model(schedule), 2, images=2), [one() for _ in range(random.choice([1, 5]))]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_skipping_is_as_good_as_walking(case: tuple[Schedule, Workload, list[Cluster]]) -> None:
    found, walked = walk(*case, skips=True), walk(*case, skips=False)
    assert found.makespans().tolist() == walked.makespans().tolist()
    assert walked.steady.skipped == 0
    for mine, theirs in ((found.busy, walked.busy), (found.wire.travelled, walked.wire.travelled),
                         (found.wire.quiet, walked.wire.quiet)):  # fmt: skip
        assert mine.tolist() == theirs.tolist()


def various(random: Random, launch: float) -> Cluster:
    """A machine by name whose host is from faster than its devices to slower, a little as well."""
    base = Cluster.load(random.choice(["8x-h100", "8x-rtx4090", "8x-a100"]))
    host = replace(base.host, launch_s=random.uniform(0.5, 1.5) * launch, priority=random.random() < 0.5)
    slow = Interference(dict.fromkeys(COMPUTE_KINDS, random.uniform(0.05, 0.5)), random.uniform(0.05, 0.5))
    return replace(base, host=host, interference=slow)


SOURCES = ["sync", "displaced", "interweaved", "dice", "overlap", "cached", "distrifusion", "interweaved stride=5",
           "dice warm_up=3 cool_down=2", "sync intervals=1,3", "displaced conditional=low interval=3"]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_most_of_a_long_run_is_skipped(source: str) -> None:
    name, *words = source.split()
    schedule = load_schedule(name, 50, 6, **dict(word.split("=") for word in words))
    workload, random = Workload(replace(MODELS["S"], layers=6), 8, 8), Random(source)
    clusters = [various(random, 5e-6) for _ in range(48)]
    found, walked = walk(schedule, workload, clusters, skips=True), walk(schedule, workload, clusters, skips=False)
    ticks = found.makespans()
    assert ticks.tolist() == walked.makespans().tolist()
    assert found.steady.skipped > 0.4 * len(schedule.ops)
    for n in (0, 47):
        assert ticks[n] / 1e12 == pytest.approx(simulate(schedule, workload, clusters[n]).makespan_s, rel=1e-6)


def test_some_hosts_lose_their_lead_and_some_machines_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that do not repeat when patience is at its end are walked, and equal to the last bit as well."""
    schedule, workload = load_schedule("interweaved", 50, 6), Workload(replace(MODELS["S"], layers=6), 8, 8)
    clusters = [various(Random(n), 6e-6) for n in range(96)]
    patient, walked = (walk(schedule, workload, clusters, skips) for skips in (True, False))
    ticks = walked.makespans().tolist()
    assert patient.makespans().tolist() == ticks
    assert patient.steady.ahead.any()
    monkeypatch.setattr(steady, "PATIENCE", 1)
    hasty = walk(schedule, workload, clusters, skips=True)
    assert hasty.makespans().tolist() == ticks
    assert 0 < len(hasty.steady.strays) < 48


def test_what_never_comes_back_is_walked() -> None:
    schedule, machine = load_schedule("sync", 10, 3), replace(Cluster.load("8x-h100"), jitter={"A": 0.1})
    workload = Workload(replace(MODELS["S"], layers=3), 8, 2).fits(schedule)
    costs, configs = Costs(schedule), [Config(workload, machine, seed=1)]
    jittered = batch(costs, configs, costs.seconds(configs), 1)
    assert steady.Rounds.of(Program(schedule, False, "collectives"), jittered).ops == 0
    still = batch(costs, [Config(workload, machine)], costs.seconds(configs), 1)
    assert steady.Rounds.of(Program(schedule, False, "collectives"), still).ops == len(schedule.ops) // 10
    waiting = load_schedule("sync", 10, 3, counts="blocking")
    assert steady.Rounds.of(Program(waiting, False, "collectives"), still).ops == 0
