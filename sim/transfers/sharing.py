"""Transfers in flight together, of several communicators or groups: their flows share every resource max-min fairly.

It knows transfers of bytes over a Fabric, and the clock; it refuses to know why somebody sends them.  Whenever a
transfer begins or ends, or compute slows one down, a new stage of flows begins (sim/transfers/stage.py); in between,
only ends that somebody waits for are events."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event
from simpy.events import Timeout

from sim.fluid import Fluid
from sim.transfers.fabric import Fabric
from sim.transfers.moving import Moving
from sim.transfers.stage import Crowd, Stage

Array = npt.NDArray[np.float64]
_TICK = 0.5  # what takes less than half of a tick is over,
_OF_NOW = 1e-15  # or, late in long runs, less than the clock can tell


class _Transfer:
    """A collective in flight: the parts still to come, and of the present one what is left."""

    def __init__(
        self, parts: Sequence[Moving], stretch: float, saved: float, then: Callable[[list[int]], None]
    ) -> None:
        self.parts, self.stretch, self.saved, self.then = list(parts), stretch, saved, then
        self.group, self.slow = 0, 1.0  # whose compute slows it down, and how much at present
        self.waiting = {*parts[0].ranks}  # ranks whose end has not come

    def begin(self, now: float) -> None:
        """The next part starts up; when that is due, bytes flow."""
        self.part = self.parts.pop(0)
        self.due, self.flowing = now + self.part.start_ticks * self.ticks, False
        whole = self.part.moving_ticks * self.part.factor
        left = self.part.flow_bytes * (max(0.0, 1.0 - self.saved / whole) if whole else 1.0)
        self.left = np.where(left > 0, left, np.inf)  # bytes [flow]; infinity where nothing is left
        self.saved = 0.0

    def slow_down(self, now: float, slow: float) -> None:
        """From now on a tick takes `slow` times as long as it would if no rank computed."""
        self.due = now + (self.due - now) * slow / self.slow
        self.slow = slow

    @property
    def ticks(self) -> float:
        """That one of its own takes."""
        return self.slow * self.stretch * self.part.factor

    def settle(self, now: float, tick: float) -> None:
        """Flows if it is due; ends ranks that have all; goes on to the next part where this one is over."""
        while self.flowing or self.due < now + tick:
            self.flowing = True
            still = {*self.part.ends[:, self.left < np.inf].ravel().tolist()}
            if not self.parts:
                self.end(self.waiting - still)
            if not self.parts or still:
                break
            self.begin(now)

    def end(self, done: set[int]) -> None:
        """These ranks have sent and received all."""
        if done:
            self.waiting -= done
            self.then(sorted(done))


class Sharing:
    """All transfers in flight."""

    def __init__(self, env: Environment, fluid: Fluid, fabric: Fabric, ticks_per_s: float) -> None:
        self.env, self.fluid, self.fabric = env, fluid, fabric
        self.per_tick = fabric.bytes_per_s / ticks_per_s
        self.starting: list[_Transfer] = []
        self.flowing: list[_Transfer] = []
        self.stage: Stage | None = None  # of those that flow,
        self.since = env.now  # when it began
        self.timer: Event | None = None
        self.known: dict[Hashable, Crowd] = {}
        fluid.slowed.append(self._change)

    def transfer(
        self, parts: Sequence[Moving], stretch: float, saved: float, then: Callable[[list[int]], None]
    ) -> None:
        """A collective begins that takes `stretch` times as long as its parts say; what `saved` ticks carry has passed.

        `then` is called with ranks whenever some have sent and received all."""
        ranks = parts[0].ranks

        def end(done: list[int]) -> None:
            self.fluid.arrive(done)
            then(done)

        self.fluid.depart(ranks)
        begun = _Transfer(parts, stretch, saved, end)
        begun.group = self.fluid.group_of[ranks[0]]
        begun.begin(self.env.now)
        begun.slow_down(self.env.now, self.fluid.slow(begun.group))
        self.starting.append(begun)
        self._wait()

    def _change(self, group: int, slow: float) -> None:
        """Compute of a group, which slows its transfers down, begins or ends."""
        if mine := [transfer for transfer in (*self.starting, *self.flowing) if transfer.group == group]:
            self._halt()
            for transfer in mine:
                transfer.slow_down(self.env.now, slow)
            self._go_on()

    @property
    def _tick(self) -> float:
        """What takes less is over."""
        return max(_TICK, self.env.now * _OF_NOW)

    def _halt(self) -> None:
        """Brings what is left up to now."""
        if self.stage:
            left, first = self.stage.left_at(self.env.now - self.since), 0
            for transfer in self.flowing:
                transfer.left = left[first : first + len(transfer.left)]
                first += len(transfer.left)
        self.stage, self.since = None, self.env.now

    def _go_on(self) -> None:
        """Ends what is over, begins what is due; a stage of what flows now; sleeps until the next end."""
        in_flight = [*self.flowing, *self.starting]
        for transfer in in_flight:
            transfer.settle(self.env.now, self._tick)
        self.starting = [transfer for transfer in in_flight if not transfer.flowing]
        self.flowing = [transfer for transfer in in_flight if transfer.flowing and transfer.waiting]
        if self.flowing:
            left = [transfer.left for transfer in self.flowing]
            slow = np.repeat([transfer.ticks for transfer in self.flowing], [*map(len, left)])
            self.stage = Stage(self._crowd(), np.concatenate(left), slow, self._tick)
        self._wait()

    def _next_start(self) -> float:
        return min((transfer.due for transfer in self.starting), default=math.inf)

    def _crowd(self) -> Crowd:
        """What flows.  A flow keeps one gate shut for each rank of each transfer, or one for all of a transfer that has
        parts to come."""
        key = tuple([(transfer.part.shape, not transfer.parts) for transfer in self.flowing])
        if key not in self.known:
            passes = [self.fabric.passes[:, src, dst] for src, dst in (t.part.flows for t in self.flowing)]
            gates = [n * self.fabric.ranks + t.part.ends * (not t.parts) for n, t in enumerate(self.flowing)]
            together = np.concatenate(passes, axis=1).astype(np.float64)
            self.known[key] = Crowd(together, self.per_tick, np.concatenate(gates, axis=1))
        return self.known[key]

    def _wait(self) -> None:
        """A new timer for the next end or beginning; the old one, if it still runs, finds that it is not the last."""
        now, self.timer = self.env.now, None
        ticks = max(1.0, self._next_start() - now)
        if self.stage:
            ticks = min(ticks, max(0.0, self.stage.ticks - (now - self.since)))
        if ticks < math.inf:
            self.timer = Timeout(self.env, round(ticks))
            assert self.timer.callbacks is not None
            self.timer.callbacks.append(self._wake)

    def _wake(self, timer: Event) -> None:
        now = self.env.now
        if timer is not self.timer:
            return
        if self.stage and now - self.since + self.stage.tick >= self.stage.ticks and self._open(self.stage.opens):
            self.stage.go_on()
            self._wait()
        else:
            self._halt()
            self._go_on()

    def _open(self, gates: Sequence[int]) -> bool:
        """Ends ranks whose gates open; whether the stage goes on."""
        done = dict[int, set[int]]()
        for gate in gates:
            done.setdefault(gate // self.fabric.ranks, set()).add(gate % self.fabric.ranks)
        if self._next_start() < self.env.now + self._tick or any(self.flowing[n].parts for n in done):
            return False
        for n in sorted(done):
            self.flowing[n].end(done[n])
        return any(transfer.waiting for transfer in self.flowing)
