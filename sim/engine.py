"""The simulated machine: schedule, workload and cluster in, Trace out, as SimPy processes.

A rank is a host that issues ops in schedule order, a compute stream and a communication stream.  Streams are
first-in first-out; an op starts when it has been issued, its stream is free and its inputs are there; a collective
starts when every rank has reached it.  While both streams of a rank are busy they slow each other down (a fluid: a
rate that changes when the other stream starts or stops).

Time is whole picoseconds, so that sums are exact (floats hold them up to 2.5 hours) and two engines can agree to the
last bit.  One process a stream, with events made only where somebody waits, is what keeps this fast: a process an op
is ten times slower."""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt
from simpy import Environment, Event
from simpy.events import Timeout

from sim.cluster import Cluster, Link
from sim.collectives import burst_s
from sim.cost import durations_s
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

TICKS_PER_S = 1e12
LONGEST_S = 1e12  # of one op; what is longer is a slip in a number
Process = Generator[Event, object, None]


def simulate(schedule: Schedule, workload: Workload, cluster: Cluster, seed: int | None = None) -> Trace:
    """The Trace of `schedule` run with `workload` on `cluster`; without a seed, every op takes its median time.

    With a seed every op's time is multiplied by noise exp(N(0, cluster.jitter[kind])), the same for the same seed.
    Raises ValueError if the three do not fit each other, or if a seed would change nothing."""
    workload = workload.fits(schedule.check())
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")
    seconds = durations_s(schedule, workload, cluster)
    if seed is not None:
        seconds = seconds * _noise(schedule, cluster, seed)
    if not (seconds <= LONGEST_S).all():
        op = schedule.ops[int(np.argmax(~(seconds <= LONGEST_S).all(axis=1)))]
        raise ValueError(f"{op.name} would take {np.max(seconds):g} s on cluster {cluster.name}")
    machine = _Machine(schedule, cluster, np.rint(seconds * TICKS_PER_S).T.tolist())
    reached, start, end = machine.run()
    about = {"cluster": cluster.name, **workload.about(), **({} if seed is None else {"seed": str(seed)})}
    ages = np.array(schedule.staleness(), dtype=np.int64)
    gathered = np.array(schedule.attention_staleness(), dtype=np.int64) if schedule.sharded_patches else None
    return Trace(schedule, "simulated", reached, start, end, ages, about, attention_staleness=gathered)


def _noise(schedule: Schedule, cluster: Cluster, seed: int) -> npt.NDArray[np.float64]:
    """[op, rank] factors; a collective has one for all ranks."""
    sigma = np.array([[cluster.jitter.get(op.kind, 0.0)] for op in schedule.ops])
    if not sigma.any():
        raise ValueError(f"seed has no effect: cluster {cluster.name} has no jitter for the ops of {schedule.name}")
    normal = np.random.default_rng(seed).standard_normal((len(schedule.ops), cluster.ranks))
    shared = [*schedule.on_communication]
    normal[shared] = normal[shared, :1]
    return np.exp(sigma * normal)


class _Machine:
    """All ranks of one run.  Times are ticks; `ticks`, `reached`, `start`, `end` are [rank][op], -1 where not yet."""

    def __init__(self, schedule: Schedule, cluster: Cluster, ticks: list[list[float]]) -> None:
        self.env = Environment()
        self.ops, self.ticks, self.ranks = schedule.ops, ticks, cluster.ranks
        talks = [*schedule.on_communication]
        self.compute_ops = [i for i, t in enumerate(talks) if not t]
        self.collectives = [i for i, t in enumerate(talks) if t]
        # A stream runs its ops in order: only inputs that come from the other stream have to be waited for.
        self.waits = [[j for j in needs if talks[j] != t] for needs, t in zip(schedule.needs, talks, strict=True)]
        self.reached, self.start, self.end, self.issued = ([[-1.0] * len(talks) for _ in ticks] for _ in range(4))
        # Ranks where a collective takes equally long share a timer, and the event that their end of it triggers.
        alike = functools.cache(_alike)
        self.together = {i: alike(tuple(mine[i] for mine in ticks)) for i in self.collectives}
        self.over: dict[int, list[Event]] = {i: [Event(self.env)] * len(ticks) for i in self.collectives}  # [rank]
        for i, groups in self.together.items():
            for _, ranks in groups[1:]:
                shared = Event(self.env)
                for rank in ranks:
                    self.over[i][rank] = shared
        self.ended: list[dict[int, Event]] = [{} for _ in ticks]  # [rank] compute op -> what its end will trigger
        self.issue: list[dict[int, Event]] = [{} for _ in ticks]  # [rank] op -> what its issue will trigger
        self.arrived = [0] * len(talks)
        self.fluid = _Fluid(self.env, cluster, [op.kind for op in schedule.ops])
        link = cluster.link if isinstance(cluster.link, Link) else Link(0.0, 1.0)  # a network saves no burst up
        self.burst = {i: round(burst_s(self.ops[i], schedule, link) * TICKS_PER_S) for i in self.collectives}
        self.latency = round(link.latency_s * TICKS_PER_S)
        self.landed = -math.inf  # when the last collective ended
        host = cluster.host
        launch = [round((host.collective_s if t else host.launch_s) * TICKS_PER_S) for t in talks]
        self.wake = [round(host.wake_s * TICKS_PER_S) * t for t in talks]
        blocks = [op.blocks or (host.synchronous and not t) for op, t in zip(schedule.ops, talks, strict=True)]
        for rank in range(self.ranks):
            if any(blocks):
                self.env.process(self._host(rank, launch, blocks))
            else:  # nothing holds this host up: when it issues what is known beforehand
                self.issued[rank] = (np.cumsum(launch, dtype=np.float64) + self.wake).tolist()
            self.env.process(self._compute_fluid(rank) if self.fluid.flows else self._compute(rank))
            self.env.process(self._communicate(rank))

    def run(self) -> Sequence[npt.NDArray[np.float64]]:
        """Runs to the end; reached, start and end in seconds [rank, op]."""
        self.env.run()
        assert min(map(min, self.end)) >= 0, "a checked schedule runs to the end"
        reached, start, end = np.array(self.reached), np.array(self.start), np.array(self.end)
        reached[:, self.compute_ops] = start[:, self.compute_ops]
        return [(ticks - start.min()) / TICKS_PER_S for ticks in (reached, start, end)]

    def _host(self, rank: int, launch: list[int], blocks: list[bool]) -> Process:
        for i, waits in enumerate(blocks):
            yield Timeout(self.env, launch[i])
            self.issued[rank][i] = self.env.now + self.wake[i]
            if i in self.issue[rank]:
                self.issue[rank].pop(i).succeed()
            if waits and not 0 <= self.end[rank][i] <= self.env.now:
                yield self.over[i][rank] if i in self.over else self._end(rank, i)

    def _compute(self, rank: int) -> Process:
        """Ops whose time nothing changes once they have begun: when they end is known at once, and the stream sleeps
        only until something that is not known yet."""
        start, end, issued, ended = self.start[rank], self.end[rank], self.issued[rank], self.ended[rank]
        env, ticks = self.env, self.ticks[rank]
        now = 0.0  # of this stream, which may be ahead of the clock
        for i in self.compute_ops:
            for j in self.waits[i]:
                if end[j] < 0 and now > env.now:
                    yield Timeout(env, now - env.now)
                if end[j] < 0:
                    yield self.over[j][rank]
                    now = env.now
            if issued[i] < 0:
                yield self._issue(rank, i)
            start[i] = now = max(now, issued[i])
            end[i] = now = now + ticks[i]
            if i in ended:
                _pass_on(ended.pop(i), Timeout(env, now - env.now))

    def _compute_fluid(self, rank: int) -> Process:
        """Ops that slow down and speed up while they run: the stream sleeps until each has ended."""
        start, end, issued, ended = self.start[rank], self.end[rank], self.issued[rank], self.ended[rank]
        fluid, env, ticks = self.fluid, self.env, self.ticks[rank]
        for i in self.compute_ops:
            for j in self.waits[i]:
                if end[j] < 0:
                    fluid.pause(rank)
                    yield self.over[j][rank]
            if not 0 <= issued[i] <= env.now:
                fluid.pause(rank)
                yield self._issue(rank, i)
            start[i] = env.now
            yield fluid.compute(rank, i, ticks[i])
            end[i] = env.now
            if i in ended:
                ended.pop(i).succeed()
        fluid.pause(rank)

    def _communicate(self, rank: int) -> Process:
        end, issued = self.end[rank], self.issued[rank]
        for i in self.collectives:
            for j in self.waits[i]:
                if not 0 <= end[j] <= self.env.now:
                    yield self._end(rank, j)
            while not 0 <= issued[i] <= self.env.now:
                yield self._issue(rank, i)
            self.reached[rank][i] = self.env.now
            self.arrived[i] += 1
            if self.arrived[i] == self.ranks:
                self._begin(i)
            yield self.over[i][rank]

    def _begin(self, i: int) -> None:
        """The last rank has reached collective `i`: it is under way."""
        now = self.env.now
        saved = min(self.burst[i], now - self.landed)  # sent at once, by a link that was idle
        for start in self.start:
            start[i] = now
        for ticks, ranks in self.together[i]:
            timer = self.fluid.transfer(max(ticks - saved, min(ticks, self.latency)), ranks)
            assert timer.callbacks is not None
            timer.callbacks.append(functools.partial(self._finish, i, ranks))

    def _finish(self, i: int, ranks: list[int], _: Event) -> None:
        self.landed = now = self.env.now
        self.fluid.arrive(ranks)
        for rank in ranks:
            self.end[rank][i] = now
        self.over[i][ranks[0]].succeed()

    def _end(self, rank: int, i: int) -> Event:
        """What triggers when compute op `i`, which has not ended, ends on `rank`."""
        if self.end[rank][i] < 0:
            return self.ended[rank].setdefault(i, Event(self.env))
        return Timeout(self.env, self.end[rank][i] - self.env.now)

    def _issue(self, rank: int, i: int) -> Event:
        """What triggers when the host of `rank` issues op `i`, which it has not yet."""
        if self.issued[rank][i] < 0:
            return self.issue[rank].setdefault(i, Event(self.env))
        return Timeout(self.env, self.issued[rank][i] - self.env.now)


def _alike(ticks: tuple[float, ...]) -> list[tuple[float, list[int]]]:
    """(ticks, ranks that take as long), of ticks [rank]."""
    groups: dict[float, list[int]] = {}
    for rank, mine in enumerate(ticks):
        groups.setdefault(mine, []).append(rank)
    return list(groups.items())


def _pass_on(event: Event, timer: Timeout) -> None:
    """Who waits for `event` now waits for `timer`."""
    timer.callbacks, event.callbacks = event.callbacks, []


class _Flow:
    """Work under way: `left` ticks of it alone at time `since`, each taking `slow` ticks at present."""

    __slots__ = ("left", "since", "slow", "timer")

    def __init__(self, env: Environment, ticks: float, slow: float) -> None:
        self.left, self.since, self.slow = ticks, env.now, slow
        self.timer = Timeout(env, round(ticks * slow))

    def change(self, env: Environment, slow: float) -> None:
        """From now on every tick of work takes `slow`; a new timer takes over who waits for the old one."""
        if slow == self.slow or not self.timer.callbacks:
            return
        self.left = max(0.0, self.left - (env.now - self.since) / self.slow)
        self.since, self.slow = env.now, slow
        timer = Timeout(env, round(self.left * slow))
        _pass_on(self.timer, timer)
        self.timer = timer


class _Fluid:
    """Interference: work takes 1 + factor times as long while the other stream of its rank is busy.

    Ignores that the pairs of a collective proceed independently: it is slow while any rank computes."""

    def __init__(self, env: Environment, cluster: Cluster, kinds: Sequence[str]) -> None:
        self.env = env
        factors = cluster.interference
        self.flows = any(factors.compute.values()) or factors.communication > 0
        self.slow_compute = [1.0 + factors.compute.get(kind, 0.0) for kind in kinds]
        self.slow_transfer = 1.0 + factors.communication
        self.computing: list[tuple[_Flow, float] | None] = [None] * cluster.ranks
        self.transferring: list[_Flow | None] = [None] * cluster.ranks
        self.busy = 0  # ranks that compute

    def compute(self, rank: int, op: int, ticks: float) -> Timeout:
        """`rank` begins a compute op; the event that ends it."""
        slow = self.slow_compute[op]
        flow = _Flow(self.env, ticks, slow if self.transferring[rank] else 1.0)
        if self.computing[rank] is None:
            self.busy += 1
            if self.busy == 1:
                self._change_transfers(self.slow_transfer)
        self.computing[rank] = flow, slow
        return flow.timer

    def pause(self, rank: int) -> None:
        """`rank` has nothing to compute at present."""
        if self.computing[rank] is not None:
            self.computing[rank] = None
            self.busy -= 1
            if not self.busy:
                self._change_transfers(1.0)

    def transfer(self, ticks: float, ranks: Sequence[int]) -> Timeout:
        """A collective begins, and takes `ticks` on these ranks; the event that ends it there."""
        flow = _Flow(self.env, ticks, self.slow_transfer if self.busy else 1.0)
        if self.flows:
            for rank in ranks:
                self.transferring[rank] = flow
                if computing := self.computing[rank]:
                    computing[0].change(self.env, computing[1])
        return flow.timer

    def arrive(self, ranks: Sequence[int]) -> None:
        """The collective has ended on these ranks."""
        if not self.flows:
            return
        for rank in ranks:
            self.transferring[rank] = None
            if computing := self.computing[rank]:
                computing[0].change(self.env, 1.0)

    def _change_transfers(self, slow: float) -> None:
        for flow in dict.fromkeys(self.transferring):  # ranks where it takes equally long share one
            if flow:
                flow.change(self.env, slow)
