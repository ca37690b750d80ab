"""A stage: flows that run ahead of the clock as long as none is added and nothing else changes.

It knows bytes left, rates and which flows have to end before something is over; it refuses to know transfers and
events (sim/transfers/sharing.py).  Time is ticks since the stage began.  When a flow ends the rates change, so they are
found for many sets of flows at once: those that are left if flows end in the order in which they would at present.
Where they end in another order, rates are found anew: what is guessed is never used for what is not so.  Schedules
repeat themselves, so that rates and runs are kept, both by all that they depend on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.transfers.flows import binding, max_min_rates

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_AHEAD = 16  # sets of flows whose rates are found at once
_AT_ONCE = 10  # ends that are run ahead of the clock: what comes between makes the later ones void
_KEPT_SETS, _KEPT_RUNS = 5_000, 2_000


class Run(NamedTuple):
    """From one set of bytes left to when gates open, or _AT_ONCE flows have ended."""

    past: list[tuple[float, Array, Array]]  # at each end: ticks, bytes left and bytes a tick [flow]
    ticks: float
    left: Array  # bytes [flow] at the end
    opens: list[int]  # gates


class Crowd:
    """Flows that may be under way together, and what each gets of the resources while some of them are.

    gates [end, flow]: what cannot be over before this flow has ended, by number."""

    def __init__(self, passes: Array, bytes_per_tick: Array, gates: npt.NDArray[np.int64]) -> None:
        rows = binding(passes, bytes_per_tick)
        self.passes, self.per_tick, self.gates = passes[rows], bytes_per_tick[rows], gates
        self.rates: dict[bytes, Array] = {}  # by which flow
        self.runs: dict[tuple[bytes, bytes, float], Run] = {}  # by bytes left, what slows each flow down, and tick

    def run(self, left: Array, slow: Array, tick: float) -> Run:
        """What `left` bytes [flow] (infinity: none) do, of which one tick takes `slow` [flow] ticks of the clock.

        What takes less than `tick` is over."""
        key = left.tobytes(), slow.tobytes(), tick
        if key not in self.runs:
            if len(self.runs) > _KEPT_RUNS:
                self.runs.clear()
            self.runs[key] = self._run(left, slow, tick)
        return self.runs[key]

    def _run(self, left: Array, slow: Array, tick: float) -> Run:
        flowing = left < np.inf
        shut: list[int] = np.bincount(self.gates[:, flowing].ravel()).tolist()  # [gate] flows that it waits for
        past, ticks, opens, rates = list[tuple[float, Array, Array]](), 0.0, list[int](), self._even(flowing)
        while not opens and len(past) < _AT_ONCE:
            rates = self._rates(flowing, left, rates)
            pace = rates / slow
            past.append((ticks, left, pace))
            needs = left / pace
            step = float(needs[needs.argmin()])
            over = (needs <= step + tick).nonzero()[0]
            ticks, left = ticks + step, left - pace * step
            left[over], flowing[over] = np.inf, False
            for gate in self.gates[:, over].ravel().tolist():
                shut[gate] -= 1
                if not shut[gate]:
                    opens.append(gate)
        return Run(past, ticks, left, opens)

    def _even(self, flowing: Bools) -> Array:
        """Bytes a tick [flow], at least: the least of an even share of each resource on its way."""
        share = self.per_tick / np.maximum(self.passes @ flowing, 1.0)
        least: Array = np.where(self.passes > 0, share[:, None], np.inf).min(axis=0)
        return least

    def _rates(self, flowing: Bools, left: Array, last: Array) -> Array:
        """Bytes a tick [flow] while those that are `flowing` do, which have `left` bytes and had about `last` rates."""
        found = self.rates.get(flowing.tobytes())
        return self._look_ahead(flowing, left, last) if found is None else found

    def _look_ahead(self, flowing: Bools, left: Array, last: Array) -> Array:
        if len(self.rates) > _KEPT_SETS:
            self.rates.clear()
        flows = in_order(flowing, left, last)
        some = np.arange(min(_AHEAD, len(flows)))[:, None]
        sets, found = np.zeros((2, len(some), len(left)))
        sets[:, flows] = np.arange(len(flows)) >= some
        found[:, flows] = max_min_rates(self.passes[:, flows], self.per_tick, sets[:, flows])
        self.rates.update(zip(map(bytes, sets > 0), found, strict=True))
        return self.rates[flowing.tobytes()]


class Stage:
    """The flows of a crowd from `left` bytes on, under way; `opens`: gates that open at `ticks` after it began."""

    def __init__(self, crowd: Crowd, left: Array, slow: Array, tick: float) -> None:
        self.crowd, self.slow, self.tick = crowd, slow, tick
        self.before, self.ticks = 0.0, 0.0
        self._go_on(left)

    def go_on(self) -> None:
        """What was to come at `ticks` has come."""
        self._go_on(self.run.left)

    def _go_on(self, left: Array) -> None:
        self.run = self.crowd.run(left, self.slow, self.tick)
        self.before, self.ticks, self.opens = self.ticks, self.ticks + self.run.ticks, self.run.opens

    def left_at(self, ticks: float) -> Array:
        """Bytes left [flow] at a time between what came last and `ticks`, when something is to come."""
        if ticks + self.tick >= self.ticks:
            return self.run.left
        ticks -= self.before
        past = self.run.past
        when, left, pace = next((each for each in reversed(past) if each[0] <= ticks + self.tick), past[0])
        return left - pace * max(0.0, ticks - when)


def in_order(flowing: Bools, left: Array, rates: Array) -> npt.NDArray[np.int64]:
    """Those that are `flowing` in the order in which they will end, about: flows of one rate share what they have now
    among those of them that are left."""
    flows = flowing.nonzero()[0]
    rate, needs = rates[flows], left[flows] / rates[flows]
    order = np.lexsort((needs, rate))
    rate, needs = rate[order], needs[order]
    first = np.append(True, rate[1:] != rate[:-1])
    sort = first.cumsum() - 1
    begins, many = first.nonzero()[0], np.bincount(sort)
    still = (begins + many)[sort] - np.arange(len(flows))  # flows of its rate that end no sooner
    gaps = np.where(first, needs, needs - np.append(0.0, needs[:-1])) * still / many[sort]
    whole = gaps.cumsum()
    ends = whole - (whole - gaps)[begins][sort]
    found: npt.NDArray[np.int64] = flows[order[ends.argsort()]]
    return found
