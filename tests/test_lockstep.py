"""The vectorised engine with interference against the simulation, for ranks that are alike."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from anything import anything as all_there_is
from cases import anything, machines, model, named
from hypothesis import given, settings
from hypothesis import strategies as st
from test_maxplus import meshes, on_one_communicator
from test_steady import walk

from sim import MODELS, Cluster, Routing, Schedule, Workload, load_schedule, simulate
from sim.cluster import COMPUTE_KINDS, Interference
from sim.engine import TICKS_PER_S
from sim.vectorised.evaluate import LOCKSTEP, SIMULATION, UNEVEN, evaluate
from sim.vectorised.program import Program

OFF = 1e-6  # of the makespan: picoseconds rounded at other moments


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, Workload, Cluster]:
    """Any schedule with balanced routing on any machine: bursts, hosts that wait, kernels that run, factors by kind."""
    schedule = on_one_communicator(draw(st.one_of(all_there_is(), anything(), named())))
    ranks = draw(st.sampled_from([1, 2, 4]))
    machine = draw(machines(ranks, bursts=True))
    factors = st.sampled_from([0.0, 0.19, 0.5, 1.7])
    compute = {kind: draw(factors) for kind in COMPUTE_KINDS}
    slow = Interference(compute, draw(factors) if any(compute.values()) else 0.3)
    mesh = draw(st.sampled_from(meshes(schedule))) if ranks == 4 else None
    workload = Workload(model(schedule), ranks, images=2, mesh=mesh)
    host = replace(machine.host, priority=draw(st.booleans()))
    return schedule, workload, replace(machine, host=host, interference=slow)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_it_takes_as_long_as_the_simulation_says(case: tuple[Schedule, Workload, Cluster]) -> None:
    schedule, workload, machine = case
    found = evaluate(schedule, [workload], [machine])
    [engine] = found.engine
    overtakes = Program(schedule, machine.host.synchronous).overtakes
    assert engine == (SIMULATION if overtakes else LOCKSTEP)
    if engine == LOCKSTEP:
        trace = simulate(schedule, workload, machine)
        assert found.makespan_s[0] == pytest.approx(trace.makespan_s, rel=OFF, abs=1e-11)
        lanes = walk(schedule, workload, [machine], skips=True)
        whole_s, busy_s, quiet_s = (each[0] / TICKS_PER_S for each in (lanes.makespans(), lanes.busy, lanes.wire.quiet))
        near = pytest.approx
        assert busy_s == near(trace.busy_s("compute").mean(), abs=OFF * whole_s)
        assert whole_s - busy_s - quiet_s == near(trace.exposed_s.mean(), abs=OFF * whole_s)
        assert lanes.wire.travelled[0] / TICKS_PER_S == near(trace.all_to_all_s.mean(), abs=OFF * whole_s)


def uneven(random: Random) -> tuple[Schedule, Workload, Cluster, int | None]:
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


def test_ranks_that_differ_are_within_what_is_said() -> None:
    off = []
    for seed in range(40):
        schedule, workload, machine, jitter = uneven(Random(seed))
        found = evaluate(schedule, [workload], [machine], [jitter])
        assert found.engine == (UNEVEN,)
        off.append(found.makespan_s[0] / simulate(schedule, workload, machine, jitter).makespan_s - 1)
    assert np.abs(off).mean() < 1e-3
    assert np.abs(off).max() < 3e-3
