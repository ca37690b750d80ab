"""Rivals: what a stale schedule has to beat, on the same machine and for the same images.

Overlap that is exact, outputs that are cached, fewer bytes, all experts everywhere, and synchronous steps that are just
as few as the stale schedule's latency pays for: each is simulated beside it, so that nobody is sold staleness for a
gain that could be had without.  It knows which comparisons are fair; it refuses to know what an image loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sim.cluster import Cluster
from sim.engine import simulate
from sim.load import load_for
from sim.memory import Memory, memory_on
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import WIRES, Workload

_EXACT = ("overlap", "overlap micro_batches=4", "data_parallel")  # age 0, as sync
_CACHING = ("cached", "cached cached=3")
_FEWER_BYTES = ("int8",)  # float8 takes as many
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Rival:
    """One way to make the images.  why: the sort of rival it is; memory of its fullest rank."""

    name: str
    why: str
    trace: Trace
    memory: Memory

    @property
    def mean_age(self) -> float:
        """Steps, over all steps, layers and slots; over tokens where a policy decides."""
        trace = self.trace
        if trace.ages is None:
            return float(trace.staleness.mean())
        steps = range(trace.ages.shape[-1])
        return float((trace.ages * steps).sum() / trace.ages.sum())


def rivals(
    asked: Sequence[str], steps: int, workload: Workload, cluster: Cluster, tell: Tell = lambda _: None
) -> list[Rival]:
    """The schedules `asked` for, and what they have to beat: sync first, then exact ones, caching, fewer bytes, fewer
    steps.

    Raises ValueError if an asked schedule cannot be run; a rival that cannot be (experts that do not divide, images
    that cannot be cut) is left out."""
    asked = [source for source in asked if source != "sync"]
    plans = [(source, _plan(source, steps, workload)) for source in asked]
    found = [_rival(source, "asked for", plan, workload, cluster, tell) for source, plan in plans]
    sync = _rival("sync", "exact", _plan("sync", steps, workload), workload, cluster, tell)
    others = []
    for name, why, plan, work in contenders(asked, steps, workload):
        try:
            others.append(_rival(name, why, plan, work, cluster, tell))
        except ValueError:
            continue
    fewer = [_fewer_steps(rival, sync, workload, cluster, tell) for rival in found]
    few = {rival.name: rival for rival in fewer if rival is not None}
    return [sync, *found, *others, *few.values()]


def contenders(asked: Sequence[str], steps: int, workload: Workload) -> Iterator[tuple[str, str, Schedule, Workload]]:
    """(name, why, schedule, workload) of every rival but sync and fewer steps."""
    for sources, why in [(_EXACT, "exact"), (_CACHING, "caching")]:
        for source in sources:
            if source not in asked:
                yield source, why, _plan(source, steps, workload), workload
    for wire in _FEWER_BYTES:
        if WIRES[wire] < WIRES[workload.wire]:
            for source in dict.fromkeys(("sync", "overlap", *asked)):
                plan = _plan(source, steps, workload)
                yield f"{source}, {wire}", "fewer bytes", plan, replace(workload, wire=wire)


def _fewer_steps(rival: Rival, sync: Rival, workload: Workload, cluster: Cluster, tell: Tell) -> Rival | None:
    """Synchronous, with as many steps as the latency of `rival` pays for; None if that is all of them, or not one."""
    steps, limit_s = sync.trace.schedule.steps, rival.trace.makespan_s
    if workload.routing is not None and len(workload.routing.counts) > 1:  # recorded: of so many steps and no fewer
        return None
    if limit_s >= sync.trace.makespan_s:
        return None
    for few in range(min(steps - 1, int(limit_s / sync.trace.makespan_s * steps)), 0, -1):
        why = f"as long as {rival.name}"
        made = _rival(f"sync, {few} steps", why, _plan("sync", few, workload), workload, cluster, tell)
        if made.trace.makespan_s <= limit_s:
            return made
    return None


def _plan(source: str, steps: int, workload: Workload) -> Schedule:
    return load_for(source, steps, workload.model)


def _rival(name: str, why: str, plan: Schedule, workload: Workload, cluster: Cluster, tell: Tell) -> Rival:
    tell(name)
    return Rival(name, why, simulate(plan, workload, cluster), memory_on(cluster, plan, workload))
