"""What travels in each of many configurations at once: collectives, one after the other, beside compute ops and while
nothing computes.

It knows when a collective can be reached, and what is left of the one under way; it refuses to know which op needs it
(sim/vectorised/lockstep.py).  What it does depends on spans of time only, never on what time it is, so that rounds can
be skipped (sim/vectorised/steady.py)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.program import Program

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]  # numbers of configurations


class Wire:
    """The collectives of each configuration, one after the other: `at` is the first that has not ended.

    begin: when it starts to travel, or is reached; inf where nothing waits.  left: ticks of it, alone.  sure: whether
    it has found out which kernel it has to wait for, or that there is none.  travelled: ticks so far in which a
    dispatch or combine was under way; quiet: in which nothing computed, and nothing was under way or reached."""

    def __init__(self, batch: Batch, program: Program) -> None:
        self.batch, self.queued = batch, 0
        self.number = {i: n for n, i in enumerate(i for i in program.order if program.streams[i] >= 0)}
        rows = np.array([batch.row_of[i] for i in self.number], dtype=np.intp)
        sorts = np.array([batch.sort_of[i] for i in self.number], dtype=np.intp)
        self.rows, self.sorts = (np.append(each, 0) * batch.size for each in (rows, sorts))
        self.rests = np.array([batch.rest_of[i] for i in self.number], dtype=np.intp) * batch.size
        self.ticks, self.burst, self.rest = (each.reshape(-1) for each in (batch.ticks, batch.burst, batch.rest))
        self.ready = np.full((len(self.number) + 1, batch.size), math.inf)
        self.at = np.zeros(batch.size, dtype=np.intp)
        self.begin, self.left = np.full(batch.size, math.inf), np.full(batch.size, math.inf)
        self.sure = np.zeros(batch.size, dtype=bool)
        self.bursts, self.landed = bool(batch.burst.any()), np.full(batch.size, -math.inf)
        self.talks = np.array([batch.schedule.ops[i].kind in "DC" for i in self.number] + [False])
        self.all_talk = bool(self.talks[:-1].all())
        self.travelled, self.quiet = np.zeros(batch.size), np.zeros(batch.size)
        self.ends = np.zeros((0, batch.size))  # [collective, config], where somebody asks

    # ----------------------------------------------------------------------------------------- whose turn it is

    def queue(self, i: int, ready: Array) -> None:
        """Collective `i` can be reached from `ready` on."""
        self.ready[self.queued] = ready
        first = (self.at == self.queued).nonzero()[0]
        self.queued += 1
        if len(first):
            self._take(first, ready[first])

    def next(self, some: Some, now: Array) -> None:
        """The collectives under way of `some` configurations end now, and the next ones' turn comes."""
        at, took = self.at[some], now - self.begin[some]
        self.landed[some] = now - self.rest.take(self.rests.take(at) + some) if self.bursts else now
        self.travelled[some] += took if self.all_talk else took * self.talks[at]
        if len(self.ends):
            self.ends[at, some] = now
        self.at[some] = at = at + 1
        self._take(some, np.maximum(now, self.ready.take(at * self.batch.size + some)))

    def _take(self, some: Some, begin: Array) -> None:
        self.begin[some] = begin
        self.left[some] = self._alone(some, begin)
        self.sure[some] = False

    def _alone(self, some: Some, begin: Array) -> Array:
        """Ticks of the first collective, if it begins then and nothing else is under way."""
        at = self.at[some]
        ticks: Array = self.ticks.take(self.rows.take(at) + some)
        if self.bursts:
            saved = np.clip(begin - self.landed[some], 0.0, self.burst.take(self.sorts.take(at) + some))
            ticks = np.maximum(ticks - saved, np.minimum(ticks, self.batch.latency[some]))
        if (none := at >= self.queued).any():
            ticks[none] = math.inf
        return ticks

    def under_way(self, now: Array) -> Array:
        """For how many ticks the dispatch or combine has been under way that is now."""
        return np.where(self.sure & self.talks[self.at], np.maximum(now - self.begin, 0.0), 0.0)

    def later(self, ticks: Array) -> None:
        """All is as many `ticks` later."""
        self.ready[int(self.at.min()) : self.queued] += ticks
        self.begin += ticks
        self.landed += ticks

    def skip(self, collectives: int) -> None:
        """So many collectives further on."""
        waiting = self.ready[int(self.at.min()) : self.queued].copy()
        self.queued += collectives
        self.at += collectives
        self.ready[self.queued - len(waiting) : self.queued] = waiting

    # ------------------------------------------------------------------------------------- while nothing computes

    def finish(self, i: int, now: Array) -> None:
        """Nothing computes until collective `i` has ended: `now` becomes when that is."""
        while len(some := (self.at <= self.number[i]).nonzero()[0]):
            self._land(some, now)

    def idle(self, now: Array, until: Array) -> None:
        """Nothing computes until then, which `now` becomes.  What begins only then finds an op that begins, too."""
        some = (until > now).nonzero()[0]
        while len(some):
            begin = np.maximum(self.begin[some], now[some])
            end, limit = begin + np.rint(self.left[some]), until[some]
            self.quiet[some] += np.minimum(begin, limit) - now[some]
            before = begin < limit
            ends = before & (end <= limit)
            part = before & ~ends
            self.left[some[part]] -= (limit - begin)[part]
            self.sure[some[part]] = True
            now[some] = np.where(ends, end, limit)
            some = some[ends]
            self.next(some, now[some])

    def drain(self, now: Array) -> None:
        """Nothing computes any more: `now` becomes when all has ended."""
        while len(some := (self.at < self.queued).nonzero()[0]):
            self._land(some, now)

    def _land(self, some: Some, now: Array) -> None:
        """Nothing computes until the collectives under way of `some` have ended."""
        begin = np.maximum(self.begin[some], now[some])
        self.quiet[some] += begin - now[some]
        now[some] = begin + np.rint(self.left[some])
        self.next(some, now[some])

    # ----------------------------------------------------------------------------------------- beside an op

    def beside(
        self, some: Some | slice, now: Array, left: Array, whole: Array, kernel: Array, slow: Array, drag: Array
    ) -> tuple[Array, Array, Mask]:
        """An op of `whole` ticks, of which some are `left`, computes until it ends, or the collective under way does.

        Until when, what is then left of it, and whether it was the collective."""
        begin = self._begun(some, now, left, whole, kernel)
        alone = np.minimum(np.maximum(begin - now, 0.0), left)
        shared = np.rint((left - alone) * slow)
        travels = np.rint(self.left[some] * drag)
        passed = np.minimum(shared, travels)
        self.left[some] -= passed / drag
        return now + np.rint(alone) + passed, left - alone - passed / slow, travels < shared

    def _begun(self, some: Some | slice, now: Array, left: Array, whole: Array, kernel: Array) -> Array:
        """When the first collectives begin: one that is reached while an op computes, when its `kernel` ends."""
        begin = self.begin[some]
        reached = ((begin - now < left) & ~self.sure[some] & (kernel > 0)).nonzero()[0]
        if len(reached):
            done = (whole - left)[reached] + (begin - now)[reached]
            late = begin[reached] + np.rint(kernel[reached] - np.remainder(done, kernel[reached]))
            begin[reached] = late
            which = reached if isinstance(some, slice) else some[reached]
            self.begin[which] = late
            self.sure[which] = True
            if self.bursts:
                self.left[which] = self._alone(which, late)
        return begin
