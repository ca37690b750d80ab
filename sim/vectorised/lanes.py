"""What computes and what travels on many lanes at once, of which each stands where it stands: a lane is a rank of a
configuration.

It knows what a lane runs, what it runs next and when that is due if nothing changes; it refuses to know what other
lanes do (sim/vectorised/uneven.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.program import Program

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]
_NEVER = 1 << 60


class Lanes:
    """What all lanes have in common: costs, and when hosts issue ops.

    issued [op, config]: when, if no host waits for anything; opened [n, lane]: how much later, once the n-th op that
    holds a host up has ended."""

    def __init__(self, batch: Batch, program: Program, defers: Mask) -> None:
        self.batch, self.program = batch, program
        self.size = batch.ranks * batch.size
        self.config = np.arange(self.size) % batch.size
        self.rank = np.arange(batch.ranks)[:, None] * batch.size  # first lanes of ranks
        self.defers = np.broadcast_to(defers, batch.size)
        talks = np.array(program.streams)[:, None] >= 0
        self.issued = np.cumsum(batch.launch[batch.sort_of], axis=0).reshape(-1)
        self.noticed = self.issued + (batch.wake * talks).reshape(-1) if batch.wake.any() else self.issued
        held = np.cumsum([0, *program.blocks])
        self.segment = held[:-1]
        self.opened = np.zeros((int(held[-1]) + 1, self.size)) if held[-1] else None

    def of(self, configs: Some) -> Some:
        """Lanes [rank, configuration] of these."""
        return np.asarray(self.rank + configs)

    def when(self, op: Some, some: Some) -> Array:
        """When hosts issue these ops on these lanes; of collectives, when their streams notice."""
        found: Array = self.noticed.take(op * self.batch.size + self.config.take(some))
        return found if self.opened is None else found + self.opened[self.segment.take(op), some]

    def ended(self, op: Some, some: Some, now: Array, blocks: Mask) -> None:
        """Ops end on these lanes: hosts that wait for them go on."""
        if self.opened is not None and (which := blocks.nonzero()[0]).size:
            op, some, now = op[which], some[which], now[which]
            n = self.segment[op]
            waited = now - self.issued.take(op * self.batch.size + self.config[some])
            self.opened[n + 1, some] = np.maximum(self.opened[n, some], waited)


class Stream:
    """Ops of one stream, one after the other: `at` is the first that has not ended.

    need [op]: how many of the other stream must have ended before it.  What is under way has `left` ticks of work at
    `since`, each of which takes `slow` ticks, and so it ends when `due`."""

    def __init__(self, lanes: Lanes, mine: Sequence[int], others: Sequence[int]) -> None:
        batch, program = lanes.batch, lanes.program
        self.lanes, self.ops = lanes, len(mine)
        number = {i: n for n, i in enumerate(others)}
        self.need = np.array([self._needs(i, program, number) for i in mine] + [_NEVER])
        self.op = np.array([*mine, 0])
        self.rows = np.array([batch.row_of[i] for i in mine] + [0]) * lanes.size
        self.sorts = np.array([batch.sort_of[i] for i in mine] + [0]) * batch.size
        self.blocks = np.array([program.blocks[i] for i in mine] + [False])
        self.ticks = batch.ticks.reshape(-1)
        self.at = np.zeros(lanes.size, dtype=np.intp)
        self.due = np.full(lanes.size, math.inf)
        self.left, self.since, self.slow = np.zeros(lanes.size), np.zeros(lanes.size), np.ones(lanes.size)

    @staticmethod
    def _needs(i: int, program: Program, number: dict[int, int]) -> int:
        behind = [*program.crossing[i], program.blocker[i]]
        return max((number[j] + 1 for j in behind if j in number), default=0)

    def _ready(self, at: Some, some: Some, now: Array, other: Stream) -> Array:
        """When these ops can begin, at the earliest now; inf: not before an op of the other stream has ended."""
        there = self.need.take(at) <= other.at.take(some)
        return np.where(there, np.maximum(now, self.lanes.when(self.op.take(at), some)), math.inf)

    def _take(self, some: Some, now: Array, work: Array, slow: Array) -> None:
        self.left[some], self.since[some], self.slow[some] = work, now, slow
        self.due[some] = now + np.rint(work * slow)

    def _retime(self, some: Some, now: Array, slow: Array) -> None:
        """From now on every tick of work takes `slow`."""
        left = np.maximum(0.0, self.left.take(some) - (now - self.since.take(some)) / self.slow.take(some))
        self._take(some, now, left, slow)

    def _over(self, some: Some, now: Array) -> None:
        at = self.at.take(some)
        self.at[some] = at + 1
        self.since[some], self.due[some] = now, math.inf
        if self.lanes.opened is not None:
            self.lanes.ended(self.op[at], some, now, self.blocks[at])


class Compute(Stream):
    """Compute ops.  runs: whether one does; whole: its ticks; idle: ticks in which none did, until `since`."""

    def __init__(self, lanes: Lanes) -> None:
        streams = lanes.program.streams
        mine = [i for i, stream in enumerate(streams) if stream < 0]
        super().__init__(lanes, mine, [i for i, stream in enumerate(streams) if stream >= 0])
        self.runs, self.whole = np.zeros(lanes.size, dtype=bool), np.zeros(lanes.size)
        self.idle = np.zeros(lanes.size)
        self.kernels, self.factors = lanes.batch.kernels.reshape(-1), lanes.batch.slow_compute.reshape(-1)

    def go_on(self, some: Some, now: Array, talk: Talk) -> None:
        """Lanes on which nothing runs: the next op begins, or will when it is issued, or waits for a collective."""
        at = self.at.take(some)
        self.due[some] = ready = self._ready(at, some, now, talk)
        starts = (ready <= now).nonzero()[0]
        some, at, now = some.take(starts), at.take(starts), now.take(starts)
        self.runs[some] = True
        self.idle[some] += now - self.since.take(some)
        self.whole[some] = work = self.ticks.take(self.rows.take(at) + some)
        slow = np.where(talk.under.take(some), self._slow(at, some), 1.0)
        self._take(some, now, work, slow)

    def change(self, some: Some, now: Array, talks: bool) -> None:
        """From now on something travels beside the ops that run on these lanes, or nothing does."""
        self._retime(some, now, self._slow(self.at.take(some), some) if talks else np.ones(len(some)))

    def end(self, some: Some, now: Array) -> None:
        """What runs there ends."""
        self.runs[some] = False
        self._over(some, now)

    def stalled(self, some: Some, now: Array) -> Array:
        """Ticks until now in which nothing has been computed on these lanes."""
        return self.idle.take(some) + np.where(self.runs.take(some), 0.0, now - self.since.take(some))

    def kernel_left(self, some: Some, now: Array) -> Array:
        """Ticks until the kernel ends that runs on these lanes, beside which nothing travels; 0: none runs."""
        at, config, whole = self.at.take(some), self.lanes.config.take(some), self.whole.take(some)
        kernel = whole / self.kernels.take(self.sorts.take(at) + config)
        runs = self.runs.take(some) & (kernel > 0) & self.lanes.defers.take(config)
        done = whole - self.left.take(some) + (now - self.since.take(some))
        return np.where(runs, np.rint(kernel - np.remainder(done, np.where(runs, kernel, 1.0))), 0.0)

    def _slow(self, at: Some, some: Some) -> Array:
        return self.factors.take(self.sorts.take(at) + self.lanes.config.take(some))


class Talk(Stream):
    """Collectives.  under: whether one is under way; arrival: when the lane has come to the next; inf: not yet, or
    that one is under way; begun: when it began.

    moved: ticks in which a dispatch or combine was under way; exposed: in which any was, or waited for other lanes,
    while nothing was computed."""

    def __init__(self, lanes: Lanes) -> None:
        streams = lanes.program.streams
        mine = [i for i, stream in enumerate(streams) if stream >= 0]
        super().__init__(lanes, mine, [i for i, stream in enumerate(streams) if stream < 0])
        self.under, self.arrival = np.zeros(lanes.size, dtype=bool), np.full(lanes.size, math.inf)
        self.moved, self.exposed, self.begun = np.zeros(lanes.size), np.zeros(lanes.size), np.zeros(lanes.size)
        self.moves = np.array([lanes.program.schedule.ops[i].kind in "DC" for i in mine] + [False])
        self.drag = np.tile(lanes.batch.slow_transfer, lanes.batch.ranks)
        self.bursts = bool(lanes.batch.burst.any())
        self.rests = np.array([0] + [lanes.batch.rest_of[i] for i in mine]) * lanes.size  # of those before

    def reach(self, some: Some, now: Array, compute: Compute) -> None:
        """The lanes of these that have come to a collective now, and when others will, as far as that is known."""
        idle = (~self.under.take(some) & (self.arrival.take(some) == math.inf)).nonzero()[0]
        some, now = some.take(idle), now.take(idle)
        ready = self._ready(self.at.take(some), some, now, compute)
        comes = (ready <= now) & (compute.due.take(some) > now)  # what begins or ends at this instant does so before
        self.due[some] = np.where(comes, math.inf, ready)
        there = comes.nonzero()[0]
        some, now = some.take(there), now.take(there)
        self.arrival[some] = now + compute.kernel_left(some, now)
        self.exposed[some] -= compute.stalled(some, now)

    def depart(self, lanes: Some, now: Array, busy: Mask) -> None:
        """A collective begins on these lanes [rank, configuration], where somebody computes or nobody does."""
        at = self.at.take(lanes[0])  # as on all their ranks
        ticks = self.ticks.take(self.rows.take(at) + lanes)
        if self.bursts:
            batch, config = self.lanes.batch, lanes[0]
            rested = batch.rest.take(self.rests.take(at) + lanes)
            landed = np.where(at > 0, self.since.take(lanes).max(axis=0) - rested, -math.inf)
            saved = np.minimum(batch.burst.take(self.sorts.take(at) + config), now - landed)
            ticks = np.maximum(ticks - saved, np.minimum(ticks, batch.latency.take(config)))
        self.under[lanes], self.arrival[lanes], self.begun[lanes] = True, math.inf, now
        self._take(lanes, now, ticks, np.where(busy, self.drag.take(lanes), 1.0))

    def change(self, some: Some, now: Array, busy: bool) -> None:
        """From now on somebody computes beside what travels on these lanes, or nobody does."""
        self._retime(some, now, self.drag.take(some) if busy else np.ones(len(some)))

    def end(self, some: Some, now: Array, compute: Compute) -> None:
        """What travels there has arrived."""
        self.under[some] = False
        self.moved[some] += (now - self.begun.take(some)) * self.moves.take(self.at.take(some))
        self.exposed[some] += compute.stalled(some, now)
        self._over(some, now)
