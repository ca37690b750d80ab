"""What each collective moves, and how long that takes alone on the machine's links.

It knows bytes between ranks and, of a Link or a Network, their seconds.  It refuses to know what else is in flight,
which is the engine's business, and how long computing takes (sim/cost.py)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link
from sim.fabric import Fabric
from sim.network import Network
from sim.op import Op
from sim.schedule import Schedule
from sim.workload import Workload

Array = npt.NDArray[np.float64]
_COUNT_BYTES = 8  # of a token count on the wire


def collective_s(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> Array | float:
    """Seconds of one collective, alone, from when all ranks have reached it: [rank] where ranks differ."""
    if workload.ranks == 1:
        return 0.0
    link = cluster.links
    if isinstance(link, Network):
        fabric = cluster.fabric
        *before, last = transfers(op, schedule, workload, fabric)
        return sum(float(fabric.transfer_s(part).max()) for part in before) + fabric.transfer_s(last)
    if op.kind == "N":
        return link.latency_s
    counts_s = link.counts_s if brings_counts(op, schedule) else 0.0
    return all_to_all_s(workload.sent_bytes(schedule, op), link) + counts_s


def transfers(op: Op, schedule: Schedule, workload: Workload, fabric: Fabric) -> list[Array]:
    """Bytes [src, dst] of the transfers, one after another, that the collective `op` consists of."""
    if op.kind == "N":
        return [np.full((workload.ranks, workload.ranks), _COUNT_BYTES * workload.model.experts / workload.ranks)]
    moved = workload.moved_bytes(schedule, op)
    return [fabric.all_gather(float(moved[0, 0]))] if op.kind == "K" else fabric.all_to_all(moved)


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


def burst_s(op: Op, schedule: Schedule, link: Link) -> float:
    """Seconds that a link which has long been idle saves the collective `op`: its burst passes at once."""
    return 0.0 if op.kind == "N" or brings_counts(op, schedule) else link.burst_bytes / link.bytes_per_s


def brings_counts(op: Op, schedule: Schedule) -> bool:
    """Whether `op` is a dispatch that brings its token counts along, since no N brings them."""
    return op.kind == "D" and not any(name.startswith("N") for name in schedule.inputs(op))
