"""A batch: many configurations (workload and cluster) of one schedule, their costs in whole ticks side by side.

Ops of one sort cost the same, so costs are [sort, rank, config], as sim/vectorised/costs.py finds them.  It knows what
ops cost; it refuses to know when they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cluster import Link
from sim.engine import TICKS_PER_S
from sim.jitter import noise
from sim.schedule import Schedule
from sim.vectorised.costs import Config, Costs

Array = npt.NDArray[np.float64]
_BY_CONFIG = ("ticks", "launch", "kernels", "burst", "rest", "slow_compute", "wake", "latency", "slow_transfer")


@dataclass(frozen=True, eq=False)
class Batch:
    """Costs in ticks.  `row_of` [op]: the row of `ticks` [row, rank, config] that it takes (with jitter, each its own).

    All ranks of a configuration do the same where they cost the same: then one stands for all of them (`ranks` is 1).
    sort_of [op]: row of launch, kernels, burst and slow_compute [sort, config]; rest_of [op]: row of rest [row, rank,
    config] (sim/transfers/rests.py), which is one zero where nothing bursts.  wake, latency, slow_transfer [config].
    teams [op]: ranks that meet in a collective; halves: ranks that meet at each solver step."""

    schedule: Schedule
    sort_of: list[int]
    row_of: list[int]
    ticks: Array
    launch: Array
    kernels: Array
    burst: Array
    rest_of: list[int]
    rest: Array
    slow_compute: Array
    wake: Array
    latency: Array
    slow_transfer: Array
    teams: list[tuple[tuple[int, ...], ...]]
    halves: tuple[tuple[int, ...], ...]

    @property
    def ranks(self) -> int:
        """Ranks that are told apart."""
        return int(self.ticks.shape[1])

    @property
    def size(self) -> int:
        """Configurations."""
        return int(self.ticks.shape[2])

    def some(self, which: slice | npt.NDArray[np.intp]) -> Batch:
        """The same of some configurations."""
        cut: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[..., which]) for name in _BY_CONFIG}
        return replace(self, **cut)

    @staticmethod
    def joined(parts: Sequence[Batch]) -> Batch:
        """The configurations of several of one schedule, whose workloads vary alike and whose meshes are the same."""
        if len(parts) == 1:
            return parts[0]
        if len({part.rest.shape[:2] for part in parts}) > 1:
            shape = np.broadcast_shapes(*(part.rest.shape[:2] for part in parts))
            parts = [replace(part, rest=np.broadcast_to(part.rest, (*shape, part.size))) for part in parts]
        whole: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in _BY_CONFIG
        }
        return replace(parts[0], **whole)


def batch(costs: Costs, configs: Sequence[Config], seconds: Array, ranks: int) -> Batch:
    """The costs of `configs`, whose workloads vary alike and whose meshes are the same, side by side.

    seconds [config, sort, rank]: `costs.seconds(configs)`; ranks: that are told apart, all, or 1 if all are alike."""
    schedule, first = costs.schedule, configs[0].workload
    sort_of, ops = costs.sorts(first)
    talks = np.array([op.collective for op in ops])[:, None]
    hosts, links = [c.cluster.host for c in configs], [c.cluster.links for c in configs]
    launch_s, collective_s = (np.array([getattr(host, key) for host in hosts]) for key in ("launch_s", "collective_s"))
    kernels, factors = costs.launches(configs).T, [config.cluster.interference for config in configs]
    row_of, ticks = _ticks(costs, configs, seconds, ranks)
    mesh, alone = first.mesh_of(schedule), ranks == 1
    return Batch(
        schedule,
        sort_of,
        row_of,
        ticks,
        whole(np.where(talks, collective_s, launch_s * kernels)),
        np.ascontiguousarray(kernels),
        whole(costs.bursts(configs).T),
        costs.followers(first)[0],
        whole(costs.rests(configs)[:, :, :ranks].transpose(1, 2, 0)),
        1.0 + np.array([[each.of_compute(op.kind) for each in factors] for op in ops]),
        whole(np.array([host.wake_s for host in hosts])),
        whole(np.array([link.latency_s if isinstance(link, Link) else 0.0 for link in links])),
        1.0 + np.array([each.communication for each in factors]),
        [((0,),) if alone else first.teams(schedule, op) if op.collective else () for op in schedule.ops],
        () if alone or mesh.guidance == 1 else mesh.halves,
    )


def whole(seconds: Array) -> Array:
    """Seconds in whole ticks, rounded as Python's `round` does."""
    return np.rint(seconds * TICKS_PER_S)


def _ticks(costs: Costs, configs: Sequence[Config], seconds: Array, ranks: int) -> tuple[list[int], Array]:
    """`row_of` and `ticks` of a Batch."""
    sort_of, _ = costs.sorts(configs[0].workload)
    if all(config.seed is None for config in configs):
        return sort_of, np.ascontiguousarray(whole(seconds[:, :, :ranks]).transpose(1, 2, 0))
    ticks = np.empty((len(sort_of), ranks, len(configs)))
    for n, config in enumerate(configs):
        factors: Array | float = 1.0
        if config.seed is not None:
            factors = noise(costs.schedule, config.workload, config.cluster, config.seed)
        ticks[:, :, n] = whole(seconds[n, sort_of] * factors)[:, :ranks]
    return [*range(len(sort_of))], ticks
