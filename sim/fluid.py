"""Interference: compute and communication of a rank slow each other down while both are under way.

A fluid: work has a rate that changes when the other kind starts or stops.  It knows who is busy; it refuses to know
of schedules and of links (who shares those: sim/transfers/sharing.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simpy import Environment, Event
from simpy.events import Timeout

from sim.cluster import Cluster


def pass_on(event: Event, timer: Timeout) -> None:
    """Who waits for `event` now waits for `timer`."""
    timer.callbacks, event.callbacks = event.callbacks, []


class Flow:
    """Work under way: `left` ticks of it alone at time `since`, each taking `slow` ticks at present."""

    __slots__ = ("left", "since", "slow", "timer", "whole")

    def __init__(self, env: Environment, ticks: float, slow: float) -> None:
        self.whole, self.left, self.since, self.slow = ticks, ticks, env.now, slow
        self.timer = Timeout(env, round(ticks * slow))

    def change(self, env: Environment, slow: float) -> None:
        """From now on every tick of work takes `slow`; a new timer takes over who waits for the old one."""
        if slow == self.slow or not self.timer.callbacks:
            return
        self.left = max(0.0, self.left - (env.now - self.since) / self.slow)
        self.since, self.slow = env.now, slow
        timer = Timeout(env, round(self.left * slow))
        pass_on(self.timer, timer)
        self.timer = timer


class Fluid:
    """Who computes and who transfers.  Work takes 1 + factor times as long while the other kind is busy on its rank.

    Ignores that the pairs of a collective proceed independently: it is slow while any rank of its group computes."""

    def __init__(self, env: Environment, cluster: Cluster, kinds: Sequence[str], group_of: Sequence[int]) -> None:
        self.env, self.group_of = env, group_of
        factors = cluster.interference
        self.flows = factors.any
        self.slow_compute = [1.0 + factors.of_compute(kind) for kind in kinds]
        self.slow_transfer = 1.0 + factors.communication
        self.computing: list[tuple[Flow, float] | None] = [None] * cluster.ranks
        self.talking = [0] * cluster.ranks  # transfers under way
        self.busy = [0] * (max(group_of) + 1)  # [group] ranks that compute
        self.slowed: list[Callable[[int, float], None]] = []  # told a group, and what a tick of transfer takes there

    def slow(self, group: int) -> float:
        """Ticks that a tick of transfer takes at present."""
        return self.slow_transfer if self.busy[group] else 1.0

    def compute(self, rank: int, op: int, ticks: float) -> Timeout:
        """`rank` begins a compute op; the event that ends it."""
        slow = self.slow_compute[op]
        flow = Flow(self.env, ticks, slow if self.talking[rank] else 1.0)
        if self.computing[rank] is None:
            self._count(self.group_of[rank], 1)
        self.computing[rank] = flow, slow
        return flow.timer

    def done(self, rank: int) -> tuple[float, float]:
        """Ticks of its work that the compute op of `rank` has behind it, and what a tick takes at present."""
        computing = self.computing[rank]
        assert computing is not None, "asked of a rank that computes"
        flow = computing[0]
        return flow.whole - flow.left + (self.env.now - flow.since) / flow.slow, flow.slow

    def pause(self, rank: int) -> None:
        """`rank` has nothing to compute at present."""
        if self.computing[rank] is not None:
            self.computing[rank] = None
            self._count(self.group_of[rank], -1)

    def depart(self, ranks: Sequence[int]) -> None:
        """A transfer begins on these ranks."""
        if not self.flows:
            return
        for rank in ranks:
            self.talking[rank] += 1
            if self.talking[rank] == 1 and (computing := self.computing[rank]):
                computing[0].change(self.env, computing[1])

    def arrive(self, ranks: Sequence[int]) -> None:
        """A transfer has ended on these ranks."""
        if not self.flows:
            return
        for rank in ranks:
            self.talking[rank] -= 1
            if not self.talking[rank] and (computing := self.computing[rank]):
                computing[0].change(self.env, 1.0)

    def _count(self, group: int, more: int) -> None:
        before = self.slow(group)
        self.busy[group] += more
        if (slow := self.slow(group)) != before:
            for tell in self.slowed:
                tell(group, slow)


class Alone:
    """Transfers that never share a link: how long each takes is known beforehand."""

    def __init__(self, env: Environment, fluid: Fluid) -> None:
        self.env, self.fluid = env, fluid
        self.in_flight: dict[Flow, int] = {}  # -> its group
        fluid.slowed.append(self._change)

    def transfer(self, ticks: float, ranks: Sequence[int], then: Callable[[Sequence[int]], None]) -> None:
        """A transfer begins that takes `ticks` on these ranks; `then` is called with them when it has ended there."""
        group = self.fluid.group_of[ranks[0]]
        flow = Flow(self.env, ticks, self.fluid.slow(group))
        if self.fluid.flows:
            self.in_flight[flow] = group
            self.fluid.depart(ranks)

        def end(_: Event) -> None:
            self.in_flight.pop(flow, None)
            self.fluid.arrive(ranks)
            then(ranks)

        assert flow.timer.callbacks is not None
        flow.timer.callbacks.append(end)

    def _change(self, group: int, slow: float) -> None:
        for flow, mine in self.in_flight.items():
            if mine == group:
                flow.change(self.env, slow)
