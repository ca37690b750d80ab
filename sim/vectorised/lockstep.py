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

from sim.vectorised.batch import Batch
from sim.vectorised.maxplus import Hosts
from sim.vectorised.program import Program

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]  # numbers of configurations
_ALL = slice(None)


class Lockstep:
    """All configurations of a batch, op by op.  Arrays are [config], in ticks; `now` is until when all is known.

    defers: whether a collective waits for the kernel that runs, in all of them or [config]."""

    def __init__(self, batch: Batch, program: Program, defers: bool | Mask) -> None:
        assert batch.ranks == 1, "ranks are alike"
        self.batch, self.program = batch, program
        self.host, self.wire = Hosts(program, batch), self.wired(batch, program)
        self.slow = [np.ascontiguousarray(row) for row in batch.slow_compute]
        self.kernel = np.asarray(defers) * batch.ticks[:, 0] / batch.kernels[_sorts_of_rows(batch)]
        self.now = self.begin = np.zeros(batch.size)
        self.holding = {i for i, blocks in enumerate(program.blocks) if blocks and program.streams[i] >= 0}
        self.wire.ends = np.zeros((len(self.wire.number) if self.holding else 0, batch.size))

    def wired(self, batch: Batch, program: Program) -> Wire:
        """Its collectives."""
        return Wire(batch, program)

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start to the last op's end."""
        self.run()
        return self.now - self.begin

    def run(self) -> None:
        """Walks all ops: `begin` and `now` become when the first starts and the last ends."""
        program = self.program
        for n, i in enumerate(program.order):
            self._hold(program.blocker[i])
            issued = self.host.issue(i).reshape(-1)
            if program.streams[i] >= 0:
                self.wire.queue(i, np.maximum(issued, self.now))
                continue
            for j in program.crossing[i]:
                self.wire.finish(j, self.now)
            self.wire.idle(self.now, issued)
            self.begin = self.begin if n else self.now
            self._compute(i)
            self.host.ended(i, self.now)
        self.wire.drain(self.now)

    def _hold(self, blocker: int) -> None:
        """The host waits for collective `blocker`, before which nothing more is issued."""
        if blocker in self.holding:
            self.holding.remove(blocker)
            self.wire.finish(blocker, self.now)
            self.host.ended(blocker, self.wire.ends[self.wire.number[blocker]])

    def _compute(self, i: int) -> None:
        """Op `i`: all configurations until a collective ends, or the op; then those for which a collective did."""
        row, n = self.batch.row_of[i], self.batch.sort_of[i]
        costs = self.batch.ticks[row, 0], self.kernel[row], self.slow[n], self.batch.slow_transfer
        self.now, left, ends = self.wire.beside(_ALL, self.now, costs[0], *costs)
        some = ends.nonzero()[0]
        left = left[some]
        while len(some):
            self.wire.next(some, self.now[some])
            self.now[some], left, ends = self.wire.beside(some, self.now[some], left, *(each[some] for each in costs))
            some, left = some[ends], left[ends]


class Wire:
    """The collectives of each configuration, one after the other: `at` is the first that has not ended.

    begin: when it starts to travel, or is reached; inf where nothing waits.  left: ticks of it, alone.  sure: whether
    it has found out which kernel it has to wait for, or that there is none."""

    def __init__(self, batch: Batch, program: Program) -> None:
        self.batch, self.queued = batch, 0
        self.number = {i: n for n, i in enumerate(i for i in program.order if program.streams[i] >= 0)}
        rows = np.array([batch.row_of[i] for i in self.number], dtype=np.intp)
        sorts = np.array([batch.sort_of[i] for i in self.number], dtype=np.intp)
        self.rows, self.sorts = (np.append(each, 0) * batch.size for each in (rows, sorts))
        self.ticks, self.burst = batch.ticks.reshape(-1), batch.burst.reshape(-1)
        self.ready = np.full((len(self.number) + 1, batch.size), math.inf)
        self.at = np.zeros(batch.size, dtype=np.intp)
        self.begin, self.left = np.full(batch.size, math.inf), np.full(batch.size, math.inf)
        self.sure = np.zeros(batch.size, dtype=bool)
        self.bursts, self.landed = bool(batch.burst.any()), np.full(batch.size, -math.inf)
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
        self.landed[some] = now
        if len(self.ends):
            self.ends[self.at[some], some] = now
        self.at[some] = at = self.at[some] + 1
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

    # ------------------------------------------------------------------------------------- while nothing computes

    def finish(self, i: int, now: Array) -> None:
        """Nothing computes until collective `i` has ended: `now` becomes when that is."""
        while len(some := (self.at <= self.number[i]).nonzero()[0]):
            now[some] = np.maximum(self.begin[some], now[some]) + np.rint(self.left[some])
            self.next(some, now[some])

    def idle(self, now: Array, until: Array) -> None:
        """Nothing computes until then, which `now` becomes."""
        some = (until > now).nonzero()[0]
        while len(some):
            begin = np.maximum(self.begin[some], now[some])
            end, limit = begin + np.rint(self.left[some]), until[some]
            ends = end <= limit
            part = (begin < limit) & ~ends
            self.left[some[part]] -= (limit - begin)[part]
            self.sure[some[part]] = True
            now[some] = np.where(ends, end, limit)
            some = some[ends]
            self.next(some, now[some])

    def drain(self, now: Array) -> None:
        """Nothing computes any more: `now` becomes when all has ended."""
        while len(some := (self.at < self.queued).nonzero()[0]):
            now[some] = np.maximum(self.begin[some], now[some]) + np.rint(self.left[some])
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
        reached = ((begin < now + left) & ~self.sure[some] & (kernel > 0)).nonzero()[0]
        if len(reached):
            done = (whole - left - now)[reached] + begin[reached]
            late = begin[reached] + np.rint(kernel[reached] - np.remainder(done, kernel[reached]))
            begin[reached] = late
            which = reached if isinstance(some, slice) else some[reached]
            self.begin[which] = late
            self.sure[which] = True
            if self.bursts:
                self.left[which] = self._alone(which, late)
        return begin


def _sorts_of_rows(batch: Batch) -> Some:
    """[row of ticks] its sort."""
    sorts = np.zeros(len(batch.ticks), dtype=np.intp)
    sorts[batch.row_of] = batch.sort_of
    return sorts
