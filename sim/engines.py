"""Many machines for one schedule and workload, and which engine runs them.

A Case is one list of ops on one workload, on as many machines as there are configurations: a cluster, and numbers of
it that differ.  `evaluate` returns what became of each, and who found out.  It knows engines by their bounds; it
refuses to know points, files and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.batch import Batch
from sim.cluster import Cluster, Interference
from sim.engine import TICKS_PER_S, simulate
from sim.evaluate import LANES, RECURRENCE, SIMULATION, engine_of
from sim.machines import Machines, costs_of
from sim.maxplus import Recurrence
from sim.point import changed
from sim.program import Program
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """tables: the cluster's (sim/point.py); changes: setting -> its value [configuration]; seeds [configuration], of
    jitter, or None where every op takes its median time."""

    schedule: Schedule
    workload: Workload
    tables: Any
    size: int
    changes: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    seeds: npt.NDArray[np.int64] | None = None

    def cluster(self, i: int) -> Cluster:
        """The machine of configuration i.  Raises ValueError if there is no such machine."""
        tables = self.tables
        for key in sorted(self.changes, key=lambda each: each.startswith("times.")):
            tables = changed(tables, key, self.changes[key][i].item())
        told = ", ".join(f"{key}={self.changes[key][i]:g}" for key in self.changes)
        return Cluster.of_tables(tables, told or tables["name"])

    def some(self, which: npt.NDArray[Any]) -> Case:
        """The configurations of these numbers."""
        seeds = None if self.seeds is None else self.seeds[which]
        changes = {key: values[which] for key, values in self.changes.items()}
        return replace(self, size=len(which), changes=changes, seeds=seeds)


class Outcomes(NamedTuple):
    """[configuration]: seconds and shares as in sim/sweep_rows.py, nan where there are none or the engine does not
    say; who ran it, or why nobody did."""

    makespan_s: Array
    stalled_s: Array
    exposed_s: Array
    communication_share: Array
    engine: npt.NDArray[np.object_]
    error: npt.NDArray[np.object_]

    @staticmethod
    def nothing(size: int) -> Outcomes:
        """Nothing known yet."""
        a, b, c, d = (np.full(size, np.nan) for _ in range(4))
        return Outcomes(a, b, c, d, np.full(size, None, object), np.full(size, None, object))

    def put(self, which: npt.NDArray[Any], some: Outcomes) -> None:
        """Writes what is known of the configurations `which`."""
        for mine, theirs in zip(self, some, strict=True):
            mine[which] = theirs


def evaluate(case: Case) -> Outcomes:
    """What becomes of every configuration, by the fastest engine that may run it."""
    if case.seeds is not None:
        return simulated(case)
    try:
        machines = Machines.of(case.tables, case.size, case.changes)
        workload = case.workload.fits(case.schedule)
        _check_ranks(workload, machines.first)
        calm = replace(machines.first, interference=Interference())
        engine, _ = engine_of(case.schedule, workload, calm)
    except ValueError:
        return simulated(case)  # which finds the reason of each
    slow = machines.interferes()
    found = Outcomes.nothing(case.size)
    fifo = np.flatnonzero(~slow & (engine == RECURRENCE))
    others = np.flatnonzero(slow | (engine != RECURRENCE))
    if len(others):
        found.put(others, simulated(case.some(others)))
    if len(fifo):
        some = case.some(fifo)
        found.put(fifo, _recurred(some, workload, Machines.of(some.tables, some.size, some.changes)))
    return found


def _check_ranks(workload: Workload, cluster: Cluster) -> None:
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")


def _recurred(case: Case, workload: Workload, machines: Machines) -> Outcomes:
    """By the max-plus recurrence, as many at once as stay in a core's cache."""
    batch = costs_of(case.schedule, workload, machines)
    host, found = machines.first.host, Outcomes.nothing(case.size)
    room = max(1, LANES // batch.ranks)
    program = _program(case.schedule, host.synchronous, "listed" if host.priority else "compute")
    for first in range(0, case.size, room):
        some = slice(first, first + room)
        found.makespan_s[some] = Recurrence(lanes_of(batch, some), program).makespans() / TICKS_PER_S
    busy, talks = _busy_s(batch)
    found.stalled_s[:] = found.makespan_s - busy
    if not batch.burst.any():  # spans of one communicator follow one another
        found.communication_share[:] = talks / found.makespan_s
    found.engine[:] = RECURRENCE
    return found


@lru_cache(maxsize=16)  # follows from its arguments, and takes as long as a hundred configurations
def _program(schedule: Schedule, synchronous: bool, first: str) -> Program:
    return Program(schedule, synchronous, first)


def lanes_of(batch: Batch, some: slice) -> Batch:
    """Some configurations of a batch."""
    names = ("ticks", "launch", "kernels", "burst", "slow_compute", "wake", "latency", "slow_transfer")
    cut: dict[str, Any] = {name: np.ascontiguousarray(getattr(batch, name)[..., some]) for name in names}
    return replace(batch, **cut)


def _busy_s(batch: Batch) -> tuple[Array, Array]:
    """[configuration] seconds in which something is computed, and in which rows travel: means of ranks."""
    often = np.bincount(batch.sort_of, minlength=len(batch.ticks))
    kind = dict(zip(batch.sort_of, batch.schedule.ops, strict=True))
    sums = np.zeros((2, batch.size))
    for n, times in enumerate(often):
        if kind[n].kind in "DC" or not kind[n].collective:
            sums[int(kind[n].collective)] += times * batch.ticks[n].mean(axis=0)
    busy, talks = sums / TICKS_PER_S
    return busy, talks


def simulated(case: Case) -> Outcomes:
    """By SimPy, one after another.  ValueErrors are reasons; anything else is a fault of ours, and is called one."""
    found = Outcomes.nothing(case.size)
    for i in range(case.size):
        try:
            seed = None if case.seeds is None else int(case.seeds[i])
            numbers = told(simulate(case.schedule, case.workload, case.cluster(i), seed))
            for column, value in zip(found[:4], numbers, strict=True):
                column[i] = value
            found.engine[i] = SIMULATION
        except (ValueError, MemoryError) as reason:
            found.error[i] = str(reason) or "out of memory"
        except Exception as fault:  # one point's fault must not stop a million others; it is told, and counted
            found.error[i] = f"fault: {type(fault).__name__}: {fault}"
    return found


def told(trace: Trace) -> tuple[float, float, float, float]:
    """makespan_s, stalled_s, exposed_s and communication_share of a trace."""
    whole_s = trace.makespan_s
    stalled_s = whole_s - float(trace.busy_s("compute").mean())
    return whole_s, stalled_s, float(trace.exposed_s.mean()), float(trace.all_to_all_s.mean()) / whole_s
