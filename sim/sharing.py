"""Transfers in flight together, of several communicators or groups: their flows share every resource max-min fairly.

It knows flows of bytes over a Fabric; it refuses to know why somebody sends them.  Rates are found anew whenever a flow
begins or ends (sim/flows.py), and kept by which flows are under way, since schedules repeat themselves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event
from simpy.events import Timeout

from sim.fabric import Fabric
from sim.flows import max_min_rates
from sim.fluid import Fluid

Array = npt.NDArray[np.float64]
_TICK = 0.5  # what takes less than half of a tick is over,
_OF_NOW = 1e-15  # or, late in long runs, less than the clock can tell


@dataclass(frozen=True, eq=False)
class Moving:
    """One transfer of a collective: start_ticks, then a flow for each pair of ranks that has bytes."""

    fabric: Fabric
    moved_bytes: Array  # [src, dst]
    start_ticks: float
    moving_ticks: float  # alone, by the closed form
    name: Hashable  # equal for equal transfers
    ranks: tuple[int, ...]  # that take part

    @cached_property
    def flows(self) -> tuple[Array, npt.NDArray[np.int64], Array]:
        """Bytes [flow], ranks [end, flow] at whose ends it counts, and passes [resource, flow]."""
        weighed = self.moved_bytes * self.fabric.weight
        ends = np.array(np.nonzero(weighed))
        passes = self.fabric.passes[:, ends[0], ends[1]].astype(np.float64)
        return weighed[ends[0], ends[1]], ends[1:] if self.fabric.receives_only else ends, passes


class _Transfer:
    """A collective in flight: the parts still to come, and of the present one what is left."""

    def __init__(
        self, parts: Sequence[Moving], stretch: float, saved: float, then: Callable[[list[int]], None]
    ) -> None:
        self.parts, self.stretch, self.saved, self.then = list(parts), stretch, saved, then
        self.group, self.slow = 0, 1.0  # whose compute slows it down, and how many ticks one of its own takes
        self.waiting = {*parts[0].ranks}  # ranks whose end has not come
        self.start, self.flowing = 0.0, False
        self.begin()

    def begin(self) -> None:
        """The next part starts up."""
        self.part = self.parts.pop(0)
        self.start, self.flowing = self.part.start_ticks, False
        flow_bytes, self.ends, _ = self.part.flows
        whole = self.part.moving_ticks
        self.left = flow_bytes * (max(0.0, 1.0 - self.saved / whole) if whole else 1.0)
        self.saved = 0.0
        self.open = self.left > 0
        self.rates = np.zeros(len(self.left))

    @property
    def key(self) -> tuple[Hashable, bytes]:
        """What decides how much of the resources it asks for."""
        return self.part.name, self.open.tobytes()

    def advance(self, ticks: float) -> None:
        """`ticks` of its own time, in which nothing changes, go by."""
        if self.flowing:
            self.left -= self.rates * ticks
        else:
            self.start -= ticks

    def next_ticks(self) -> float:
        """Of its own time, until something of it ends."""
        if not self.flowing:
            return max(0.0, self.start)
        return float((self.left[self.open] / self.rates[self.open]).min()) if self.open.any() else 0.0

    def settle(self, tick: float) -> bool:
        """Whatever has less than `tick` to go ends; whether anything did."""
        if not self.flowing:
            if self.start >= tick:
                return False
            self.flowing = True
        else:
            over = self.open & (self.left < tick * self.rates)
            if self.open.any() and not over.any():
                return False
            self.open &= ~over
        if not self.parts:
            self._end_ranks()
        elif not self.open.any():
            self.begin()
        return True

    def _end_ranks(self) -> None:
        still = {*self.ends[:, self.open].ravel().tolist()}
        if done := sorted(self.waiting - still):
            self.waiting &= still
            self.then(done)


class Sharing:
    """All transfers in flight."""

    def __init__(self, env: Environment, fluid: Fluid, fabric: Fabric, ticks_per_s: float) -> None:
        self.env, self.fluid = env, fluid
        self.per_tick = fabric.bytes_per_s / ticks_per_s
        self.in_flight: list[_Transfer] = []
        self.since = env.now
        self.timer: Event | None = None
        self.known: dict[tuple[tuple[Hashable, bytes], ...], list[Array]] = {}
        fluid.slowed.append(self._change)

    def transfer(
        self, parts: Sequence[Moving], stretch: float, saved: float, then: Callable[[list[int]], None]
    ) -> None:
        """A collective begins that takes `stretch` times as long as its parts say; what `saved` ticks carry has passed.

        `then` is called with ranks whenever some have sent and received all."""
        self._advance()
        ranks = parts[0].ranks

        def end(done: list[int]) -> None:
            self.fluid.arrive(done)
            then(done)

        self.fluid.depart(ranks)
        begun = _Transfer(parts, stretch, saved, end)
        begun.group = self.fluid.group_of[ranks[0]]
        begun.slow = self.fluid.slow(begun.group)
        self.in_flight.append(begun)
        self._settle()

    def _change(self, group: int, slow: float) -> None:
        """Compute of a group, which slows its transfers down, begins or ends."""
        mine = [transfer for transfer in self.in_flight if transfer.group == group]
        if mine:
            self._advance()
            for transfer in mine:
                transfer.slow = slow
            self._wait()

    def _advance(self) -> None:
        """Brings what is left up to now."""
        ticks = self.env.now - self.since
        self.since = self.env.now
        if ticks:
            for transfer in self.in_flight:
                transfer.advance(ticks / transfer.slow / transfer.stretch)

    def _settle(self) -> None:
        """Ends what is over, and what that brings to an end; shares anew; sleeps until the next end."""
        settled, tick = [*self.in_flight], max(_TICK, self.env.now * _OF_NOW)
        while settled:
            settled = [transfer for transfer in settled if transfer.settle(tick) and transfer.waiting]
        self.in_flight = [transfer for transfer in self.in_flight if transfer.waiting]
        self._share()
        self._wait()

    def _share(self) -> None:
        moving = [transfer for transfer in self.in_flight if transfer.flowing]
        key = tuple(transfer.key for transfer in moving)
        if key not in self.known:
            passes = (
                np.concatenate([t.part.flows[2][:, t.open] for t in moving], axis=1) if moving else np.zeros((1, 0))
            )
            rates = max_min_rates(passes, self.per_tick) if moving else np.zeros(0)
            self.known[key] = np.split(rates, np.cumsum([t.open.sum() for t in moving])[:-1]) if moving else []
        for transfer, rates in zip(moving, self.known[key], strict=True):
            transfer.rates[:] = 0.0
            transfer.rates[transfer.open] = rates

    def _wait(self) -> None:
        """A new timer for the next end; the old one, if it still runs, finds that it is not the last."""
        if not self.in_flight:
            self.timer = None
            return
        soonest = min(transfer.next_ticks() * transfer.stretch * transfer.slow for transfer in self.in_flight)
        self.timer = Timeout(self.env, max(1, round(soonest)))
        assert self.timer.callbacks is not None
        self.timer.callbacks.append(self._wake)

    def _wake(self, timer: Event) -> None:
        if timer is self.timer:
            self._advance()
            self._settle()
