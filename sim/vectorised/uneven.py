"""The lockstep engine for ranks that differ: skewed routing, jitter, uneven links.

Every rank of every configuration is a lane of sim/vectorised/lockstep.py, which walks its own ops and follows
collectives from where it stands.  Three things it has to know of the others: a collective begins when the last rank has
arrived, which every lane says as soon as it knows; a lane that had let it begin too soon is set back by as much; and a
collective is slow while any rank computes, so that a rank which waits for it waits for as many times its ticks as any
other saw.

What a lane learns too late, after it has come past the end, it ignores: of XL's schedules on machines by name, routing
skewed, that is 0.02 % of the makespan on average and 0.5 % at worst (benchmarks/engines.py), of schedules and machines
drawn without sense up to some percent.  Which ones cannot be told beforehand, so that sweeps ask the simulation.  It
refuses groups of ranks that do not all meet."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from sim.vectorised.batch import Batch
from sim.vectorised.lockstep import Array, Lockstep, Mask, Some
from sim.vectorised.program import Program
from sim.vectorised.wire import Wire

_OF_CONFIG = ("launch", "kernels", "burst", "slow_compute")
_LAST = ("wake", "latency", "slow_transfer")


class Uneven(Lockstep):
    """All ranks of all configurations of a batch: lane = rank * configurations + configuration."""

    def __init__(self, batch: Batch, program: Program, defers: Mask) -> None:
        ranks = batch.ranks
        tiled: dict[str, Any] = {key: np.tile(getattr(batch, key), ranks) for key in (*_OF_CONFIG, *_LAST)}
        ticks = np.ascontiguousarray(batch.ticks.reshape(len(batch.ticks), 1, -1))
        lanes = replace(batch, ticks=ticks, teams=[((0,),) if team else () for team in batch.teams], **tiled)
        super().__init__(lanes, program, np.tile(defers, ranks), skips=False)
        self.shape = ranks, batch.size

    def wired(self, batch: Batch, program: Program) -> Wire:
        """Collectives in which lanes of a configuration meet."""
        return _Meeting(batch, program)

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start on any rank to the last op's end on any."""
        assert isinstance(self.wire, _Meeting)
        self.wire.meet(self.shape[1])
        self.run()
        return np.asarray(self.now.reshape(self.shape).max(axis=0) - self.begin.reshape(self.shape).min(axis=0))


class _Meeting(Wire):
    """A Wire whose lanes meet.  begun [collective, config]: when it begins, as far as lanes have said; stretch: how
    many ticks one of its own took on the lane that saw most."""

    def meet(self, configs: int) -> None:
        """Lanes are told apart from configurations, of which there are so many."""
        self.config: Some = np.arange(self.batch.size) % configs
        self.begun = np.full((len(self.number) + 1, configs), -math.inf)
        self.stretch = np.ones((len(self.number) + 1, configs))

    def queue(self, i: int, ready: Array) -> None:
        """Collective `i` can be reached from `ready` on; it cannot begin before all can reach it."""
        self.begun[self.queued] = ready.reshape(-1, self.begun.shape[1]).max(axis=0)
        super().queue(i, ready)

    def next(self, some: Some, now: Array) -> None:
        """The collectives under way of some lanes end now."""
        self._stretched(some, now)
        super().next(some, now)

    def finish(self, i: int, now: Array) -> None:
        """Nothing computes until collective `i` has ended, which takes as many times its ticks as on any lane."""
        number = self.number[i]
        while len(some := (self.at <= number).nonzero()[0]):
            self._arrive(some, now[some])
            end = np.maximum(self.begin[some], now[some]) + np.rint(self.left[some])
            here = self.at[some] == number
            self._stretched(some[here], end[here])
            slowest = self.stretch[self.at[some], self.config[some]]
            latest = self.begin[some] + np.rint(self._alone(some, self.begin[some]) * slowest)
            now[some] = np.where(here, np.maximum(end, latest), end)
            self.next(some, now[some])

    def _begun(self, some: Some | slice, now: Array, left: Array, whole: Array, kernel: Array) -> Array:
        begin = super()._begun(some, now, left, whole, kernel)
        which = np.arange(self.batch.size) if isinstance(some, slice) else some
        arrived = np.isfinite(begin) & ((begin < now + left) | self.sure[which])
        self._arrive(which[arrived], now[arrived])
        self.sure[which[arrived]] = True
        return self.begin[some]

    def _arrive(self, some: Some, now: Array) -> None:
        """Lanes know when they arrive: all begin with the last, and what has travelled too soon is taken back."""
        place = self.at[some], self.config[some]
        np.maximum.at(self.begun, place, self.begin[some])
        begun = self.begun[place]
        late = begun > self.begin[some]
        early, begin, until = some[late], begun[late], np.minimum(begun, now)[late]
        lost = np.maximum(0.0, until - self.begin[early])
        self.left[early] += lost / self.batch.slow_transfer[early]
        self.begin[early] = begin

    def _stretched(self, some: Some, end: Array) -> None:
        """What a tick of the collectives that end then took on these lanes."""
        ticks = self._alone(some, self.begin[some])
        took = np.where(ticks > 0, (end - self.begin[some]) / np.maximum(ticks, 1.0), 1.0)
        np.maximum.at(self.stretch, (self.at[some], self.config[some]), took)
