"""Many machines for one schedule and workload, and which engine runs them.

A Case is one list of ops on one workload, on as many machines as there are configurations: a cluster, and numbers of
it that differ.  `evaluate` returns what became of each, and who found out; an Evaluation, of several Cases that are
walked together where that is faster.  It knows engines by their bounds; it refuses to know points, files and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster
from sim.cost import durations_s, sorts, varies
from sim.engine import TICKS_PER_S, simulate
from sim.schedule import Op, Schedule
from sim.sweeps.point import changed
from sim.trace import Trace
from sim.vectorised.batch import Batch
from sim.vectorised.evaluate import FEW, LOCKSTEP, RECURRENCE, SIMULATION, UNEVEN, all_meet, engine_of, room
from sim.vectorised.lockstep import Lockstep
from sim.vectorised.machines import Machines, costs_of
from sim.vectorised.maxplus import Recurrence
from sim.vectorised.program import Program
from sim.vectorised.uneven import Uneven
from sim.workload import Workload

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """tables: the cluster's (sim/sweeps/point.py); changes: setting -> its value [configuration]; seeds
    [configuration], of jitter, or None where every op takes its median time."""

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
    """[configuration]: seconds and shares as in sim/sweeps/rows.py, nan where there are none or the engine does not
    say; who ran it, or why nobody did."""

    makespan_s: Array
    computing_alone_s: Array
    communicating_alone_s: Array
    stalled_s: Array
    exposed_s: Array
    communication_share: Array
    engine: npt.NDArray[np.object_]
    error: npt.NDArray[np.object_]

    @staticmethod
    def nothing(size: int) -> Outcomes:
        """Nothing known yet."""
        a, b, c, d, e, f = (np.full(size, np.nan) for _ in range(6))
        return Outcomes(a, b, c, d, e, f, np.full(size, None, object), np.full(size, None, object))

    def some(self, which: slice) -> Outcomes:
        """What is known of these configurations."""
        return Outcomes._make(column[which] for column in self)

    def put(self, which: npt.NDArray[Any], some: Outcomes) -> None:
        """Writes what is known of the configurations `which`."""
        for mine, theirs in zip(self, some, strict=True):
            mine[which] = theirs


def evaluate(case: Case) -> Outcomes:
    """What becomes of every configuration, by the fastest engine that may run it."""
    several = Evaluation(case.size)
    found = several.add(case)
    several.finish()
    return found


class Evaluation:
    """Cases of one schedule, one after another.  Those whose ranks differ, under interference, wait for others like
    them, since an engine walks many at once in little more time than one.

    among: of how many configurations these are, all of that schedule, so that who runs one depends on no division."""

    def __init__(self, among: int) -> None:
        self._simulates = among < FEW
        self._waiting: dict[tuple[object, ...], list[_Waiting]] = {}

    def add(self, case: Case) -> Outcomes:
        """What becomes of every configuration; of some, not before `finish`."""
        try:
            machines = Machines.of(case.tables, case.size, case.changes)
            workload = case.workload.fits(case.schedule)
            _check_ranks(workload, machines.first)
        except ValueError:
            return simulated(case)  # which finds the reason of each
        slow, found = machines.interferes(), Outcomes.nothing(case.size)
        for which in (np.flatnonzero(~slow), np.flatnonzero(slow)):
            if len(which):
                some = case if len(which) == case.size else case.some(which)
                theirs = machines if some is case else Machines.of(some.tables, some.size, some.changes)
                known = _alike(some, workload, theirs)
                if isinstance(known, _Costs) and self._simulates:
                    known = simulated(some)
                if isinstance(known, Outcomes):
                    found.put(which, known)
                else:
                    host, shape = theirs.first.host, known.batch.ticks.shape[:2]
                    waiting = _Waiting(some, known, host.priority, found, which)
                    self._waiting.setdefault((host.synchronous, varies(workload), shape), []).append(waiting)
        return found

    def finish(self) -> None:
        """Walks those that wait."""
        for (synchronous, *_), those in self._waiting.items():
            _walk_together(those, bool(synchronous))
        self._waiting.clear()


@dataclass(frozen=True, eq=False)
class _Costs:
    """Of configurations that are to be walked, and what ops take alone, not jittered: `_alone_s`."""

    batch: Batch
    alone_s: tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Configurations whose ranks differ, under interference; what they cost; where to write what becomes of them."""

    case: Case
    costs: _Costs
    priority: bool
    into: Outcomes
    which: npt.NDArray[np.intp]


def _walk_together(those: Sequence[_Waiting], synchronous: bool) -> None:
    batch = Batch.joined([each.costs.batch for each in those])
    defers = np.concatenate([np.full(each.case.size, not each.priority) for each in those])
    program = _course(batch.schedule).program(synchronous, "collectives")
    rows = max(len(batch.ticks), sum(program.blocks))
    found, step = Outcomes.nothing(batch.size), room(UNEVEN, batch.ranks, rows)
    for begin in range(0, batch.size, step):
        some = slice(begin, begin + step)
        walk = Uneven(batch.some(some), program, defers[some])
        found.makespan_s[some] = walk.makespans() / TICKS_PER_S
        found.stalled_s[some], found.exposed_s[some], moved_s = (each / TICKS_PER_S for each in walk.spent())
        found.communication_share[some] = moved_s / found.makespan_s[some]
    found.engine[:] = UNEVEN
    alone_s = zip(*(each.costs.alone_s for each in those), strict=True)
    found.computing_alone_s[:], found.communicating_alone_s[:] = map(np.concatenate, alone_s)
    begin = 0
    for each in those:
        mine = slice(begin, begin := begin + each.case.size)
        each.into.put(each.which, found.some(mine))


def _check_ranks(workload: Workload, cluster: Cluster) -> None:
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")


def _alike(case: Case, workload: Workload, machines: Machines) -> Outcomes | _Costs:
    """Of configurations that all have interference, or none of which has any; their costs, if they are to wait."""
    course, host = _course(case.schedule), machines.first.host
    engine, _ = engine_of(course.program(host.synchronous, "collectives"), workload, machines.first)
    if engine == SIMULATION or (engine == RECURRENCE and case.seeds is not None):
        return simulated(case)
    try:
        batch = costs_of(case.schedule, workload, machines, course.sorts(workload))
        if engine == LOCKSTEP and (batch.ranks > 1 or case.seeds is not None):
            return _apart(case, workload, machines, batch)
    except ValueError:
        return simulated(case)
    return _walked(case, batch, machines.first, engine, course)


def _apart(case: Case, workload: Workload, machines: Machines, median: Batch) -> Outcomes | _Costs:
    """Of configurations whose ranks differ, or will once they are jittered, under interference."""
    if not all_meet(workload.mesh_of(case.schedule)):
        return simulated(case)
    if case.seeds is None:
        return _Costs(median, _alone_s(median))
    sorted_ops = _course(case.schedule).sorts(workload)
    return _Costs(costs_of(case.schedule, workload, machines, sorted_ops, case.seeds), _alone_s(median))


def _walked(case: Case, batch: Batch, cluster: Cluster, engine: str, course: _Course) -> Outcomes:
    """By a vectorised engine, as many at once as stay in a core's cache."""
    host, found = cluster.host, Outcomes.nothing(case.size)
    step = room(engine, batch.ranks, len(batch.ticks))
    first = "collectives" if engine == LOCKSTEP else "listed" if host.priority else "compute"
    program = course.program(host.synchronous, first)
    for begin in range(0, case.size, step):
        some = slice(begin, begin + step)
        lanes = batch.some(some)
        walk = Lockstep(lanes, program, not host.priority) if engine == LOCKSTEP else Recurrence(lanes, program)
        found.makespan_s[some] = walk.makespans() / TICKS_PER_S
        if isinstance(walk, Lockstep):
            found.stalled_s[some] = found.makespan_s[some] - walk.busy / TICKS_PER_S
            found.exposed_s[some] = found.stalled_s[some] - walk.wire.quiet / TICKS_PER_S
            found.communication_share[some] = walk.wire.travelled / TICKS_PER_S / found.makespan_s[some]
    found.engine[:] = engine
    found.computing_alone_s[:], found.communicating_alone_s[:] = _alone_s(batch)
    if engine == RECURRENCE:  # nothing slows down
        found.stalled_s[:] = found.makespan_s - found.computing_alone_s
        if not batch.burst.any():  # spans of one communicator follow one another
            found.communication_share[:] = found.communicating_alone_s / found.makespan_s
    return found


class _Course:
    """What follows from a schedule alone, and takes as long to find as thousands of configurations take to run."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._programs: dict[tuple[bool, str], Program] = {}
        self._sorts: dict[tuple[bool, bool], tuple[list[int], list[Op]]] = {}

    def program(self, synchronous: bool, first: str) -> Program:
        """The order in which engines walk it."""
        if (synchronous, first) not in self._programs:
            self._programs[synchronous, first] = Program(self.schedule, synchronous, first)
        return self._programs[synchronous, first]

    def sorts(self, workload: Workload) -> tuple[list[int], list[Op]]:
        """`sim.cost.sorts`, once for all workloads that vary alike."""
        if (key := varies(workload)) not in self._sorts:
            self._sorts[key] = sorts(self.schedule, workload)
        return self._sorts[key]


@lru_cache(maxsize=16)
def _course(schedule: Schedule) -> _Course:
    return _Course(schedule)


def _alone_s(batch: Batch) -> tuple[Array, Array]:
    """[configuration] seconds of all compute ops, and of all dispatches and combines, each alone: means of ranks."""
    often = np.bincount(batch.sort_of, minlength=len(batch.ticks))
    kind = dict(zip(batch.sort_of, batch.schedule.ops, strict=True))
    sums = np.zeros((2, batch.size))
    for n, times in enumerate(often):
        if kind[n].kind in "DC" or not kind[n].collective:
            sums[int(kind[n].collective)] += times * batch.ticks[n].mean(axis=0)
    computing, communicating = sums / TICKS_PER_S
    return computing, communicating


def simulated(case: Case) -> Outcomes:
    """By SimPy, one after another.  ValueErrors are reasons; anything else is a fault of ours, and is called one."""
    found = Outcomes.nothing(case.size)
    for i in range(case.size):
        try:
            seed, cluster = None if case.seeds is None else int(case.seeds[i]), case.cluster(i)
            numbers = told(simulate(case.schedule, case.workload, cluster, seed), case.workload, cluster)
            for column, value in zip(found[:6], numbers, strict=True):
                column[i] = value
            found.engine[i] = SIMULATION
        except (ValueError, MemoryError) as reason:
            found.error[i] = str(reason) or "out of memory"
        except Exception as fault:  # one point's fault must not stop a million others; it is told, and counted
            found.error[i] = f"fault: {type(fault).__name__}: {fault}"
    return found


def told(trace: Trace, workload: Workload, cluster: Cluster) -> tuple[float, ...]:
    """The numbers of Outcomes, of a trace and what it ran on."""
    schedule, whole_s = trace.schedule, trace.makespan_s
    ticks = np.rint(durations_s(schedule, workload.fits(schedule), cluster) * TICKS_PER_S)
    alone_s = ticks.mean(axis=1) / TICKS_PER_S
    computes = np.array([not op.collective for op in schedule.ops])
    talks = np.array([op.kind in "DC" for op in schedule.ops])
    stalled_s = whole_s - float(trace.busy_s("compute").mean())
    share = float(trace.all_to_all_s.mean()) / whole_s
    exposed_s = float(trace.exposed_s.mean())
    return whole_s, float(alone_s[computes].sum()), float(alone_s[talks].sum()), stalled_s, exposed_s, share
