"""Rivals: what a stale schedule has to beat, on the same machine and for the same images.

Overlap that is exact, outputs that are cached, fewer bytes, all experts everywhere, and synchronous steps that are just
as few as the stale schedule's latency pays for: each is simulated beside it, so that nobody is sold staleness for a
gain that could be had without.  It knows which comparisons are fair; it refuses to know what an image loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sim.cluster import Cluster
from sim.engine import simulate
from sim.gpu import DTYPES, Gpu
from sim.load import load_schedule
from sim.memory import Memory, memory
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import WIRES, Workload

_EXACT = ("sync", "overlap", "overlap micro_batches=4", "data_parallel")  # age 0
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
    shape = workload.model
    plans = {source: load_schedule(source, steps, shape.layers, top_k=shape.top_k) for source in asked}
    found = [_rival(source, "asked for", plan, workload, cluster, tell) for source, plan in plans.items()]
    base = load_schedule("sync", steps, shape.layers, top_k=shape.top_k)
    others = []
    for name, why, plan, work in _contenders(asked, steps, workload):
        try:
            others.append(_rival(name, why, plan, work, cluster, tell))
        except ValueError:
            continue
    sync = next((rival for rival in others if rival.name == "sync"), None)
    if sync is None:
        sync = _rival("sync", "waits for everything", base, workload, cluster, tell)
    fewer = [_fewer_steps(rival, sync, workload, cluster, tell) for rival in found]
    few = {rival.name: rival for rival in fewer if rival is not None}
    rest = [rival for rival in others if rival is not sync]
    return [sync, *(rival for rival in found if rival.name != "sync"), *rest, *few.values()]


def _contenders(asked: Sequence[str], steps: int, workload: Workload) -> Iterator[tuple[str, str, Schedule, Workload]]:
    """(name, why, schedule, workload) of every rival but fewer steps."""
    shape = workload.model

    def plan(source: str) -> Schedule:
        return load_schedule(source, steps, shape.layers, top_k=shape.top_k)

    for source in _EXACT:
        if source not in asked or source == "sync":
            yield source, "exact", plan(source), workload
    for source in _CACHING:
        if source not in asked:
            yield source, "caching", plan(source), workload
    for wire in _FEWER_BYTES:
        if WIRES[wire] < WIRES[workload.wire]:
            for source in ("sync", "overlap", *asked):
                yield f"{source}, {wire}", "fewer bytes", plan(source), replace(workload, wire=wire)


def _fewer_steps(rival: Rival, sync: Rival, workload: Workload, cluster: Cluster, tell: Tell) -> Rival | None:
    """Synchronous, with as many steps as the latency of `rival` pays for; None if that is all of them, or not one."""
    shape, steps = workload.model, sync.trace.schedule.steps
    few = min(steps - 1, int(rival.trace.makespan_s / sync.trace.makespan_s * steps))
    while few > 0:
        plan = load_schedule("sync", few, shape.layers, top_k=shape.top_k)
        made = _rival(f"sync, {few} steps", f"as long as {rival.name}", plan, workload, cluster, tell)
        if made.trace.makespan_s <= rival.trace.makespan_s:
            return made if rival.trace.makespan_s < sync.trace.makespan_s else None
        few -= 1
    return None


def _rival(name: str, why: str, plan: Schedule, workload: Workload, cluster: Cluster, tell: Tell) -> Rival:
    tell(name)
    element_bytes = DTYPES[workload.dtype or "bf16"] if isinstance(cluster.compute, Gpu) else 4
    trace = simulate(plan, workload, cluster)
    return Rival(name, why, trace, memory(plan, workload, element_bytes))
