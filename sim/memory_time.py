"""Memory over time: what a rank holds at every moment of a trace, by what it is for.

The same bytes as in sim/memory.py, alive from when the op that makes them began until its last user ended on that rank;
what a collective receives, from when it is posted, which is as soon as what it sends is there.  That is when ops *ran*;
sim/memory.py counts in the order in which they are *issued*, which knows no clock, so that the two peaks may differ
where streams overlap.  It refuses to know what library and allocator take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.kernels import parameters
from sim.memory import lifetimes, working_elements
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]
WEIGHTS, WORKING = "weights", "working space"


@dataclass(frozen=True, eq=False)
class MemoryOverTime:
    """bytes_of: what for -> [moment] bytes from that moment of `times_s` (since the trace's 0) to the next."""

    rank: int
    times_s: Array
    bytes_of: dict[str, Array]

    @property
    def total_bytes(self) -> Array:
        """[moment]: all together."""
        return np.asarray(sum(self.bytes_of.values()))

    @property
    def peak_bytes(self) -> float:
        """The most at any moment."""
        return float(self.total_bytes.max())


def memory_over_time(trace: Trace, workload: Workload, element_bytes: int = 2) -> list[MemoryOverTime]:
    """[rank] what each holds over time, if `workload` is what the trace ran.

    Raises ValueError if the two do not fit each other."""
    schedule = trace.schedule
    workload = workload.fits(schedule if workload.routing is not None else replace(schedule, policy=None))
    if workload.ranks != trace.ranks:
        raise ValueError(f"the workload is for {workload.ranks} ranks, the trace has {trace.ranks}")
    lives: dict[str, list[tuple[int, int, Array]]] = defaultdict(list)
    for what, born, dies, size in lifetimes(schedule, workload, element_bytes):
        lives[what].append((born, dies, np.broadcast_to(size, trace.ranks)))
    for at, op in enumerate(schedule.ops):
        lives[WORKING].append((at, at, working_elements(op, schedule, workload) * float(element_bytes)))
    weights = parameters(workload.model, workload.held_experts(schedule)) * element_bytes
    tables = {what: _table(each) for what, each in lives.items()}
    return [_of_rank(trace, rank, weights, tables) for rank in range(trace.ranks)]


_Table = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]


def _table(lives: list[tuple[int, int, Array]]) -> _Table:
    """Positions born and dies [life], bytes [life, rank]."""
    born, dies, sizes = zip(*lives, strict=True)
    return np.array(born), np.array(dies), np.array(sizes)


def _of_rank(trace: Trace, rank: int, weights: float, tables: dict[str, _Table]) -> MemoryOverTime:
    end, start = trace.end_s[rank], trace.start_s[rank].copy()
    for i, needs in enumerate(trace.schedule.needs):
        if trace.on_communication[i] and needs:
            start[i] = min(start[i], end[list(needs)].max())
    times = np.unique(np.concatenate([start, end]))
    held = {WEIGHTS: np.full(len(times), float(weights))}
    for what, (born, dies, sizes) in tables.items():
        begins, ends = (np.searchsorted(times, at) for at in (start[born], np.maximum(start[born], end[dies])))
        change = np.zeros(len(times))
        np.add.at(change, begins, sizes[:, rank])
        np.subtract.at(change, ends, sizes[:, rank])
        held[what] = np.maximum(0.0, np.cumsum(change))  # not a rounding below none
    return MemoryOverTime(rank, times, held)
