"""The one place where shapes become seconds: what each op costs on each rank, alone on the machine.

Compute: fixed_s + FLOPs / flops_per_s, by kind of op, with the rank's own token counts.  Collectives: see
sim/collectives.py.  Both ignore contention between streams, which is the engine's business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link
from sim.collectives import brings_counts, collective_s, transfers
from sim.schedule import Op, Schedule
from sim.sharing import Moving
from sim.workload import ModelShape, Workload

Array = npt.NDArray[np.float64]


def forward_macs(model: ModelShape) -> float:
    """Multiply-accumulates of one image through the network once, attention's two products left out.

    Equals the "Gflops" column of arXiv 2407.11633 (15.43 for S/2 to 690.94 for G/2) to its last digit."""
    tokens, size = model.tokens, model.hidden
    block = tokens * (_attention_macs(model) + model.experts * size + _swiglu_macs(model, shared=True))
    block += tokens * model.top_k * _swiglu_macs(model) + 6 * size * size
    return model.layers * block + tokens * (_embed_macs(model) + _final_macs(model)) + 2 * size * size + _t_macs(model)


def durations_s(schedule: Schedule, workload: Workload, cluster: Cluster) -> Array:
    """Seconds [op, rank] of every op, alone on the machine; of a collective from when all ranks have reached it.

    `workload` must have been fitted to the schedule (`Workload.fits`)."""
    seconds = np.empty((len(schedule.ops), workload.ranks))
    seen: dict[object, int] = {}
    for i, op in enumerate(schedule.ops):
        key = _sort(op, schedule, workload)
        if key in seen:
            seconds[i] = seconds[seen[key]]
        else:
            seen[key] = i
            seconds[i] = op_s(op, schedule, workload, cluster)
    return seconds


def launches(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> int:
    """Kernels that the host launches for a compute op: 1 where rates were measured, since Host.launch_s is of an op."""
    return 1


def moving_parts(
    schedule: Schedule, workload: Workload, cluster: Cluster, ticks_per_s: float
) -> dict[int, list[Moving]]:
    """Position of each collective -> its transfers, one after another, for flows that share links."""
    fabric, link, found = cluster.fabric, cluster.links, dict[object, list[Moving]]()
    for op in (op for op in schedule.ops if op.collective):
        if (key := _sort(op, schedule, workload)) not in found:
            counts_s = link.counts_s if isinstance(link, Link) and brings_counts(op, schedule) else 0.0
            found[key] = []
            for n, moved in enumerate(transfers(op, schedule, workload, fabric)):
                moving_s = fabric.moving_s(moved)
                start, whole = fabric.start_s(moved, moving_s) + counts_s * (n == 0), float(moving_s.max())
                found[key].append(Moving(fabric, moved, start * ticks_per_s, whole * ticks_per_s, (key, n)))
    return {i: found[_sort(op, schedule, workload)] for i, op in enumerate(schedule.ops) if op.collective}


def op_s(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> Array | float:
    """Seconds of one op, alone: [rank] where ranks differ, else one number for all."""
    if op.collective:
        return collective_s(op, schedule, workload, cluster)
    rate = cluster.compute.get(op.kind) or replace(cluster.compute["A"], fixed_s=0.0)  # Q: a part of A
    return rate.fixed_s + op_flops(op, schedule, workload) / rate.flops_per_s


def op_flops(op: Op, schedule: Schedule, workload: Workload) -> Array | float:
    """FLOPs (two a multiply-accumulate) of a compute op: [rank] for E, whose ranks differ, else the same on each."""
    if op.kind == "E":
        rows: Array = workload.rows(schedule, op).sum(axis=0)
        return 2 * rows * _swiglu_macs(workload.model)
    tokens = workload.tokens / (schedule.micro_batches if op.layer is not None else 1)
    macs = _MACS_PER_TOKEN[op.kind](workload.model)
    if op.kind == "A" and schedule.sharded_patches:
        macs -= _MACS_PER_TOKEN["Q"](workload.model)
    return 2 * tokens * macs


def _swiglu_macs(model: ModelShape, shared: bool = False) -> float:
    """A row through one expert: gate, up and down (12 D^2 routed, 6 D^2 shared: arXiv 2407.11633)."""
    return 3 * model.hidden * model.hidden * (model.shared_experts if shared else model.mlp_ratio)


def _attention_macs(model: ModelShape) -> float:
    """A token's q, k, v and output projections."""
    return 4 * model.hidden * model.hidden


def _embed_macs(model: ModelShape) -> float:
    return model.patch**2 * model.channels * model.hidden


def _final_macs(model: ModelShape) -> float:
    return model.hidden * model.patch**2 * 2 * model.channels


def _t_macs(model: ModelShape) -> float:
    """An image's timestep embedding: two linear layers on 256 sinusoids."""
    return 256 * model.hidden + model.hidden * model.hidden


_MACS_PER_TOKEN: dict[str, Callable[[ModelShape], float]] = {
    "Q": lambda m: 3 * m.hidden * m.hidden,
    "P": lambda m: _embed_macs(m) + _t_macs(m) / m.tokens,
    "A": lambda m: _attention_macs(m) + 2 * m.tokens * m.hidden + m.experts * m.hidden + 6 * m.hidden**2 / m.tokens,
    "S": lambda m: _swiglu_macs(m, shared=True),
    "R": lambda m: (m.top_k + 2) * m.hidden,
    "F": lambda m: _final_macs(m) + 2 * m.hidden**2 / m.tokens,
    "Z": lambda m: 2 * m.patch**2 * m.channels,
}


def _sort(op: Op, schedule: Schedule, workload: Workload) -> object:
    """Ops of one sort cost the same: those of one kind, and for D, E and C of the same tokens and slots."""
    if op.kind not in "DEC" or op.layer is None:
        return op.kind, len(schedule.layers_of(op))
    assert workload.routing is not None
    steps, layers = workload.routing.counts.shape[:2]
    slots, counts = schedule.chain_slots(op), brings_counts(op, schedule)
    return op.kind, op.step if steps > 1 else 0, op.layer if layers > 1 else 0, op.part, op.piece, slots, counts
