"""The vectorised engine where compute and communication slow each other down, for many configurations of one schedule
at once, of which each has ranks that are all alike.

Compute ops are walked one after the other by all configurations in lockstep.  A collective is walked before the first
compute op that may run beside it, so that all that travels beside an op is known when it begins: each configuration
has collectives under way or queued, and goes through the op piece by piece, as in sim/fluid.py, until it ends.

It does what the simulation does, rounded to whole picoseconds at the same events; where several fall on one picosecond
a tick may be lost (tests/test_lockstep.py: 1e-6 of the makespan at most).  It refuses transfers that share links."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim.batch import Batch
from sim.maxplus import Hosts
from sim.program import Program

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Lockstep:
    """All configurations of a batch, op by op.  Arrays are [config], in ticks; `now` is until when all is known.

    defers: a collective waits for the kernel that runs."""

    def __init__(self, batch: Batch, program: Program, defers: bool) -> None:
        assert batch.ranks == 1, "ranks are alike"
        self.batch, self.program, self.defers = batch, program, defers
        self.host, self.wire = Hosts(program, batch), _Wire(batch, program)
        self.slow = [np.ascontiguousarray(row) for row in batch.slow_compute]
        self.kernel = batch.ticks[:, 0] / batch.kernels[_sorts_of_rows(batch)]
        self.now = np.zeros(batch.size)
        self.holding = {i for i, blocks in enumerate(program.blocks) if blocks and program.streams[i] >= 0}
        self.wire.ends = np.zeros((len(self.wire.number) if self.holding else 0, batch.size))

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start to the last op's end."""
        program, begin = self.program, self.now
        for n, i in enumerate(program.order):
            self._hold(program.blocker[i])
            issued = self.host.issue(i).reshape(-1)
            if program.streams[i] >= 0:
                self.wire.queue(i, np.maximum(issued, self.now))
                continue
            for j in program.crossing[i]:
                self.now = self.wire.finish(j, self.now)
            self.now = self.wire.idle(self.now, issued)
            begin = begin if n else self.now
            self._compute(i)
            self.host.ended(i, self.now)
        return self.wire.drain(self.now) - begin

    def _hold(self, blocker: int) -> None:
        """The host waits for collective `blocker`, before which nothing more is issued."""
        if blocker in self.holding:
            self.holding.remove(blocker)
            self.now = self.wire.finish(blocker, self.now)
            self.host.ended(blocker, self.wire.ends[self.wire.number[blocker]])

    def _compute(self, i: int) -> None:
        """Op `i`, piece by piece: until a collective ends, or the op."""
        row, n, wire = self.batch.row_of[i], self.batch.sort_of[i], self.wire
        left, slow, drag = self.batch.ticks[row, 0].copy(), self.slow[n], self.batch.slow_transfer
        whole, now = left.copy(), self.now
        while True:
            if self.defers:
                wire.defer(now, whole, left, self.kernel[row])
            alone = np.minimum(np.maximum(wire.begin - now, 0.0), left)
            beside = np.rint((left - alone) * slow)
            travels = np.rint(wire.left * drag)
            ends = travels < beside
            passed = np.minimum(beside, travels)
            now = now + np.rint(alone) + passed
            wire.left -= passed / drag
            left -= alone + passed / slow
            if not ends.any():
                break
            left[~ends] = 0.0
            wire.next(ends, now)
        self.now = now


class _Wire:
    """The collectives of each configuration, one after the other: `at` is the first that has not ended.

    begin: when it starts to travel, or is reached; inf where nothing waits.  left: ticks of it, alone.  sure: whether
    it has found out which kernel it has to wait for, or that there is none."""

    def __init__(self, batch: Batch, program: Program) -> None:
        self.batch, self.queued = batch, 0
        self.number = {i: n for n, i in enumerate(i for i in program.order if program.streams[i] >= 0)}
        rows = np.array([batch.row_of[i] for i in self.number], dtype=np.intp)
        sorts = np.array([batch.sort_of[i] for i in self.number], dtype=np.intp)
        self.rows, self.sorts = (np.append(each, 0) * batch.size for each in (rows, sorts))
        self.config = np.arange(batch.size)
        self.ready = np.full((len(self.number) + 1, batch.size), math.inf)
        self.at = np.zeros(batch.size, dtype=np.intp)
        self.begin, self.left = np.full(batch.size, math.inf), np.full(batch.size, math.inf)
        self.sure = np.zeros(batch.size, dtype=bool)
        self.bursts, self.landed = bool(batch.burst.any()), np.full(batch.size, -math.inf)
        self.ends = np.zeros((0, batch.size))  # [collective, config], where somebody asks

    def queue(self, i: int, ready: Array) -> None:
        """Collective `i` can be reached from `ready` on."""
        self.ready[self.queued] = ready
        first = self.at == self.queued
        self.queued += 1
        if first.any():
            self._take(first, ready)

    def finish(self, i: int, now: Array) -> Array:
        """Nothing computes until collective `i` has ended; when that is."""
        while (waits := self.at <= self.number[i]).any():
            end = np.maximum(self.begin, now) + np.rint(self.left)
            now = np.where(waits, end, now)
            self.next(waits, now)
        return now

    def idle(self, now: Array, until: Array) -> Array:
        """Nothing computes until then."""
        if not (until > now).any():
            return now
        until = np.maximum(now, until)
        while True:
            begin = np.maximum(self.begin, now)
            end = begin + np.rint(self.left)
            ends = end <= until
            part = (begin < until) & ~ends
            self.left[part] -= (until - begin)[part]
            self.begin[part] = until[part]
            self.sure |= part
            if not ends.any():
                return until
            now = np.where(ends, end, until)
            self.next(ends, now)

    def drain(self, now: Array) -> Array:
        """Nothing computes any more; when all has ended."""
        while (waits := self.at < self.queued).any():
            now = np.where(waits, np.maximum(self.begin, now) + np.rint(self.left), now)
            self.next(waits, now)
        return now

    def next(self, ended: Mask, now: Array) -> None:
        """Where `ended`, the collective under way ends now, and the next one's turn comes."""
        np.copyto(self.landed, now, where=ended)
        if len(self.ends):
            self.ends[self.at[ended], self.config[ended]] = now[ended]
        self.at += ended
        ready = self.ready.reshape(-1)[self.at * self.batch.size + self.config]
        self._take(ended, np.maximum(now, ready))

    def _take(self, where: Mask, begin: Array) -> None:
        np.copyto(self.begin, begin, where=where)
        np.copyto(self.left, self._alone(begin), where=where)
        self.sure &= ~where

    def _alone(self, begin: Array) -> Array:
        """Ticks of the first collective, if it begins then and nothing else is under way."""
        ticks: Array = self.batch.ticks.reshape(-1)[self.rows[self.at] + self.config]
        if self.bursts:
            burst = self.batch.burst.reshape(-1)[self.sorts[self.at] + self.config]
            saved = np.clip(begin - self.landed, 0.0, burst)
            ticks = np.maximum(ticks - saved, np.minimum(ticks, self.batch.latency))
        return np.where(self.at < self.queued, ticks, math.inf)

    def defer(self, now: Array, whole: Array, left: Array, kernel: Array) -> None:
        """Collectives that are reached while an op computes, of which `left` ticks of the `whole` remain, begin when
        its `kernel` ends."""
        reached = (self.begin < now + left) & ~self.sure & (kernel > 0)
        if reached.any():
            done = whole - left + self.begin - now
            begin = self.begin + np.rint(kernel - np.remainder(done, kernel, where=reached, out=np.zeros(len(now))))
            np.copyto(self.begin, begin, where=reached)
            self.sure |= reached
            if self.bursts:
                np.copyto(self.left, self._alone(begin), where=reached)


def _sorts_of_rows(batch: Batch) -> npt.NDArray[np.intp]:
    """[row of ticks] its sort."""
    sorts = np.zeros(len(batch.ticks), dtype=np.intp)
    sorts[batch.row_of] = batch.sort_of
    return sorts
