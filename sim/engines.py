"""Many configurations of one schedule and workload, and which engine runs them.

A Batch is one list of ops on one workload, on as many machines as there are configurations: a cluster, and numbers of
it that differ.  `evaluate` returns what became of each, and who found out.  It knows engines by their bounds; it
refuses to know points, files and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster
from sim.engine import simulate
from sim.point import changed
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]
SIMPY = "simpy"


@dataclass(frozen=True)
class Batch:
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


class Outcomes(NamedTuple):
    """[configuration]: seconds and shares as in sim/sweep_rows.py, nan where there are none; who ran it, or why not."""

    makespan_s: Array
    exposed_s: Array
    communication_share: Array
    engine: list[str | None]
    error: list[str | None]


def evaluate(batch: Batch) -> Outcomes:
    """What becomes of every configuration, by the fastest engine that may run it."""
    return simulated(batch)


def simulated(batch: Batch) -> Outcomes:
    """By SimPy, one after another.  ValueErrors are reasons; anything else is a fault of ours, and is said to be one."""
    numbers = np.full((3, batch.size), np.nan)
    engine: list[str | None] = [None] * batch.size
    error: list[str | None] = [None] * batch.size
    for i in range(batch.size):
        try:
            seed = None if batch.seeds is None else int(batch.seeds[i])
            numbers[:, i] = told(simulate(batch.schedule, batch.workload, batch.cluster(i), seed))
            engine[i] = SIMPY
        except (ValueError, MemoryError) as reason:
            error[i] = str(reason) or "out of memory"
        except Exception as fault:  # one point's fault must not stop a million others; it is told, and counted
            error[i] = f"fault: {type(fault).__name__}: {fault}"
    return Outcomes(*numbers, engine, error)


def told(trace: Trace) -> tuple[float, float, float]:
    """makespan_s, exposed_s and communication_share of a trace."""
    share = float(trace.all_to_all_s.mean()) / trace.makespan_s
    return trace.makespan_s, float(trace.exposed_s.mean()), share
