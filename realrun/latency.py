"""How long a simulation says that a schedule takes: the one file of this room that asks it.

Real ranks measure seconds and must not know what was predicted.  An emulation measures none: it computes images, for
which timing has no meaning, and takes its seconds from the simulation alone.  So this file imports no ranks, transfers
and execution, and nothing that measures imports it (tests/test_house.py holds both)."""

from __future__ import annotations

from sim.cluster import Cluster
from sim.engine import simulate
from sim.load import load_schedule
from sim.workload import Workload


class Clock:
    """Simulated seconds of schedules on one machine, for one workload; each is simulated once."""

    def __init__(self, workload: Workload, cluster: Cluster) -> None:
        self.workload, self.cluster = workload, cluster
        self._known: dict[tuple[str, int], float] = {}

    def seconds(self, source: str, steps: int) -> float:
        """Until the last image is done."""
        if (source, steps) not in self._known:
            model = self.workload.model
            schedule = load_schedule(source, steps, model.layers, top_k=model.top_k)
            self._known[source, steps] = simulate(schedule, self.workload, self.cluster).makespan_s
        return self._known[source, steps]

    def as_long_as(self, source: str, steps: int) -> int | None:
        """The most synchronous steps, fewer than `steps`, that take no longer than `source` with `steps`.

        None if that is not even one, or where the schedule is no faster than the synchronous one."""
        limit_s = self.seconds(source, steps)
        if limit_s >= self.seconds("sync", steps):
            return None
        few = min(steps - 1, int(limit_s / self.seconds("sync", steps) * steps) + 1)
        while few and self.seconds("sync", few) > limit_s:
            few -= 1
        return few or None
