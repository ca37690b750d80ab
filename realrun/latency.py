"""How long a simulation says that a schedule takes: the one file of this room that asks it.

Real ranks measure seconds and must not know what was predicted.  An emulation measures none: it computes images, for
which timing has no meaning, and takes its seconds from the simulation alone.  So this file imports nothing of this
room, and only the commands that emulate import it (tests/test_house.py holds both)."""

from __future__ import annotations

from dataclasses import replace

from sim.cluster import Cluster
from sim.engine import simulate
from sim.load import load_for
from sim.models import load_model
from sim.workload import ModelShape, Workload


class Clock:
    """Simulated seconds of schedules on one machine, for one workload; each is simulated once."""

    def __init__(self, workload: Workload, cluster: Cluster) -> None:
        self.workload, self.cluster = workload, cluster
        self._known: dict[tuple[str, int], float] = {}

    @staticmethod
    def of(
        cluster: str, model: str | ModelShape, images: int, ranks: int | None = None, wire: str | None = None
    ) -> Clock:
        """On the machine of this name or file, of the model (or the one of this name), `images` on each rank.

        None: as many ranks as the machine has; rows that travel as a simulation's do."""
        machine = Cluster.load(cluster)
        machine = machine if ranks is None else replace(machine, ranks=ranks)
        workload = Workload(load_model(model) if isinstance(model, str) else model, machine.ranks, images)
        return Clock(workload if wire is None else replace(workload, wire=wire), machine)

    def seconds(self, source: str, steps: int) -> float:
        """Until the last image is done."""
        if (source, steps) not in self._known:
            schedule = load_for(source, steps, self.workload.model)
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
