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

import math
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
        if batch.burst.any():
            alike = alike * len(batch.rest) + np.array(batch.rest_of)
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
    sums: tuple[Array, Array, Array]  # ticks computed, travelled and quiet until now


class Steady:
    """Watches a walk, and skips what is known.  next: the place at which it wants to be asked, -1 if at none any more;
    strays: numbers of the configurations for which it was wrong to skip; skipped: how many ops have been.

    A configuration that does a few rounds more like the last one, until its host has no lead any more, is taken past
    them (`ahead`) while all others wait: rounds are alike, so that all can go on at one place."""

    def __init__(self, rounds: Rounds, batch: Batch, hosts: Hosts, wire: Wire, busy: Array) -> None:
        self.rounds, self.bursts, self.hosts, self.wire = rounds, bool(batch.burst.any()), hosts, wire
        self.busy = busy
        self.next = rounds.first if rounds.ops else -1
        self.before: _Moment | None = None
        self.walked, self.ahead = 0, np.zeros(batch.size)
        self.strays, self.skipped = np.zeros(0, dtype=np.intp), 0
        self.watches = rounds.ops > 0 and not hosts.waits and not hosts.free
        self.lead = np.full(batch.size, math.inf)

    def watch(self, issued: Array, now: Array) -> None:
        """An op that could begin `now` is issued then: how far ahead the host is at least, in this round."""
        if self.watches and self.next >= 0:
            np.minimum(self.lead, now - issued, out=self.lead)

    def come_to(self, place: int, now: Array) -> int:
        """The place from which to go on, at the end of a round; `now` becomes when."""
        before, self.before = self.before, self._moment(now)
        left = (self.rounds.end - place) // self.rounds.ops
        self.next = place + self.rounds.ops if left else -1
        if before is None:
            self.lead[:] = math.inf
            return place
        self.walked += 1
        due, like = left - self.ahead, self._like(before, self.before)
        if (able := like >= due).all() or due.min() < 1 or (self.walked >= PATIENCE and 2 * able.sum() >= len(able)):
            self.strays, self.next = np.flatnonzero(~able), -1
            self._later(before, self.before, due, now)
            self.skipped = left * self.rounds.ops
            self.hosts.skip(self.skipped)
            self.wire.skip(left * (self.before.queued - before.queued))
            return place + self.skipped
        more = np.where(able, 0.0, np.clip(like, 0.0, np.maximum(due - PATIENCE, 0.0)))
        self._later(before, self.before, more, now)
        self.ahead += more
        self.before, self.lead[:] = self._moment(now), math.inf
        return place

    def _later(self, a: _Moment, b: _Moment, rounds: Array, now: Array) -> None:
        """So many rounds more [config] that are like the one between these moments."""
        ticks = rounds * (b.now - a.now)
        self.hosts.later(rounds * (b.clock - a.clock))
        self.wire.later(ticks)
        for total, before, after in zip((self.busy, self.wire.travelled, self.wire.quiet), a.sums, b.sums, strict=True):
            total += rounds * (after - before)
        now += ticks

    def _moment(self, now: Array) -> _Moment:
        hosts, wire = self.hosts, self.wire
        return _Moment(
            now.copy(), hosts.at, hosts.clock.reshape(-1).copy(), dict(hosts.early), wire.queued, wire.at.copy(),
            wire.begin.copy(), wire.left.copy(), wire.sure.copy(), wire.landed.copy(),
            (self.busy.copy(), wire.travelled + wire.under_way(now), wire.quiet.copy()),
        )  # fmt: skip

    def _like(self, a: _Moment, b: _Moment) -> Array:
        """[config]: how many of the next rounds will be like the one between these moments."""
        if b.issued - a.issued != self.rounds.ops:
            return np.zeros(len(b.now))
        same = (b.at - a.at == b.queued - a.queued) & (b.left == a.left) & (b.sure == a.sure)
        same &= (_still(a) == _still(b)) | ~np.isfinite(b.begin)
        if self.bursts:
            same &= b.landed - b.now == a.landed - a.now
        for n in range(1, 1 + max(m.queued - int(m.at.min()) for m in (a, b))):
            same &= self._waiting(a, n) == self._waiting(b, n)
        return np.where(same, self._led(a, b), 0.0)

    def _waiting(self, m: _Moment, n: int) -> Array:
        """Ticks until the n-th last collective that is queued can be reached; -1 where it is under way or over."""
        row = m.queued - n
        ready: Array = np.maximum(self.wire.ready[row] - m.now, 0.0)
        return np.where(row > m.at, ready, -1.0)

    def _led(self, a: _Moment, b: _Moment) -> Array:
        """[config]: for how many rounds the host will do as in this one, or what it does will not matter."""
        if self.hosts.free:
            return np.full(len(b.now), math.inf)
        loses = (b.clock - a.clock) - (b.now - a.now)
        same: Mask = loses == 0
        for i, when in a.early.items():
            later = b.early.get(i + self.rounds.ops)
            same &= False if later is None else (later - b.now).reshape(-1) == (when - a.now).reshape(-1)
        if not self.watches:
            return np.where(same, math.inf, 0.0)
        lead = np.where(loses > 0, self.lead // np.maximum(loses, 1.0), math.inf)
        return np.where(same, math.inf, np.where(self.lead >= 0, lead, 0.0))


def _still(m: _Moment) -> Array:
    """Ticks until the first collective begins; of one that may still find a kernel before it, since when it waits."""
    return np.where(m.sure, np.maximum(m.begin - m.now, 0.0), m.begin - m.now)
