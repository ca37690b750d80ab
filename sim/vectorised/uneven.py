"""The vectorised engine for ranks that differ while compute and communication slow each other down: skewed routing,
jitter, uneven links.

A lane is a rank of a configuration.  Every lane of every configuration goes to its own next event at once: an op ends
or begins there, a collective ends or is reached.  It goes only where no other lane of its configuration can change
what happens until then, which is told by three times that lanes of a configuration have in common:

    begin   when a collective begins, that is when the last has reached it; or the least that this can be
    until   when nobody computes any more, so that what travels gets faster
    next    when, where nobody computes, somebody may begin to

It does at every event what the simulation does (sim/engine.py, sim/fluid.py), rounded to whole picoseconds at the same
moments; where several fall on one picosecond a tick may be lost.  It refuses groups of ranks that do not all meet,
several communicators, and transfers that share links."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.lanes import Compute, Lanes, Talk
from sim.vectorised.program import Program

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Some = npt.NDArray[np.intp]  # numbers of lanes, or of configurations
_FAR = 1e300  # later than all that happens, earlier than never


class Uneven:
    """All ranks of all configurations of a batch: lane = rank * configurations + configuration.

    defers [config]: whether a collective waits for the kernel that runs."""

    def __init__(self, batch: Batch, program: Program, defers: Mask) -> None:
        self.lanes = lanes = Lanes(batch, program, defers)
        self.compute, self.talk = Compute(lanes), Talk(lanes)
        self.shape = batch.ranks, batch.size
        self.busy = np.zeros(batch.size, dtype=bool)  # whether anybody computes, as what travels has been told
        self.until = np.full(batch.size, -math.inf)
        self.first = np.full(batch.size, math.inf)  # start of the first op
        self.makespan = np.full(batch.size, math.nan)

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start on any rank to the last op's end on any."""
        compute, talk = self.compute, self.talk
        every, zero = np.arange(self.lanes.size), np.zeros(self.lanes.size)
        compute.go_on(every, zero, talk)
        talk.reach(every, zero, compute)
        self.first = np.where(compute.runs, zero, compute.due).reshape(self.shape).min(axis=0)
        while self._round():
            pass
        assert (compute.at == compute.ops).all(), "a checked schedule runs to the end"
        assert (talk.at == talk.ops).all(), "a checked schedule runs to the end"
        last = np.maximum(compute.since, talk.since).reshape(self.shape).max(axis=0)
        self.makespan = np.asarray(last - self.first)
        return self.makespan

    def spent(self) -> tuple[Array, Array, Array]:
        """Ticks [config] in which nothing was computed; of these, in which a collective was under way or waited for;
        and in which a dispatch or combine was under way.  Means of ranks, once makespans have been asked for."""
        computed = self._mean(self.compute.since - self.compute.idle)
        return self.makespan - computed, self._mean(self.talk.exposed), self._mean(self.talk.moved)

    def _mean(self, of_lanes: Array) -> Array:
        return np.asarray(of_lanes.reshape(self.shape).mean(axis=0))

    def _round(self) -> bool:
        """Every lane that can goes to its next event; whether anything happened."""
        shape, compute, talk = self.shape, self.compute, self.talk
        runs, under, arrival = (each.reshape(shape) for each in (compute.runs, talk.under, talk.arrival))
        due = np.minimum(compute.due, talk.due).reshape(shape)
        soonest, last = due.min(axis=0), arrival.max(axis=0)
        if len(begins := (soonest > last).nonzero()[0]):
            self._begin(begins, last[begins])
            self._look(begins, due, soonest)
        talks = under.any(axis=0)
        computes = np.where(runs, due, -math.inf).max(axis=0)  # at least until then
        np.maximum(self.until, computes, out=self.until)
        if len(calms := (talks & self.busy & (computes < 0) & (soonest > self.until)).nonzero()[0]):
            self._drag(calms, self.until[calms], False)
            self._look(calms, due, soonest)
        limit = np.where(talks, np.where(self.busy, self.until, soonest), _FAR)
        begin = np.where(arrival < math.inf, arrival, np.minimum(due, limit)).max(axis=0)
        some = ((runs | (due <= limit)) & (under | (due <= begin))).ravel().nonzero()[0]
        calm = (talks & ~self.busy).nonzero()[0]
        self._go(some, due.ravel().take(some))
        if len(calm) and len(wakes := calm.compress(runs.take(calm, axis=1).any(axis=0))):
            self._drag(wakes, soonest[wakes], True)
        return len(some) + len(begins) > 0

    def _look(self, configs: Some, due: Array, soonest: Array) -> None:
        """What has changed of what is next in these configurations."""
        lanes = self.lanes.of(configs)
        due[:, configs] = again = np.minimum(self.compute.due.take(lanes), self.talk.due.take(lanes))
        soonest[configs] = again.min(axis=0)

    def _begin(self, configs: Some, now: Array) -> None:
        """The last lane of each of these has reached a collective: it is under way."""
        lanes = self.lanes.of(configs)
        runs = self.compute.runs.take(lanes)
        self.busy[configs] = busy = np.any(runs, axis=0)
        self.first[configs] = np.minimum(self.first.take(configs), now)
        self.talk.depart(lanes, now, busy)
        rank, n = runs.nonzero()
        self.compute.change(lanes[rank, n], now.take(n), True)

    def _drag(self, configs: Some, now: Array, busy: bool) -> None:
        """From now on somebody computes in these configurations, or nobody does."""
        self.busy[configs] = busy
        lanes = self.lanes.of(configs)
        rank, n = self.talk.under.take(lanes).nonzero()
        self.talk.change(lanes[rank, n], now.take(n), busy)

    def _go(self, some: Some, now: Array) -> None:
        """These lanes come to their next event: of compute, if both are due, so that a collective finds what runs."""
        compute, talk = self.compute, self.talk
        computes = compute.due.take(some) <= talk.due.take(some)
        mine, others = computes.nonzero()[0], (~computes).nonzero()[0]
        ends = mine.compress(compute.runs.take(some.take(mine)))
        compute.end(some.take(ends), now.take(ends))
        ends = others.compress(talk.under.take(some.take(others)))
        ended, when = some.take(ends), now.take(ends)
        talk.end(ended, when, compute)
        runs = compute.runs.take(ended)
        compute.change(ended[runs], when[runs], False)
        waiting = np.concatenate((mine, ends[~runs]))
        compute.go_on(some.take(waiting), now.take(waiting), talk)
        talk.reach(some, now, compute)
