"""The critical path of a trace: the chain of ops and waits that its makespan consists of, and what would shorten it.

Everything follows from the trace: its spans, `Schedule.inputs`, the order of each stream, and that a collective starts
when the last rank has reached it.  Time in which an op did not run although these allow it is the host's, which issues
ops and hands them over, or a kernel's that is in a collective's way.  The file works alike for simulated and measured
traces, and refuses to know machines: durations are those recorded, so that what shortening does to interference, to
transfers that share links and to a host which had time to spare is not in its answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from sim.trace import HOSTS, Trace

Array = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)
TOLERANCE_S = 1e-9  # what is closer together counts as one moment
HOST = "host"  # what a time on the path is called in which an op's stream and inputs were ready and it did not run


class Segment(NamedTuple):
    """A piece of the path: an op's span (cut where the next began), or the host's time before one."""

    rank: int
    kind: str  # of op, or HOST
    name: str  # of the op that ran, or that the host held up
    begin_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class CriticalPath:
    """Segments from the first op's start to the last op's end: each begins where the one before ends."""

    trace: Trace
    segments: Sequence[Segment]

    def seconds(self, key: Callable[[Segment], Key]) -> dict[Key, float]:
        """Seconds on the path by `key` of its segments, most first; they add up to the makespan."""
        found: dict[Key, float] = {}
        for segment in self.segments:
            found[key(segment)] = found.get(key(segment), 0.0) + segment.end_s - segment.begin_s
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def critical_path(trace: Trace, tolerance_s: float = TOLERANCE_S) -> CriticalPath:
    """Walks back from the op that ended last, each time to what it waited for last: ended on its own rank, or for a
    collective on the rank that reached it last.  Where several did within the tolerance, to one of them."""
    waits = _Waits(trace, tolerance_s)
    rank, i = (int(at) for at in np.unravel_index(int(np.argmax(trace.end_s)), trace.end_s.shape))
    moment, first, segments = float(trace.end_s.max()), float(trace.start_s.min()), []

    def pass_to(begin_s: float, kind: str) -> None:
        nonlocal moment
        if begin_s < moment:
            segments.append(Segment(rank, kind, trace.schedule.ops[i].name, begin_s, moment))
            moment = begin_s

    while True:
        pass_to(float(trace.start_s[rank, i]), trace.schedule.ops[i].kind)
        if trace.on_communication[i]:
            rank = int(np.argmax(trace.reached_s[:, i]))
        before = max(waits.before[i], key=lambda j: trace.end_s[rank, j], default=None)
        if before is None or moment - trace.end_s[rank, before] > tolerance_s:
            anchor = waits.anchor[i]
            before = anchor if waits.held[rank, i] else before
            pass_to(first if before is None else float(trace.end_s[rank, before]), HOST)
        if before is None:
            return CriticalPath(trace, segments[::-1])
        i = before


def what_if(trace: Trace, factors: Array, tolerance_s: float = TOLERANCE_S) -> Array:
    """Makespans [case] in seconds if every op took factors [case, rank, op] times as long as it did.

    A max-plus recurrence of the trace's own spans (Baccelli et al. 1992): an op is reached when its stream and its
    inputs are, or as late after the op that its host last waited for as it was; a collective begins with the last
    rank's reaching it.  Factors of 1 give the trace back.  Raises ValueError for another shape or factors below 0."""
    if factors.ndim != 3 or factors.shape[1:] != trace.end_s.shape or not (factors >= 0).all():
        raise ValueError(f"factors [case, rank, op] should be at least 0, of ranks and ops {trace.end_s.shape}")
    waits = _Waits(trace, tolerance_s)
    lasts = np.moveaxis((trace.end_s - trace.start_s) * factors, 2, 0)  # [op, case, rank]
    end: list[Array] = []
    for i, last in enumerate(lasts):
        begin = waits.reached(i, end, last.shape)
        if trace.on_communication[i]:
            begin = begin.max(axis=1, keepdims=True) + (trace.start_s[:, i] - trace.reached_s[:, i].max())
        end.append(begin + last)
    makespans: Array = np.max(end, axis=(0, 2)) - trace.start_s.min()
    return makespans


def gains_s(trace: Trace, cases: Sequence[tuple[str, int | None]], share: float) -> Array:
    """[case]: seconds that the makespan would lose if ops of a (kind, rank) took `share` less time; rank None: on all.

    Raises ValueError for a share that is not in 0 to 1."""
    if not 0 < share <= 1:
        raise ValueError(f"ops can take a share of 0 to 1 less time, not {share:g}")
    every = np.array([op.kind for op in trace.schedule.ops])
    factors = np.ones((len(cases), *trace.end_s.shape))
    for case, (kind, rank) in enumerate(cases):
        factors[case, slice(None) if rank is None else rank, every == kind] = 1 - share
    gains: Array = trace.makespan_s - what_if(trace, factors)
    return gains


class _Waits:
    """What each op of a trace has to wait for.

    before [op]: positions of the ops whose ends it needs on its own rank: the one before it on its stream, its inputs.
    anchor [op]: the last op that the host waited for before it issued this one; None if there is none.
    held [rank, op]: whether it was reached later than `before` allows, so that its host held it up since `anchor`.

    So it is in a simulated trace, where all else is immediate.  Elsewhere every op begins a little late, and whether
    it was handed over or issued late cannot be told: `anchor` is one of `before`, and as late as an op was after the
    last of these, it stays.  (A measured run whose host runs ahead but is the bottleneck then looks too good to speed
    up.)"""

    def __init__(self, trace: Trace, tolerance_s: float) -> None:
        self.trace, self.tolerance_s = trace, tolerance_s
        self.exact = trace.origin == "simulated"
        last: dict[str, int] = {}
        self.before: list[tuple[int, ...]] = []
        for i, (op, needs) in enumerate(zip(trace.schedule.ops, trace.schedule.needs, strict=True)):
            waited = None if self.exact else self.anchor[i]
            more = (j for j in (last.get(op.stream), waited) if j is not None)
            self.before.append(tuple({*needs, *more}))
            last[op.stream] = i
        none = np.full(trace.ranks, -np.inf)
        self.ready = np.array(
            [trace.end_s[:, list(before)].max(axis=1) if before else none for before in self.before]
        ).T  # [rank, op]
        self.held = np.full(self.ready.shape, False)
        if self.exact:
            self.held = self._arrived - self.ready > tolerance_s

    @cached_property
    def _arrived(self) -> Array:
        """[rank, op]: when the op could have begun as far as its own rank goes."""
        trace = self.trace
        return np.where(trace.on_communication, trace.reached_s, trace.start_s)

    @cached_property
    def anchor(self) -> list[int | None]:
        """A host that computes itself waits for every compute op, others only where the schedule says so (`!`)."""
        waited: list[int | None] = []
        last: int | None = None
        for i, op in enumerate(self.trace.schedule.ops):
            waited.append(last)
            last = i if op.blocks or (self._synchronous and not self.trace.on_communication[i]) else last
        return waited

    @cached_property
    def _synchronous(self) -> bool:
        """Whether the host computes itself: as the trace says, else whether no op was reached before the compute ops
        that were issued before it had ended.  (A host that runs ahead but not far enough looks the same.)"""
        if self.trace.about.get("host") in HOSTS.values():
            return self.trace.about["host"] == HOSTS[True]
        computed = np.where(self.trace.on_communication, -np.inf, self.trace.end_s)
        earlier = np.maximum.accumulate(computed, axis=1)[:, :-1]
        return bool((self._arrived[:, 1:] >= earlier - self.tolerance_s).all())

    def reached(self, i: int, end: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """[case, rank]: when op `i` is reached, given the ends [op][case, rank] of those before it."""
        arrived, anchor = self._arrived[:, i], self.anchor[i]
        host = np.broadcast_to(arrived, shape)
        if anchor is not None:
            host = end[anchor] + (arrived - self.trace.end_s[:, anchor])
        if not self.before[i]:
            return host
        late = arrived - self.ready[:, i]
        streams: Array = np.max([end[j] for j in self.before[i]], axis=0) + (
            np.minimum(0.0, late) if self.exact else late
        )
        return np.where(self.held[:, i], np.maximum(streams, host), streams)
