"""The vectorised engine with interference against the simulation, for ranks that are alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
from anything import anything as all_there_is
from cases import anything, machines, model, named
from hypothesis import given, settings
from hypothesis import strategies as st
from test_maxplus import meshes, on_one_communicator
from test_steady import walk

from sim import Cluster, Schedule, Workload, simulate
from sim.cluster import COMPUTE_KINDS, Interference
from sim.engine import TICKS_PER_S
from sim.vectorised.evaluate import LOCKSTEP, SIMULATION, evaluate
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
