"""The vectorised engine against the simulation: to the last bit where streams are first-in first-out."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt
from anything import anything as all_there_is
from cases import anything, cluster, machines, model, named, skewed
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cluster import Cluster, Host
from sim.engine import simulate
from sim.mesh import Mesh
from sim.schedule import Schedule
from sim.trace import Trace
from sim.vectorised.evaluate import RECURRENCE, SIMULATION, Evaluator, evaluate
from sim.workload import Workload

Array = npt.NDArray[np.float64]


def spans(trace: Trace) -> Array:
    return np.array([trace.reached_s, trace.start_s, trace.end_s])


def on_one_communicator(schedule: Schedule) -> Schedule:
    """Without transfers that could share links, which only the simulation knows."""
    return replace(schedule, ops=tuple(op._replace(communicator=0) for op in schedule.ops)).check()


def meshes(schedule: Schedule) -> list[Mesh | None]:
    """Of four ranks, as far as the schedule can use them and the groups share no link."""
    if schedule.sharded_patches:
        return [None]
    if not schedule.sharded_experts:
        return [None, Mesh(data=4), Mesh(data=2, guidance=2)]
    return [None, Mesh(expert=4), Mesh(expert=2, guidance=2), Mesh(expert=2, data=2)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, Workload, Cluster]:
    """Any schedule on any machine without interference: uneven ranks, bursts, hosts that wait, kernels that run."""
    schedule = on_one_communicator(draw(st.one_of(all_there_is(), anything(), named())))
    ranks = draw(st.sampled_from([1, 2, 4]))
    mesh = draw(st.sampled_from(meshes(schedule))) if ranks == 4 else None
    machine = draw(machines(ranks, bursts=True))
    host = replace(machine.host, priority=draw(st.booleans()))
    workload = Workload(model(schedule), ranks, images=2, mesh=mesh)
    if draw(st.booleans()):
        workload = replace(workload, routing=skewed(schedule, workload, draw(st.integers(0, 99))))
    return schedule, workload, replace(machine, host=host)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_every_span_is_the_simulated_one_to_the_last_bit(case: tuple[Schedule, Workload, Cluster]) -> None:
    schedule, workload, machine = case
    assert Evaluator(schedule).engine_of(workload, machine) == (RECURRENCE, "")
    simulated = simulate(schedule, workload, machine)
    np.testing.assert_array_equal(Evaluator(schedule).spans_s(workload, machine), spans(simulated))
    assert evaluate(schedule, [workload], [machine]).makespan_s[0] == simulated.makespan_s


@settings(max_examples=40, deadline=None)
@given(st.one_of(all_there_is(), named(5, 4)), st.integers(0, 2**32))
def test_many_at_once_are_each_as_if_alone(schedule: Schedule, seed: int) -> None:
    """Workloads and machines of all sorts, some of them seeded, in one call."""
    schedule, random = schedule.check(), Random(seed)
    works = [Workload(model(schedule), ranks, images) for ranks in (1, 2) for images in (2, 4)]
    works += [replace(work, routing=skewed(schedule, work, seed % 97)) for work in works[2:]]
    machines = [_machine(random) for _ in range(6)]
    configs = [(random.choice(works), random.choice(machines), random.choice([None, None, 5])) for _ in range(12)]
    configs = [(work, replace(machine, ranks=work.ranks), seed) for work, machine, seed in configs]
    found = evaluate(schedule, *(list(column) for column in zip(*configs, strict=True)))
    alone = [simulate(schedule, *config).makespan_s for config in configs]
    assert found.makespan_s.tolist() == alone
    shared = len(schedule.streams) > 2
    for (work, machine, _), engine in zip(configs, found.engine, strict=True):
        assert engine == (SIMULATION if shared and (work.ranks > 1 or not machine.host.priority) else RECURRENCE)


def _machine(random: Random) -> Cluster:
    link = replace(cluster().link, bytes_per_s=random.choice([1e8, 5e9]), burst_bytes=random.choice([0.0, 2e3]))
    host = Host(random.choice([0.0, 3e-7]), 1e-6, 2e-7, random.random() < 0.5, random.random() < 0.5)
    return cluster(2, link=link, host=host, jitter={"A": 0.1, "Z": 0.05})
