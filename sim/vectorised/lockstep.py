"""The vectorised engine where compute and communication slow each other down, for many configurations of one schedule
at once, of which each has ranks that are all alike.

Compute ops are walked one after the other by all configurations in lockstep.  A collective is walked before the first
compute op that may run beside it, so that all that travels beside an op is known when it begins: each configuration
has collectives under way or queued, and goes through the op piece by piece, as in sim/fluid.py, until it ends.

It does what the simulation does, rounded to whole picoseconds at the same events; where several fall on one picosecond
a tick may be lost: 1e-6 of the makespan of schedules and machines drawn without sense (tests/test_lockstep.py), none of
40 of XL's on machines by name (benchmarks/engines.py).  It refuses transfers that share links, and hosts that go on
behind a collective while ops issued before it still compute: which op a collective finds is then not known when it is
walked (`Program.overtakes`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.maxplus import Hosts
from sim.vectorised.program import Program
from sim.vectorised.steady import Rounds, Steady
from sim.vectorised.wire import Wire

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]  # numbers of configurations
_ALL = slice(None)


class Lockstep:
    """All configurations of a batch, op by op.  Arrays are [config], in ticks; `now` is until when all is known, `busy`
    for how long something was computed until then.

    defers: whether a collective waits for the kernel that runs, in all of them or [config]; skips: whether rounds that
    repeat are skipped."""

    def __init__(self, batch: Batch, program: Program, defers: bool | Mask, skips: bool = True) -> None:
        assert batch.ranks == 1, "ranks are alike"
        self.batch, self.program, self.defers = batch, program, np.broadcast_to(defers, batch.size)
        self.host, self.wire = Hosts(program, batch), Wire(batch, program)
        self.slow = [np.ascontiguousarray(row) for row in batch.slow_compute]
        self.kernel = self.defers * batch.ticks[:, 0] / batch.kernels[_sorts_of_rows(batch)]
        self.now, self.begin, self.busy = np.zeros(batch.size), np.zeros(batch.size), np.zeros(batch.size)
        self.holding = {i for i, blocks in enumerate(program.blocks) if blocks and program.streams[i] >= 0}
        self.wire.ends = np.zeros((len(self.wire.number) if self.holding else 0, batch.size))
        rounds = Rounds.of(program, batch) if skips else Rounds(0, 0, 0)
        self.steady = Steady(rounds, batch, self.host, self.wire, self.busy)

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start to the last op's end."""
        order, place = self.program.order, 0
        while place < len(order):
            if place == self.steady.next:
                place = self.steady.come_to(place, self.now)
            else:
                self._walk(order[place], place == 0)
                place += 1
        self.wire.drain(self.now)
        self.wire.quiet -= self.begin  # before which nothing is to be counted
        found = self.now - self.begin
        if len(some := self.steady.strays):
            again = Lockstep(self.batch.some(some), self.program, self.defers[some], skips=False)
            found[some], self.busy[some] = again.makespans(), again.busy
            self.wire.travelled[some], self.wire.quiet[some] = again.wire.travelled, again.wire.quiet
        return found

    def _walk(self, i: int, first: bool) -> None:
        program = self.program
        self._hold(program.blocker[i])
        issued = self.host.issue(i).reshape(-1)
        if program.streams[i] >= 0:
            self.steady.watch(issued, self.now)
            self.wire.queue(i, np.maximum(issued, self.now))
            return
        for j in program.crossing[i]:
            self.wire.finish(j, self.now)
        self.steady.watch(issued, self.now)
        self.wire.idle(self.now, issued)
        self.begin = self.now if first else self.begin
        self._compute(i)
        self.host.ended(i, self.now)

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
        self.busy -= self.now
        self.now, left, ends = self.wire.beside(_ALL, self.now, costs[0], *costs)
        some = ends.nonzero()[0]
        left = left[some]
        while len(some):
            self.wire.next(some, self.now[some])
            self.now[some], left, ends = self.wire.beside(some, self.now[some], left, *(each[some] for each in costs))
            some, left = some[ends], left[ends]
        self.busy += self.now


def _sorts_of_rows(batch: Batch) -> Some:
    """[row of ticks] its sort."""
    sorts = np.zeros(len(batch.ticks), dtype=np.intp)
    sorts[batch.row_of] = batch.sort_of
    return sorts
