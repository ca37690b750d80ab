"""What a simulated run needs to know of its ops beside how long they take: kernels, bursts, who meets for a collective,
and whose transfers may get into each other's way.

Groups of ranks whose transfers can pass the same resource are an island; on an island of several groups, or with
several communicators, or where the teams that share images inside a group meet on a link, or pairs begin one by one,
transfers are flows that share links (sim/transfers/sharing.py).  Elsewhere each collective is alone, and takes what
the closed form says.  It knows schedule, workload and cluster; it refuses to know what happens when."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link
from sim.cost import launches, moving_parts, pair_parts, sorts
from sim.mesh import number_of
from sim.schedule import Schedule
from sim.transfers.collectives import brings_counts, burst_s
from sim.transfers.fabric import Fabric
from sim.transfers.rests import followers, rest_bytes
from sim.workload import Workload

Teams = Sequence[Sequence[int]]


class Plan:
    """[op] kernels, burst and teams (of a collective, the ranks that meet in it); `parts` [op][team]: its transfers;
    rest [op][rank]: ticks from when the link that the next collective fills most is free until this one ends.

    island_of [group]: which island; shares [group]: whether its transfers are flows.  halves: ranks that wait for each
    other before each solver step."""

    def __init__(
        self, schedule: Schedule, workload: Workload, cluster: Cluster, noise: npt.ArrayLike, ticks_per_s: float
    ) -> None:
        self.schedule, mesh = schedule, workload.mesh_of(schedule)
        self.kernels = launches(schedule, workload, cluster)
        link = cluster.links if isinstance(cluster.links, Link) else Link(0.0, 1.0)  # a network saves no burst up
        self.burst = [round(burst_s(op, link) * ticks_per_s) if op.collective else 0 for op in schedule.ops]
        self.rest = self._rests(workload, link, ticks_per_s)
        self.latency = round(link.latency_s * ticks_per_s)
        self.stretch = np.broadcast_to(noise, (len(schedule.ops), cluster.ranks)).tolist()
        self.teams = [workload.teams(schedule, op) if op.collective else () for op in schedule.ops]
        self.groups, self.group_of = mesh.groups, number_of(mesh.groups)
        self.halves = mesh.halves if mesh.guidance > 1 else ()
        self.island_of = islands(cluster.fabric, mesh.groups)
        self.shares = shares(schedule, workload, cluster)
        self.parts = moving_parts(schedule, workload, cluster, ticks_per_s) if any(self.shares) else {}
        self.pairs = pair_parts(schedule, self.parts, ticks_per_s) if begins_pairwise(cluster) else {}
        self.counted = {i for i in self.pairs if brings_counts(schedule.ops[i], schedule)}

    def _rests(self, workload: Workload, link: Link, ticks_per_s: float) -> list[list[float]]:
        if not any(self.burst):  # nobody asks
            return [[0.0] * workload.ranks] * len(self.burst)
        sort_of, ops = sorts(self.schedule, workload)
        row_of, rows = followers(self.schedule, sort_of)
        rests = rest_bytes(rows, ops, self.schedule, workload, link)
        ticks = np.rint(rests / link.bytes_per_s * ticks_per_s).tolist()
        return [ticks[row] for row in row_of]


def begins_pairwise(cluster: Cluster) -> bool:
    """Whether pairs of an all-to-all begin one by one; of two ranks there is one pair."""
    return cluster.links.pairwise and cluster.ranks > 2


def shares(schedule: Schedule, workload: Workload, cluster: Cluster) -> list[bool]:
    """[group]: whether its transfers are flows, since others may be on their links at the same time."""
    mesh = workload.mesh_of(schedule)
    if mesh.group_ranks == 1:
        return [False] * len(mesh.groups)
    if begins_pairwise(cluster):
        return [True] * len(mesh.groups)
    if len(schedule.streams) > 2:
        return [True] * len(mesh.groups)
    if schedule.sharded_patches and len({*islands(cluster.fabric, mesh.sharers)}) < len(mesh.sharers):
        return [True] * len(mesh.groups)
    island_of = [0] if len(mesh.groups) == 1 else islands(cluster.fabric, mesh.groups)
    return [island_of.count(island) > 1 for island in island_of]


def islands(fabric: Fabric, teams: Teams) -> list[int]:
    """[team]: number of its island; teams of which one's transfers pass what the other's do are on the same."""
    used = [fabric.used_by(team) for team in teams]
    island = [*range(len(teams))]
    for a, b in combinations(range(len(teams)), 2):
        if island[a] != island[b] and (used[a] & used[b]).any():
            joined = island[b]
            island = [island[a] if mine == joined else mine for mine in island]
    return [*map([*dict.fromkeys(island)].index, island)]
