"""What each collective moves, and how long that takes alone on the machine's links.

It knows bytes between ranks and, of a Link or a Network, their seconds.  It refuses to know what else is in flight,
which is the engine's business, and how long computing takes (sim/cost.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link
from sim.op import Op
from sim.schedule import Schedule
from sim.transfers.fabric import Fabric
from sim.transfers.network import Network
from sim.workload import WIRES, Workload

Array = npt.NDArray[np.float64]
_COUNT_BYTES = 8  # of a token count on the wire


def collective_s(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> Array | float:
    """Seconds of one collective, each team of ranks alone, from when all of its ranks have reached it: [rank] where
    ranks differ."""
    teams, link = workload.teams(schedule, op), cluster.links
    if len(teams[0]) == 1:
        return 0.0
    if isinstance(link, Network):
        fabric, seconds = cluster.fabric, np.zeros(workload.ranks)
        for team in teams:
            *before, last = transfers(op, schedule, workload, fabric, team)
            whole = sum(float(fabric.transfer_s(part).max()) for part in before) + fabric.transfer_s(last)
            seconds[[*team]] = whole[[*team]]
        return seconds
    return over_link_s(op, schedule, workload, link)


def over_link_s(op: Op, schedule: Schedule, workload: Workload, link: Link) -> Array | float:
    """`collective_s` on a Link, of teams of several ranks.  Numbers of many links, as arrays [link, 1], give
    [link, rank]."""
    if op.kind == "N":
        return link.latency_s
    counts_s = link.counts_s if brings_counts(op, schedule) else 0.0
    return all_to_all_s(workload.sent_bytes(schedule, op), link) + counts_s


def transfers(op: Op, schedule: Schedule, workload: Workload, fabric: Fabric, team: Sequence[int]) -> list[Array]:
    """Bytes [src, dst] of the transfers, one after another, that the collective `op` of `team` consists of."""
    inside = np.zeros((workload.ranks, workload.ranks))
    inside[np.ix_(team, team)] = 1.0
    if op.kind == "N":
        return [inside * (_COUNT_BYTES * workload.held_experts(schedule))]
    moved = workload.moved_bytes(schedule, op)
    if op.kind == "K":
        return [fabric.all_gather(float(moved[team[0], team[0]]), team)]
    return fabric.all_to_all(moved * inside, team)


def halves_s(workload: Workload, cluster: Cluster) -> Array | float:
    """Seconds [rank] in which the ranks of the two guidance halves exchange what the network said; 0 where a rank has
    both, or there is one.

    Alone on the links: that others use them meanwhile is ignored, since it is little (of DiT-MoE XL, less than a
    thousandth of what the all-to-alls of a step move)."""
    mesh, model, link = workload.mesh, workload.model, cluster.links
    if mesh is None or mesh.guidance == 1:
        return 0.0
    values = workload.images * (model.tokens - model.text_tokens) * model.patch**2 * model.output_channels
    sent = np.zeros((workload.ranks, workload.ranks))
    for one, other in mesh.halves:
        sent[one, other] = sent[other, one] = values * WIRES[workload.wire].element_bytes
    if isinstance(link, Link):
        return all_to_all_s(sent, link)
    pairs = [np.where(np.isin(range(workload.ranks), pair), sent, 0.0) for pair in mesh.halves]
    every = [cluster.fabric.transfer_s(pair) * (pair.sum(axis=1) > 0) for pair in pairs]
    return np.asarray(np.max(every, axis=0))


def all_to_all_s(sent_bytes: Array, link: Link) -> Array:
    """Seconds [rank] until one all-to-all of `sent_bytes` [src, dst] ends (the diagonal stays at home and is free).

    The fullest resource of a rank decides: latency_s + max(bytes through it) / bytes_per_s (Hockney 1994).  Ignores
    fairness between pairs, and the burst of an idle link, which is the engine's business.  Raises ValueError if
    `sent_bytes` is not square or has a negative entry."""
    if sent_bytes.ndim != 2 or len(set(sent_bytes.shape)) != 1 or (sent_bytes < 0).any():
        raise ValueError(f"bytes [src, dst] should be square and not negative, not\n{sent_bytes}")
    away = sent_bytes - np.diag(np.diag(sent_bytes))
    through = np.max if link.scope == "pair" else np.sum
    received, sent = through(away, axis=0), through(away, axis=1)
    fullest: Array = received if link.buffered else np.maximum(received, sent)
    return link.latency_s + fullest / link.bytes_per_s


def burst_s(op: Op, link: Link) -> float:
    """Seconds that a link which has long been idle saves the collective `op`: its burst passes at once."""
    return 0.0 if op.kind == "N" else link.burst_bytes / link.bytes_per_s


def brings_counts(op: Op, schedule: Schedule) -> bool:
    """Whether `op` is a dispatch that brings its token counts along, since no N brings them."""
    return op.kind == "D" and not any(name.startswith("N") for name in schedule.inputs(op))
