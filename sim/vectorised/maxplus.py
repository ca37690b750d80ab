"""The vectorised engine where nothing slows anything down: streams are first-in first-out, so when an op ends is sums
and maxima of when others do (a max-plus recurrence), for many configurations of one schedule at once.

It equals the simulation (sim/engine.py) to the last bit: times are whole picoseconds there and here.  It knows a Batch
of costs; it refuses interference (sim/vectorised/lockstep.py) and transfers that share links
(sim/transfers/sharing.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.vectorised.batch import Batch
from sim.vectorised.program import Program

Array = npt.NDArray[np.float64]


class Recurrence:
    """All configurations of a batch, op by op.  Rows are [rank, config], in ticks.

    A program that walks compute first is for streams without priority, where a collective waits for the kernel that
    runs.  keep: every op's reached, start and end are kept, [3, op, rank, config]."""

    def __init__(self, batch: Batch, program: Program, keep: bool = False) -> None:
        self.batch, self.program = batch, program
        shape = (batch.ranks, batch.size)
        slot, rows = program.slots
        store = np.zeros((rows, *shape))
        self.end: list[Array] = [store[n] for n in slot]  # [op], one row for several
        self.host = Hosts(program, batch)
        self.kernels = _Kernels(program, batch) if program.first == "compute" else None
        self.landed = np.full(shape, -math.inf)
        self.bursts = bool(batch.burst.any())
        self.work = np.empty((2, *shape))
        self.kept = np.empty((3, len(slot), *shape)) if keep else None
        self.begin = np.zeros(batch.size)

    def makespans(self) -> Array:
        """Ticks [config] from the first op's start to the last op's end."""
        front: dict[int, Array] = {}
        streams, zero = self.program.streams, np.zeros(self.end[0].shape)
        for n, i in enumerate(self.program.order):
            before = front.get(streams[i], zero)
            if streams[i] < 0:
                start = self._compute(i, before)
                if not n:
                    self.begin = start.min(axis=0)
                np.add(start, self.batch.ticks[self.batch.row_of[i]], out=self.end[i])
                if self.kernels:
                    self.kernels.add(i, self.end[i])
            else:
                self._communicate(i, before)
            front[streams[i]] = self.end[i]
            if self.kept is not None:
                self.kept[2, i] = self.end[i]
            self.host.ended(i, self.end[i])
        last = np.max([row.max(axis=0) for row in front.values()], axis=0)
        return np.asarray(last - self.begin)

    def _ready(self, i: int, before: Array) -> Array:
        """When op `i` has been issued, its stream is free and its inputs are there: in the row of its end."""
        row = self.end[i]
        np.maximum(before, self.host.issue(i), out=row)
        for j in self.program.crossing[i]:
            np.maximum(row, self.end[j], out=row)
        return row

    def _compute(self, i: int, before: Array) -> Array:
        row = self._ready(i, before)
        if self.batch.halves and self.batch.schedule.ops[i].kind == "Z":
            _meet(row, self.batch.halves)
        if self.kept is not None:
            self.kept[:2, i] = row
        if self.kernels:
            self.kernels.start(i, row)
        return row

    def _communicate(self, i: int, before: Array) -> None:
        batch, row, n = self.batch, self._ready(i, before), self.batch.sort_of[i]
        if self.kept is not None:
            self.kept[0, i] = row
        if self.kernels:
            row += self.kernels.left(i, row)
        if batch.ranks > 1:
            _meet(row, batch.teams[i])
        if self.kept is not None:
            self.kept[1, i] = row
        ticks = batch.ticks[batch.row_of[i]]
        if not self.bursts:
            row += ticks
            return
        if batch.ranks > 1:
            _meet(self.landed, batch.teams[i])
        saved, least = self.work
        np.clip(np.subtract(row, self.landed, out=saved), 0.0, batch.burst[n], out=saved)
        np.minimum(ticks, batch.latency, out=least)
        np.maximum(np.subtract(ticks, saved, out=saved), least, out=saved)
        row += saved
        np.subtract(row, batch.rest[batch.rest_of[i]], out=self.landed)


class Hosts:
    """When ops are issued: a row [rank, config], or [config] where nothing holds any host up."""

    def __init__(self, program: Program, batch: Batch) -> None:
        self.program, self.batch, self.at = program, batch, 0
        self.waits = any(program.blocks)
        self.clock = np.zeros((batch.ranks, batch.size) if self.waits else batch.size)
        self.wakes = bool(batch.wake.any())
        self.early: dict[int, Array] = {}  # op that the host has come past before it was asked for -> when
        self.free = not self.waits and not batch.launch.any()

    def issue(self, i: int) -> Array:
        """Ticks at which op `i` is issued; a collective, when its stream notices."""
        if not self.free:
            while self.at <= i:
                self.clock += self.batch.launch[self.batch.sort_of[self.at]]
                if self.at < i:
                    self.early[self.at] = self.clock.copy()
                self.at += 1
        found = self.early.pop(i, self.clock)
        return found + self.batch.wake if self.wakes and self.program.streams[i] >= 0 else found

    def ended(self, i: int, end: Array) -> None:
        """Op `i` ends then: a host that waits for it goes on."""
        if self.program.blocks[i]:
            np.maximum(self.clock, end, out=self.clock)

    def later(self, ticks: Array) -> None:
        """All is as many `ticks` later."""
        self.clock += ticks
        self.early = {i: when + ticks for i, when in self.early.items()}

    def skip(self, ops: int) -> None:
        """So many ops further on."""
        self.at += ops
        self.early = {i + ops: when for i, when in self.early.items()}


class _Kernels:
    """Which kernel runs on each rank, for collectives that have to wait until it ends.

    Compute ops are kept in a ring, as long as a collective that is still to come may find them running."""

    def __init__(self, program: Program, batch: Batch) -> None:
        self.batch = batch
        self.first, room = _windows(program)
        self.ring = np.zeros((3, room, batch.ranks, batch.size))  # start, end, ticks of a kernel
        self.next, self.room = 0, room

    def start(self, i: int, row: Array) -> None:
        """Compute op `i` starts then."""
        self.ring[0, self.next % self.room] = row

    def add(self, i: int, end: Array) -> None:
        """It ends then."""
        ticks = self.batch.ticks[self.batch.row_of[i]]
        self.ring[1, self.next % self.room] = end
        np.divide(ticks, self.batch.kernels[self.batch.sort_of[i]], out=self.ring[2, self.next % self.room])
        self.next += 1

    def left(self, i: int, reached: Array) -> Array:
        """Ticks until the kernel ends that runs when collective `i` is reached (as `_Machine._kernel_left`)."""
        first = self.first[i]
        places = np.arange(first, self.next) % self.room
        begun = (self.ring[0, places] <= reached).sum(axis=0) - 1
        at = (begun + first) % self.room
        ranks, configs = np.ogrid[: at.shape[0], : at.shape[1]]
        start, end, kernel = (self.ring[k, at, ranks, configs] for k in range(3))
        runs = (begun >= 0) & (end > reached) & (kernel > 0)
        done = np.remainder(reached - start, np.where(runs, kernel, 1.0))
        return np.where(runs, np.rint(kernel - done), 0.0)


def _windows(program: Program) -> tuple[list[int], int]:
    """[op] number, among compute ops, of the first that can run when a collective is reached, which is that behind its
    last input; and the most of them that may then run."""
    place, known, first, room = [0] * len(program.streams), 0, [0] * len(program.streams), 1
    for i in program.order:
        if program.streams[i] < 0:
            place[i], known = known, known + 1
        else:
            first[i] = max((place[j] + 1 for j in program.crossing[i] if program.streams[j] < 0), default=0)
            room = max(room, known - first[i] + 1)
    return first, room


def _meet(row: Array, teams: Sequence[Sequence[int]]) -> None:
    """Every rank of a team has the latest time of any."""
    for team in teams:
        row[[*team] if len(teams) > 1 else slice(None)] = row[[*team]].max(axis=0)
