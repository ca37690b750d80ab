"""What a trace uses over time, for whoever draws it: links, and buffers in layers' worth.

A Trace knows when its collectives ran; how many bytes they carried, its workload knows.  The file counts; it refuses to
know how a counter is drawn or written."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.buffers import worth
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


class Lives(NamedTuple):
    """What is there from the start of one op until the end of another: [life] positions of both, and how much."""

    born: Positions
    dies: Positions
    size: Array


def counted(begin: Array, end: Array, *sizes: npt.ArrayLike) -> tuple[Array, ...]:
    """(moments, [moment] sum of the first of `sizes` of what is there from then on, of the second, ...) of things from
    `begin` to `end` [thing].

    Only moments at which something changes; neighbours that come to the same are left out."""
    times, at = np.unique(np.concatenate([begin, end]), return_inverse=True)
    sums = [_sum(at, np.broadcast_to(np.asarray(size, np.float64), len(begin)), len(times)) for size in sizes]
    kept = np.any([np.diff(now, prepend=np.nan) != 0 for now in sums], axis=0)
    return (times[kept], *(now[kept] for now in sums))


def _sum(at: Positions, size: Array, moments: int) -> Array:
    """[moment] what there is of `size`, of things that begin and end at the moments `at` (begins, then ends)."""
    change = np.bincount(at[: len(size)], size, moments) - np.bincount(at[len(size) :], size, moments)
    now: Array = np.cumsum(change)
    now[np.abs(now) < 1e-9 * np.abs(change).max(initial=0.0)] = 0.0  # not a rounding
    return now


def received(schedule: Schedule) -> dict[str, Lives]:
    """Kind of received buffer -> its lives, in layers' worth (1: rows of all slots and micro-batches of a layer)."""
    lives: dict[str, list[tuple[int, int, float]]] = {}
    for buffer in schedule.buffers:
        if buffer.what.startswith("received"):
            lives.setdefault(buffer.what, []).append((buffer.born, buffer.dies, worth(schedule, buffer)))
    return {what: _lives(each) for what, each in lives.items()}


def carried_bytes(schedule: Schedule, workload: Workload) -> tuple[Positions, Array, Array]:
    """Positions of the collectives that carry rows, and the bytes that each rank sends and receives over links.

    (positions [transfer], sent [transfer, rank], came [transfer, rank]).  `workload` must have been fitted to the
    schedule (`Workload.fits`).  Token counts and headers are left out."""
    from sim.cost import sorts  # needs SimPy, which a trace without its workload does not

    sort_of, first = sorts(schedule, workload)
    moved = [workload.sent_bytes(schedule, op) if op.kind in "DCK" else None for op in first]
    found = [(at, each) for at, n in enumerate(sort_of) if (each := moved[n]) is not None]
    sent, came = (np.array([each.sum(axis=axis) for _, each in found]).reshape(-1, workload.ranks) for axis in (1, 0))
    return np.array([at for at, _ in found], np.int64), sent, came


def link_use(trace: Trace, rank: int, carried: tuple[Positions, Array, Array]) -> tuple[Array, ...]:
    """(moments, bytes a second that `rank` sends from then on, those that it receives), each transfer at one rate.

    What a rank sends takes until its own end of the collective.  Ignores that flows of a transfer end one by one."""
    positions, *moved = carried
    begin, end = trace.start_s[rank, positions], trace.end_s[rank, positions]
    lasted = np.maximum(end - begin, 1e-12)
    return counted(begin, end, *(each[:, rank] / lasted for each in moved))


def _lives(found: list[tuple[int, int, float]]) -> Lives:
    born, dies, size = zip(*found, strict=True)
    return Lives(np.array(born), np.array(dies), np.array(size))
