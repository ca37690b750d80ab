"""Jitter: the noise by which the ops of one run differ from their median times, the same in both engines.

It knows a cluster's spread by kind of op, and a seed; it refuses to know how long ops take."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster
from sim.schedule import Schedule
from sim.workload import Workload


def noise(schedule: Schedule, workload: Workload, cluster: Cluster, seed: int) -> npt.NDArray[np.float64]:
    """[op, rank] factors; a collective has one for all ranks that meet in it."""
    sigma = np.array([[cluster.jitter.get(op.kind, 0.0)] for op in schedule.ops])
    if not sigma.any():
        raise ValueError(f"seed has no effect: cluster {cluster.name} has no jitter for the ops of {schedule.name}")
    if seed < 0:
        raise ValueError(f"seed={seed} should be at least 0")
    normal = np.random.default_rng(seed).standard_normal((len(schedule.ops), cluster.ranks))
    for i, op in enumerate(schedule.ops):
        for team in workload.teams(schedule, op) if op.collective else ():
            normal[i, [*team]] = normal[i, team[0]]
    return np.exp(sigma * normal)
