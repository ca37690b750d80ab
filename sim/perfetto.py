"""Traces as one file for ui.perfetto.dev (Chrome's JSON trace format): every rank of every trace is a process, its
streams are threads, its spans are slices, a flow joins dispatch, experts, combine and the residuals that add it.

Counters of every rank: layers' worth of received rows that are kept, and transfers under way; where the workload is at
hand instead GB/s that its links send and receive, and GB of its memory, all and by what waits (sim/memory_time.py).

Times in the file are microseconds, in whole nanoseconds, so that slices that touch do not overlap."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.counters import Lives, carried_bytes, counted, link_use, received
from sim.memory_time import WORKING, MemoryOverTime, memory_over_time
from sim.output import whole_file
from sim.schedule import Op, Schedule
from sim.show import kind_name, trace_labels
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]
Nanoseconds = npt.NDArray[np.int64]


def write_perfetto(
    traces: Sequence[Trace],
    path: Path | str,
    labels: Sequence[str] | None = None,
    workloads: Sequence[Workload | None] | None = None,
) -> None:
    """Writes `traces`, each from its own 0 on, to `path`, whole or not at all.

    Processes are called label/rank0, ...; labels are those of `trace_labels` where none are given.  workloads: what
    each trace ran, where that is known; counters in bytes need it.  Raises ValueError if labels do not tell the traces
    apart or a workload does not fit its trace, OSError if `path` cannot be written."""
    labels = trace_labels(traces, labels)
    needs = [_Needs.of(*pair) for pair in zip(traces, workloads or [None] * len(traces), strict=True)]
    about = {label: {"schedule": t.schedule.header, **t.about} for label, t in zip(labels, traces, strict=True)}
    with whole_file(path) as temporary, temporary.open("w") as file:
        file.write('{"displayTimeUnit": "ms", "otherData": ' + json.dumps(about) + ', "traceEvents": [\n')
        file.write(",\n".join(trace_events(traces, labels, needs)))
        file.write("\n]}\n")


@dataclass(frozen=True)
class _Needs:
    """What the counters of one trace are made from."""

    received: dict[str, Lives]
    carried: tuple[Nanoseconds, Array, Array] | None = None
    memories: list[MemoryOverTime] | None = None

    @staticmethod
    def of(trace: Trace, workload: Workload | None) -> _Needs:
        kept = received(trace.schedule)
        if workload is None:
            return _Needs(kept)
        memories = memory_over_time(trace, workload)
        return _Needs(kept, carried_bytes(trace.schedule, workload.fits(trace.schedule)), memories)


def trace_events(traces: Sequence[Trace], labels: Sequence[str], needs: Sequence[_Needs]) -> Iterator[str]:
    """The events of all traces, rank by rank: names, slices and waits thread by thread, flows, counters.

    As JSON, put together by hand: an encoder takes half as long again for hundreds of thousands of them."""
    pids, flow_ids = count(1), count(1)
    for trace, label, their in zip(traces, labels, needs, strict=True):
        args = [json.dumps(_args(op)) for op in trace.schedule.ops]
        flows = chains(trace.schedule)
        for rank in range(trace.ranks):
            pid = next(pids)
            yield _name("process", f"{label}/rank{rank}", pid)
            tids = np.zeros(len(args), dtype=np.int64)
            reached, start, end = (_nanoseconds(a[rank]) for a in (trace.reached_s, trace.start_s, trace.end_s))
            for tid, (thread, ops) in enumerate(_threads(trace, start, end), 1):
                tids[ops] = tid
                yield _name("thread", thread, pid, tid)
                yield from _slices(trace, ops, args, (reached, start, end), f'"pid": {pid}, "tid": {tid}')
            middle = (start + end) // 2
            for chain in flows:
                yield from _flow(next(flow_ids), chain, middle, pid, tids)
            yield from _counters(trace, rank, pid, their)


def chains(schedule: Schedule) -> list[list[int]]:
    """Positions of dispatch, experts and combine of a (step, layer, part), and of the residuals that add them."""
    found: dict[object, list[int]] = {}
    for i, op in enumerate(schedule.ops):
        sources = schedule.sources(op) if op.kind == "R" else [(op.step,)] if op.kind in "DEC" and not op.unused else []
        for step in dict.fromkeys(step for steps in sources for step in steps):
            found.setdefault((step, op.layer, op.part), []).append(i)
    return [chain for chain in found.values() if len(chain) > 1]


def _threads(trace: Trace, start: Nanoseconds, end: Nanoseconds) -> Iterator[tuple[str, list[int]]]:
    """(name, positions of its ops by time): a thread a stream, and further ones where spans of a stream overlap."""
    streams = np.array([op.stream for op in trace.schedule.ops])
    for stream in trace.schedule.streams:
        mine = np.flatnonzero(streams == stream)
        lanes: list[list[int]] = []
        for i in mine[np.lexsort((end[mine], start[mine]))].tolist():
            free = next((lane for lane in lanes if end[lane[-1]] <= start[i]), None)
            if free is None:
                lanes.append([i])
            else:
                free.append(i)
        for number, lane in enumerate(lanes, 1):
            yield stream if number == 1 else f"{stream} {number}", lane


def _slices(
    trace: Trace, ops: list[int], args: list[str], times: tuple[Nanoseconds, ...], thread: str
) -> Iterator[str]:
    """A slice an op, and one for the wait before it: from when the rank reached a collective until it began.

    args: JSON, by op.  `times` are reached, start and end [op] of this rank."""
    free = 0
    for i, waits, begins, ends in zip(ops, *(time[ops].tolist() for time in times), strict=True):
        op = trace.schedule.ops[i]
        waits, name = max(waits, free), op.name
        if waits < begins and op.collective:
            yield _slice(f"wait {name}", waits, begins, thread, "{}")
        yield _slice(name, begins, ends, thread, args[i])
        free = ends


def _slice(name: str, begins: int, ends: int, thread: str, args: str) -> str:
    """Times in nanoseconds."""
    span = f'"ts": {begins / 1e3!r}, "dur": {(ends - begins) / 1e3!r}'
    return f'{{"ph": "X", "name": "{name}", {span}, {thread}, "args": {args}}}'


def _flow(flow_id: int, chain: list[int], middle: Nanoseconds, pid: int, tids: Nanoseconds) -> Iterator[str]:
    """Arrows from op to op of `chain`; each is tied to the middle of a slice, where no other slice begins or ends."""
    last = len(chain) - 1
    for n, (ts, tid) in enumerate(zip(middle[chain].tolist(), tids[chain].tolist(), strict=True)):
        phase = "s" if n == 0 else "f" if n == last else "t"
        about = f'"ph": "{phase}", "bp": "e", "cat": "chain", "name": "chain", "id": {flow_id}'
        yield f'{{{about}, "ts": {ts / 1e3!r}, "pid": {pid}, "tid": {tid}}}'


def _counters(trace: Trace, rank: int, pid: int, needs: _Needs) -> Iterator[str]:
    """What the rank keeps and what its links carry, whenever that changes; see the top of the file."""
    start, end, talks = trace.start_s[rank], trace.end_s[rank], trace.on_communication
    if needs.carried is None or needs.memories is None:
        for what, (born, dies, size) in needs.received.items():
            yield from _counter(what, ("layers",), pid, *counted(start[born], end[dies], size))
        yield from _counter("transfers under way", ("transfers",), pid, *counted(start[talks], end[talks], 1.0))
        return
    times, *rates = link_use(trace, rank, needs.carried)
    yield from _counter("link", ("sent GB/s", "received GB/s"), pid, times, *(rate / 1e9 for rate in rates))
    held = needs.memories[rank]
    waiting = {f"memory, {what}": size for what, size in held.bytes_of.items() if what != WORKING}
    for name, size in {"memory": held.total_bytes, **waiting}.items():
        kept = np.diff(size, prepend=np.nan) != 0
        yield from _counter(name, ("GB",), pid, held.times_s[kept], size[kept] / 1e9)


def _counter(name: str, units: tuple[str, ...], pid: int, times_s: Array, *values: Array) -> Iterator[str]:
    """Values to the ninth digit: of GB, bytes."""
    about, args = f'"ph": "C", "name": "{name}", "pid": {pid}', ", ".join(f'"{unit}": %r' for unit in units)
    columns = [_nanoseconds(times_s) / 1e3, *(np.round(each, 9) for each in values)]
    for ts, *now in zip(*(column.tolist() for column in columns), strict=True):
        yield f'{{{about}, "ts": {ts!r}, "args": {{{args % (*now,)}}}}}'


def _args(op: Op) -> dict[str, Any]:
    """What a click on a slice shows."""
    about = {"op": str(op), "kind": kind_name(op.kind), "step": op.step, "layer": op.layer, "part": op.part}
    return {key: value for key, value in (about | {"reads": list(op.reads)}).items() if value not in (None, "", [])}


def _name(what: str, name: str, pid: int, tid: int = 0) -> str:
    return json.dumps({"ph": "M", "name": f"{what}_name", "pid": pid, "tid": tid, "args": {"name": name}})


def _nanoseconds(seconds: npt.NDArray[np.float64]) -> Nanoseconds:
    return np.rint(seconds * 1e9).astype(np.int64)
