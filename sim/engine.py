"""The simulated machine: schedule, workload and cluster in, Trace out, as SimPy processes.

A rank is a host that issues ops in schedule order, a compute stream and a stream for each communicator.  Streams are
first-in first-out; an op starts when it has been issued, its stream is free and its inputs are there; a collective
starts when every rank of its team (sim/mesh.py) has reached it, and without priority not before the kernel that runs
there has ended; ranks with the two guidance halves of the same images begin each solver step together.  While compute
and communication of a rank are busy they slow each other down (sim/fluid.py).  Where never two transfers can meet on a
link each takes what the closed form says; others share the links as max-min fair flows (sim/plan.py,
sim/transfers/sharing.py).

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
from simpy.events import EventPriority, Timeout

from sim.cluster import Cluster, Host
from sim.cost import durations_s, extrapolated
from sim.fluid import Alone, Fluid, pass_on
from sim.jitter import noise
from sim.memory import channels_of
from sim.mesh import number_of
from sim.plan import Plan
from sim.schedule import Schedule
from sim.trace import HOSTS, Trace
from sim.transfers.pairs import Pairs
from sim.transfers.sharing import Sharing
from sim.workload import Workload

TICKS_PER_S = 1e12
_LAST = EventPriority(2)  # SimPy has 0 (urgent) and 1 (normal)
LONGEST_S = 1e12  # of one op; what is longer is a slip in a number
Process = Generator[Event, object, None]


def simulate(schedule: Schedule, workload: Workload, cluster: Cluster, seed: int | None = None) -> Trace:
    """The Trace of `schedule` run with `workload` on `cluster`; without a seed, every op takes its median time.

    With a seed every op's time is multiplied by noise exp(N(0, cluster.jitter[kind])), the same for the same seed.
    Raises ValueError if the three do not fit each other, or if a seed would change nothing."""
    workload = workload.fits(schedule.check())
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")
    factors = 1.0 if seed is None else noise(schedule, workload, cluster, seed)
    with np.errstate(over="ignore"):  # of a rate of next to nothing: what comes of it is told below
        seconds = durations_s(schedule, workload, cluster) * factors
    if not (seconds <= LONGEST_S).all():
        op = schedule.ops[int(np.argmax(~(seconds <= LONGEST_S).all(axis=1)))]
        raise ValueError(f"{op.name} would take {np.max(seconds):g} s on cluster {cluster.name}")
    plan = Plan(schedule, workload, cluster, factors, TICKS_PER_S)
    machine = _Machine(plan, cluster, np.rint(seconds * TICKS_PER_S).T.tolist())
    reached, start, end = machine.run()
    about = {"cluster": cluster.name, **workload.about(), **({} if seed is None else {"seed": str(seed)})}
    about |= {"host": HOSTS[cluster.host.synchronous], "channels": str(channels_of(cluster))}
    if notes := extrapolated(schedule, workload, cluster):
        about["extrapolated"] = notes
    played = workload.replay
    oldest = played.staleness if played else np.array(schedule.staleness(), dtype=np.int64)
    gathered = np.array(schedule.attention_staleness(), dtype=np.int64) if schedule.sharded_patches else None
    return Trace(schedule, "simulated", reached, start, end, oldest, about, played.ages if played else None, gathered)


class _Machine:
    """All ranks of one run.  Times are ticks; `ticks`, `reached`, `start`, `end` are [rank][op], -1 where not yet."""

    def __init__(self, plan: Plan, cluster: Cluster, ticks: list[list[float]]) -> None:
        self.env, self.plan, self.ticks, self.ranks = Environment(), plan, ticks, cluster.ranks
        talks = plan.schedule.on_communication
        streams = [op.communicator if talk else -1 for op, talk in zip(plan.schedule.ops, talks, strict=True)]
        self.compute_ops = [i for i, stream in enumerate(streams) if stream < 0]
        self.collectives = [i for i, stream in enumerate(streams) if stream >= 0]
        # A stream runs its ops in order: only inputs that come from another stream have to be waited for.
        self.waits = [[j for j in needs if streams[j] != streams[i]] for i, needs in enumerate(plan.schedule.needs)]
        self.reached, self.start, self.end, self.issued = ([[-1.0] * len(talks) for _ in ticks] for _ in range(4))
        self.ended: list[dict[int, Event]] = [{} for _ in ticks]  # [rank] compute op -> what its end will trigger
        self.issue: list[dict[int, Event]] = [{} for _ in ticks]  # [rank] op -> what its issue will trigger
        self.under_way: list[list[int]] = [[0, -1] for _ in ticks]  # [rank] where `_kernel_left` looks next, found last
        self.landed = [-math.inf] * self.ranks  # until when links were at work
        self.fluid = Fluid(self.env, cluster, [op.kind for op in plan.schedule.ops], plan.group_of)
        self._set_up_collectives(cluster)
        self.half_of = number_of(plan.halves) if plan.halves else []
        self.joins = {i for i, op in enumerate(plan.schedule.ops) if plan.halves and op.kind == "Z"}
        self.joined: dict[tuple[int, int], Event] = {}
        self.defers = not cluster.host.priority
        self._begin_hosts(cluster.host)
        for rank in range(self.ranks):
            self.env.process(self._compute_fluid(rank) if self.fluid.flows else self._compute(rank))
            for communicator in sorted({streams[i] for i in self.collectives}):
                mine = [i for i in self.collectives if streams[i] == communicator]
                self.env.process(self._communicate(rank, mine))

    def _set_up_collectives(self, cluster: Cluster) -> None:
        """Who times transfers, and what their ends trigger: `over` [collective][rank].

        Ranks of a team for which a collective takes equally long share a timer, and an event."""
        plan, alike, number = self.plan, functools.cache(_alike), functools.cache(number_of)
        self.team_of = {i: number(plan.teams[i]) for i in self.collectives}
        self.arrived = {i: [0] * len(plan.teams[i]) for i in self.collectives}
        self.over: dict[int, list[Event]] = {}
        self.together: dict[int, list[list[tuple[float, list[int]]]]] = {}
        if any(plan.shares):
            self.sharing = {n: Sharing(self.env, self.fluid, cluster.fabric, TICKS_PER_S) for n in {*plan.island_of}}
        self.alone, self.pairs = Alone(self.env, self.fluid), Pairs(plan.pairs, plan.counted)
        flowing = [rank for rank, group in enumerate(plan.group_of) if plan.shares[group]]
        for i in self.collectives:
            sorts = [alike(tuple(self.ticks[rank][i] for rank in team), team) for team in plan.teams[i]]
            self.together[i] = sorts
            shared = {sort[0]: Event(self.env) for team in sorts for _, sort in team}  # by the first of those alike
            first = {rank: sort[0] for team in sorts for _, sort in team for rank in sort}
            self.over[i] = [shared[first[rank]] for rank in range(self.ranks)]
            for rank in flowing:
                self.over[i][rank] = Event(self.env)  # flows end one by one

    def _begin_hosts(self, host: Host) -> None:
        ops, talks = self.plan.schedule.ops, self.plan.schedule.on_communication
        launch = [
            round((host.collective_s if t else host.launch_s * n) * TICKS_PER_S)
            for t, n in zip(talks, self.plan.kernels, strict=True)
        ]
        self.wake = [round(host.wake_s * TICKS_PER_S) * t for t in talks]
        blocks = [op.blocks or (host.synchronous and not t) for op, t in zip(ops, talks, strict=True)]
        for rank in range(self.ranks):
            if any(blocks):
                self.env.process(self._host(rank, launch, blocks))
            else:  # nothing holds this host up: when it issues what is known beforehand
                self.issued[rank] = (np.cumsum(launch, dtype=np.float64) + self.wake).tolist()

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
            now = max(now, issued[i])
            if i in self.joins:
                if now > env.now:
                    yield Timeout(env, now - env.now)
                yield self._join(rank, i)
                now = env.now
            start[i] = now
            end[i] = now = now + ticks[i]
            if i in ended:
                pass_on(ended.pop(i), Timeout(env, now - env.now))

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
            if i in self.joins:
                fluid.pause(rank)
                yield self._join(rank, i)
            start[i] = env.now
            yield fluid.compute(rank, i, ticks[i])
            end[i] = env.now
            if i in ended:
                ended.pop(i).succeed()
        fluid.pause(rank)

    def _communicate(self, rank: int, collectives: list[int]) -> Process:
        end, issued, teams = self.end[rank], self.issued[rank], self.plan.teams
        for i in collectives:
            for j in self.waits[i]:
                if not 0 <= end[j] <= self.env.now:
                    yield self.over[j][rank] if j in self.over else self._end(rank, j)
            while not 0 <= issued[i] <= self.env.now:
                yield self._issue(rank, i)
            self.reached[rank][i] = self.env.now
            if self.defers:
                yield _end_of_instant(self.env)
                if left := self._kernel_left(rank):
                    yield Timeout(self.env, left)
            team = self.team_of[i][rank]
            self.arrived[i][team] += 1
            if self.pairs.of(i):
                self._begin_pairs(i, team, rank)
            elif self.arrived[i][team] == len(teams[i][team]):
                self._begin(i, team)
            yield self.over[i][rank]

    def _kernel_left(self, rank: int) -> float:
        """Ticks until the kernel that `rank` runs ends, if it goes on as at present; 0 if it runs none.

        A kernel that begins at this very instant runs: it was behind its predecessor on the stream, while a collective
        has to be woken.  The kernels of an op take equally long.  Ignores that blocks of a kernel's last wave end one
        by one."""
        now, start, end, look = self.env.now, self.start[rank], self.end[rank], self.under_way[rank]
        while look[0] < len(self.compute_ops) and 0 <= start[self.compute_ops[look[0]]] <= now:
            look[1] = self.compute_ops[look[0]]
            look[0] += 1
        i = look[1]
        if i < 0 or 0 <= end[i] <= now:
            return 0
        kernel = self.ticks[rank][i] / self.plan.kernels[i]
        done, slow = self.fluid.done(rank) if self.fluid.flows else (now - start[i], 1.0)
        return round((kernel - done % kernel) * slow) if kernel else 0

    def _begin(self, i: int, team: int) -> None:
        """The last rank of a team has reached collective `i`: it is under way."""
        now, plan, ranks = self.env.now, self.plan, self.plan.teams[i][team]
        saved = min(plan.burst[i], now - max(self.landed[rank] for rank in ranks))  # sent at once, by an idle link
        for rank in ranks:
            self.start[rank][i] = now
        then = functools.partial(self._finish, i)
        group = plan.group_of[ranks[0]]
        if plan.shares[group]:
            sharing = self.sharing[plan.island_of[group]]
            sharing.transfer(plan.parts[i][team], plan.stretch[i][ranks[0]], saved, then)
            return
        for ticks, members in self.together[i][team]:
            self.alone.transfer(max(ticks - saved, min(ticks, plan.latency)), members, then)

    def _begin_pairs(self, i: int, team: int, rank: int) -> None:
        """`rank` has reached an all-to-all of pairs, of which those begin that can.  In traces it begins, as any
        collective, when the last rank has come."""
        ranks, plan = self.plan.teams[i][team], self.plan
        if self.arrived[i][team] == len(ranks):
            for each in ranks:
                self.start[each][i] = self.env.now
        for moving in self.pairs.come(i, team, rank, len(ranks)):
            saved = min(plan.burst[i], self.pairs.rested(moving, self.env.now))
            sharing = self.sharing[plan.island_of[plan.group_of[rank]]]
            then = functools.partial(self._end_pair, i, moving.ranks)
            sharing.transfer([moving], plan.stretch[i][rank], saved, then)

    def _end_pair(self, i: int, pair: Sequence[int], ranks: Sequence[int]) -> None:
        if done := self.pairs.ended(i, pair, ranks, self.env.now):
            self._finish(i, done)

    def _finish(self, i: int, ranks: Sequence[int]) -> None:
        now = self.env.now
        for rank in ranks:
            self.end[rank][i] = now
            self.landed[rank] = now - self.plan.rest[i][rank]
        for event in dict.fromkeys(self.over[i][rank] for rank in ranks):
            event.succeed()

    def _join(self, rank: int, i: int) -> Event:
        """What triggers when both ranks that have halves of the same images have come to op `i`."""
        both = (i, self.half_of[rank])
        if both in self.joined:
            return self.joined.pop(both).succeed()
        self.joined[both] = Event(self.env)
        return self.joined[both]

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


def _end_of_instant(env: Environment) -> Event:
    """What triggers when nothing else is to happen at the present time: so no tie depends on who is asked first."""
    event = Event(env)
    event._ok, event._value = True, None
    env.schedule(event, _LAST)
    return event


def _alike(ticks: tuple[float, ...], ranks: tuple[int, ...]) -> list[tuple[float, list[int]]]:
    """(ticks, ranks that take as long), of the ticks of each of `ranks`."""
    groups: dict[float, list[int]] = {}
    for rank, mine in zip(ranks, ticks, strict=True):
        groups.setdefault(mine, []).append(rank)
    return list(groups.items())
