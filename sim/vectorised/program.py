"""A program: a schedule as the vectorised engines walk it, op by op, in an order that serves many configurations.

The streams and the host run their ops in the schedule's order, so every op can be timed as soon as those before it on
its stream, its inputs, and those that held the host up are.  In between there is a choice: what computes first, so that
a collective finds out which kernel it is behind; or collectives first, so that an op finds out what travels beside it.
It knows positions; it refuses to know how long anything takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sim.schedule import Schedule

_LONGEST = 12  # steps after which the same may come again


@dataclass(frozen=True, eq=False)
class Program:
    """`schedule` on hosts that wait for every compute op (synchronous) or run ahead.

    first: what is walked first where there is a choice, "listed" (the schedule's order), "compute" or "collectives"."""

    schedule: Schedule
    synchronous: bool
    first: str = "listed"

    @cached_property
    def streams(self) -> list[int]:
        """[op] -1 for compute, or the communicator."""
        return [op.communicator if op.collective else -1 for op in self.schedule.ops]

    @cached_property
    def blocks(self) -> list[bool]:
        """[op]: whether the host waits for it."""
        return [op.blocks or (self.synchronous and not op.collective) for op in self.schedule.ops]

    @cached_property
    def crossing(self) -> list[list[int]]:
        """[op] positions of the inputs that come from another stream; those of its own have ended anyway."""
        needs, streams = self.schedule.needs, self.streams
        return [[j for j in needs[i] if streams[j] != streams[i]] for i in range(len(needs))]

    @cached_property
    def order(self) -> list[int]:
        """Positions, in the order in which they are walked."""
        if self.first == "listed":
            return [*range(len(self.streams))]
        order = [*self._chosen()]
        assert len(order) == len(self.streams), "a checked schedule runs to the end"
        return order

    @cached_property
    def blocker(self) -> list[int]:
        """[op] position of the last op before it for which the host waits; -1: none."""
        found, last = [], -1
        for i, waits in enumerate(self.blocks):
            found.append(last)
            last = i if waits else last
        return found

    @cached_property
    def blocking(self) -> bool:
        """Whether a host waits for any collective."""
        return any(waits and stream >= 0 for waits, stream in zip(self.blocks, self.streams, strict=True))

    @cached_property
    def overtakes(self) -> bool:
        """Whether a host may go on behind a collective that it waits for while ops issued before that still compute."""
        if not self.blocking:
            return False
        ended = [0] * len(self.streams)  # [op] compute ops that have ended when it has
        last, computed = dict[int, int](), 0
        for i, stream in enumerate(self.streams):
            behind = [*self.crossing[i], last.get(stream, -1), self.blocker[i]]
            ended[i] = max(ended[j] for j in behind if j >= 0) if max(behind) >= 0 else 0
            if stream < 0:
                computed = ended[i] = computed + 1
            elif self.blocks[i] and ended[i] < computed:
                return True
            last[stream] = i
        return False

    @cached_property
    def shapes(self) -> list[int]:
        """[op] a number, the same for ops that need the same of those that stand as far before them."""
        number: dict[object, int] = {}
        each = zip(self.streams, self.blocks, self.crossing, strict=True)
        keys = ((stream, waits, *(i - j for j in needs)) for i, (stream, waits, needs) in enumerate(each))
        return [number.setdefault(key, len(number)) for key in keys]

    @cached_property
    def strides(self) -> list[int]:
        """How many ops the schedule takes, in its middle, for one step, for two, ...: what may come round."""
        first: dict[int, int] = {}
        for i, op in enumerate(self.schedule.ops):
            first.setdefault(op.step, i)
        steps = sorted(first)
        middles = ((len(steps) - n) // 2 for n in range(1, min(_LONGEST, len(steps) - 1) + 1))
        ops = (first[steps[at + n]] - first[steps[at]] for n, at in enumerate(middles, 1))
        return [*dict.fromkeys(each for each in ops if each > 0)]

    def _chosen(self) -> Iterator[int]:
        blocker, computed = self.blocker, np.cumsum([stream < 0 for stream in self.streams])
        waiting = {stream: [i for i, s in enumerate(self.streams) if s == stream] for stream in {*self.streams}}
        queues = sorted(waiting.items(), reverse=self.first == "collectives")
        at, done = dict.fromkeys([-1, *waiting], 0), [False] * len(self.streams)

        def ready(i: int) -> bool:
            held = blocker[i] >= 0 and not (done[blocker[i]] and at[-1] >= computed[blocker[i]])
            return not held and all(done[j] for j in self.crossing[i])

        while True:
            for stream, queue in queues:
                if at[stream] < len(queue) and ready(queue[at[stream]]):
                    break
            else:
                return
            done[queue[at[stream]]] = True
            yield queue[at[stream]]
            at[stream] += 1

    @cached_property
    def slots(self) -> tuple[list[int], int]:
        """[op] number of the row that keeps its end, and how many rows there are: one is used again when nobody needs
        what it has."""
        last = self._last_use()
        free, slot, used = list[int](), [0] * len(last), 0
        leaving: dict[int, list[int]] = {}
        for n, i in enumerate(self.order):
            if not free:
                free.append(used)
                used += 1
            slot[i] = free.pop()
            leaving.setdefault(last[i], []).append(i)
            free += [slot[j] for j in leaving.pop(n, ())]
        return slot, used

    def _last_use(self) -> list[int]:
        """[op] place in `order` of the last op that reads when it ended: as an input, or as the one before it."""
        place = {i: n for n, i in enumerate(self.order)}
        last = [place[i] for i in range(len(place))]
        before: dict[int, int] = {}
        for n, i in enumerate(self.order):
            for j in self.crossing[i]:
                last[j] = max(last[j], n)
            if (previous := before.get(self.streams[i])) is not None:
                last[previous] = max(last[previous], n)
            before[self.streams[i]] = i
        for i in before.values():  # the end of a stream is asked for at last
            last[i] = len(place)
        return last
