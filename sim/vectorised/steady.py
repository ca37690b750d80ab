"""Steps that repeat: where a program does the same again and again, and a configuration does it in the same time, to
the tick, the rest of it is known.

A round is as many ops, walked in the same order, whose costs and needs are those of the round before; mostly a step.
If all that is under way at the end of a round is what it was at the end of the one before, relative to the clock, then
so are all rounds that follow, and they can be skipped: nothing in sim/vectorised/lockstep.py depends on what time it
is, not even in how it rounds, so that skipping and walking are equal to the last bit (tests/test_steady.py).  The one
thing that may change for ever is how far a host runs ahead of its device; it does not matter as long as it held
nothing up for a round, and is no slower.

It knows what comes round; it refuses to know what an op is, and leaves blocking collectives to those who walk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.maxplus import Hosts
from sim.vectorised.program import Program
from sim.vectorised.wire import Wire

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]
PATIENCE = 8  # rounds after which a few configurations that do not repeat no longer hold up the others


@dataclass(frozen=True)
class Rounds:
    """Rounds of `ops` ops each, from place `first` of the walk to place `end`; 0 ops: nothing comes back."""

    first: int
    end: int
    ops: int

    @staticmethod
    def of(program: Program, batch: Batch) -> Rounds:
        """Those that leave the most to skip."""
        none = Rounds(0, 0, 0)
        if batch.row_of != batch.sort_of or program.blocking:  # jitter: every op has costs of its own
            return none
        alike = np.array(program.shapes) * len(batch.launch) + np.array(batch.sort_of)
        found = (_longest(alike, np.array(program.order), ops) for ops in program.strides)
        return max((none, *found), key=lambda each: each.end - each.first - 4 * each.ops)


def _longest(alike: Some, order: Some, ops: int) -> Rounds:
    """The longest stretch of the walk in which the same comes `ops` ops later.  alike [op]: equal where ops are."""
    differ = np.concatenate([[0], np.cumsum(alike[:-ops] != alike[ops:])])  # [op]: how many before it
    host = np.minimum(np.maximum.accumulate(order[:-ops]) + 1, len(differ) - 1)  # [place] which op is issued next
    other = (order[ops:] != order[:-ops] + ops) | (alike[order[ops:]] != alike[order[:-ops]])
    other |= np.diff(differ[host], prepend=0) > 0
    borders = np.concatenate([[-1], np.flatnonzero(other), [len(other)]])
    n = int(np.argmax(np.diff(borders)))
    return Rounds(int(borders[n]) + 1, int(borders[n + 1]) + ops, ops)


@dataclass(frozen=True, eq=False)
class _Moment:
    """What is under way at the end of a round.  Arrays are [config], the wire's and the host's as they name them."""

    now: Array
    issued: int
    clock: Array
    early: dict[int, Array]
    queued: int
    at: Some
    begin: Array
    left: Array
    sure: Mask
    landed: Array


class Steady:
    """Watches a walk, and skips what is known.  next: the place at which it wants to be asked, -1 if at none any more;
    strays: numbers of the configurations for which it was wrong to skip."""

    def __init__(self, rounds: Rounds, batch: Batch, hosts: Hosts, wire: Wire) -> None:
        self.rounds, self.bursts, self.hosts, self.wire = rounds, bool(batch.burst.any()), hosts, wire
        self.next = rounds.first if rounds.ops else -1
        self.before: _Moment | None = None
        self.rest = 0  # rounds that did not repeat for all
        self.strays = np.zeros(0, dtype=np.intp)
        self.held_up = np.zeros(batch.size, dtype=bool)
        self.watches = rounds.ops > 0 and not hosts.waits and not hosts.free

    def watch(self, issued: Array, now: Array) -> None:
        """An op could have begun `now`, and is issued then: the host may hold it up."""
        if self.watches and self.next >= 0:
            np.logical_or(self.held_up, issued > now, out=self.held_up)

    def come_to(self, place: int, now: Array) -> int:
        """The place from which to go on, at the end of a round, and `now` with it."""
        moment, before, rounds = self._moment(now), self.before, (self.rounds.end - place) // self.rounds.ops
        self.before, self.next = moment, place + self.rounds.ops if rounds > 1 else -1
        if before is not None:
            again = self._again(before, moment)
            self.rest += 1
            if again.all() or (self.rest >= PATIENCE and 2 * again.sum() >= len(again)):
                self.strays, self.next = np.flatnonzero(~again), -1
                return place + self._skip(before, moment, rounds, now)
        self.held_up[:] = False
        return place

    def _moment(self, now: Array) -> _Moment:
        hosts, wire = self.hosts, self.wire
        own = (wire.at, wire.begin, wire.left, wire.sure, wire.landed)
        at, begin, left, sure, landed = (each.copy() for each in own)
        clock, early = hosts.clock.reshape(-1).copy(), dict(hosts.early)
        return _Moment(now.copy(), hosts.at, clock, early, wire.queued, at, begin, left, sure, landed)

    def _again(self, a: _Moment, b: _Moment) -> Mask:
        """[config]: whether all rounds from now on are as the one between these moments."""
        if b.issued - a.issued != self.rounds.ops:
            return np.zeros(len(b.now), dtype=bool)
        idle = ~np.isfinite(b.begin)
        same = (b.at - a.at == b.queued - a.queued) & (b.left == a.left) & (b.sure == a.sure)
        same &= (_still(a) == _still(b)) | idle
        if self.bursts:
            same &= b.landed - b.now == a.landed - a.now
        rows = max(m.queued - int(m.at.min()) for m in (a, b))
        for n in range(1, rows + 1):
            same &= self._waiting(a, n) == self._waiting(b, n)
        return np.asarray(same & self._issues_again(a, b))

    def _waiting(self, m: _Moment, n: int) -> Array:
        """Ticks until the n-th last collective that is queued can be reached; -1 where it is under way or over."""
        row = m.queued - n
        ready: Array = np.maximum(self.wire.ready[row] - m.now, 0.0)
        return np.where(row > m.at, ready, -1.0)

    def _issues_again(self, a: _Moment, b: _Moment) -> Mask:
        """[config]: whether the host does in the next rounds as in this one, or what it does does not matter."""
        if self.hosts.free:
            return np.ones(len(b.now), dtype=bool)
        same: Mask = b.clock - b.now == a.clock - a.now
        for i, when in a.early.items():
            later = b.early.get(i + self.rounds.ops)
            same &= False if later is None else (later - b.now).reshape(-1) == (when - a.now).reshape(-1)
        if self.watches:
            same |= ~self.held_up & (b.clock - a.clock <= b.now - a.now)
        return same

    def _skip(self, a: _Moment, b: _Moment, rounds: int, now: Array) -> int:
        """Ops that are skipped."""
        self.hosts.skip(rounds * self.rounds.ops, rounds * (b.clock - a.clock))
        self.wire.skip(rounds * (b.queued - a.queued), rounds * (b.now - a.now))
        now += rounds * (b.now - a.now)
        return rounds * self.rounds.ops


def _still(m: _Moment) -> Array:
    """Ticks until the first collective begins; of one that may still find a kernel before it, since when it waits."""
    return np.where(m.sure, np.maximum(m.begin - m.now, 0.0), m.begin - m.now)
