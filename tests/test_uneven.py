"""The vectorised engine for ranks that differ, with interference, against the simulation."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lockstep import OFF, cases

from sim import MODELS, Cluster, Routing, Schedule, Workload, load_schedule, simulate
from sim.mesh import Mesh
from sim.vectorised.batch import batch
from sim.vectorised.engines import told
from sim.vectorised.evaluate import FEW, LOCKSTEP, SIMULATION, UNEVEN, Evaluator, evaluate, room
from sim.vectorised.program import Program
from sim.vectorised.uneven import Uneven

Drawn = tuple[Schedule, Workload, Cluster, int | None]


@settings(max_examples=300, deadline=None)
@given(cases(), st.sampled_from([0.02, 0.2, 0.6]), st.integers(0, 99))
def test_jittered_ranks_take_as_long_as_the_simulation_says(
    case: tuple[Schedule, Workload, Cluster], sigma: float, seed: int
) -> None:
    """Any schedule on any machine, also with bursts, hosts that wait, kernels that run and factors by kind."""
    schedule, workload, machine = case
    machine = replace(machine, jitter=dict.fromkeys("PASERFZNDCKQ", sigma))
    found = evaluate(schedule, [workload] * FEW, [machine] * FEW, [seed] * FEW)
    mesh = workload.mesh_of(schedule)
    meet = max(mesh.expert, mesh.patch) == mesh.ranks
    overtakes = Program(schedule, machine.host.synchronous).overtakes
    assert found.engine == (UNEVEN if meet and not overtakes else SIMULATION,) * FEW
    if found.engine[0] == UNEVEN:
        want = simulate(schedule, workload, machine, seed).makespan_s
        assert found.makespan_s.tolist() == [found.makespan_s[0]] * FEW
        assert found.makespan_s[0] == pytest.approx(want, rel=OFF, abs=1e-11)


def uneven(random: Random) -> Drawn:
    """A small model's schedule on a machine by name, its routing skewed or its ops jittered."""
    shape = replace(MODELS["S"], layers=6)
    source = random.choice(["sync", "displaced", "interweaved", "dice", "overlap", "cached", "sync counts=blocking"])
    base = Cluster.load(random.choice(["8x-rtx4090", "8x-h100", "8x-a100"]))
    jitter = dict.fromkeys("PASERFZNDC", 0.05) if random.random() < 0.5 else {}
    machine = replace(base, jitter=jitter, host=replace(base.host, priority=random.random() < 0.5))
    workload = Workload(shape, 8, random.choice([4, 16]))
    skewed = Routing.skewed(shape, 8, workload.tokens, 4, imbalance=random.choice([1.2, 2.0]))
    if not jitter or random.random() < 0.5:
        workload = replace(workload, routing=skewed)
    return load_schedule(source, 4, 6), workload, machine, 3 if jitter else None


def walked(case: Drawn) -> Uneven:
    schedule, workload, machine, seed = case
    evaluator = Evaluator(schedule)
    configs = evaluator._configs([workload], [machine], [seed])
    costs = batch(evaluator.costs, configs, evaluator.costs.seconds(configs), workload.ranks)
    return Uneven(costs, Program(schedule, machine.host.synchronous), np.array([not machine.host.priority]))


def test_on_machines_by_name_it_is_equal_to_the_tick_and_says_what_a_trace_says() -> None:
    for seed in range(40):
        schedule, workload, machine, jitter = case = uneven(Random(seed))
        walk, trace = walked(case), simulate(schedule, workload, machine, jitter)
        assert walk.makespans()[0] / 1e12 == trace.makespan_s
        stalled, exposed, moved = (each[0] / 1e12 for each in walk.spent())
        want = told(trace, workload, machine)[3:]
        assert (stalled, exposed, moved / trace.makespan_s) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_configurations_of_a_batch_do_not_know_of_each_other() -> None:
    schedule = load_schedule("dice", 4, 6)
    shape, machines = replace(MODELS["S"], layers=6), [Cluster.load(name) for name in ("8x-rtx4090", "8x-h100")]
    routed = []
    for images, imbalance in ((1, 1.3), (4, 2.0), (16, 1.1)):
        workload = Workload(shape, 8, images)
        routed.append(replace(workload, routing=Routing.skewed(shape, 8, workload.tokens, 1, imbalance=imbalance)))
    works, clusters = [w for w in routed for _ in machines], machines * len(routed)
    found = evaluate(schedule, works, clusters)
    assert {*found.engine} == {UNEVEN}
    assert evaluate(schedule, works[: FEW - 1], clusters[: FEW - 1]).engine == (SIMULATION,) * (FEW - 1)
    alone = [simulate(schedule, work, cluster).makespan_s for work, cluster in zip(works, clusters, strict=True)]
    assert found.makespan_s.tolist() == alone


def test_what_it_refuses_is_simulated() -> None:
    machine = Cluster.load("8x-h100")
    shape = replace(MODELS["S"], layers=4)
    machine = replace(machine, jitter={"A": 0.1})
    halves = Workload(shape, 8, 4, mesh=Mesh(expert=4, guidance=2))
    schedule = load_schedule("dice", 3, 4)
    found = evaluate(schedule, [halves, halves], [machine] * 2, [1, None])
    assert found.engine[0] == SIMULATION
    assert "do not all meet" in found.why[0] or "share links" in found.why[0]
    assert evaluate(schedule, [Workload(shape, 8, 4)], [machine]).engine == (LOCKSTEP,)


def test_costs_of_those_that_are_walked_together_fit_into_memory() -> None:
    assert room(UNEVEN, 8, 174) == 1024
    assert room(UNEVEN, 8, 8508) * 8 * 8508 * 8 <= 1 << 28
    assert room(UNEVEN, 64, 10**9) == room(LOCKSTEP, 10**6, 1) == 1
