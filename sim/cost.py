"""The one place where shapes become seconds: what each op costs on each rank, alone on the machine.

Compute: on a Gpu, the sum of the op's kernels; with measured rates, fixed_s + FLOPs / flops_per_s by kind of op; both
with the rank's own token counts.  Collectives: see sim/transfers/collectives.py.  All ignore contention between
streams, which is the engine's business."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link, Rate
from sim.gpu import DTYPES, Gpu
from sim.kernels import Attention, Gemm, Kernel, Pass, Share, kernel_launches, macs, op_kernels
from sim.schedule import Op, Schedule
from sim.transfers.collectives import brings_counts, collective_s, halves_s, transfers
from sim.transfers.moving import Moving
from sim.workload import Workload

Array = npt.NDArray[np.float64]


def durations_s(schedule: Schedule, workload: Workload, cluster: Cluster) -> Array:
    """Seconds [op, rank] of every op, alone on the machine; of a collective from when all ranks have reached it.

    `workload` must have been fitted to the schedule (`Workload.fits`).  Raises ValueError if it has a dtype that the
    cluster's GPU lacks, or settings that only a Gpu can follow."""
    check_compute(workload, cluster)
    sort_of, ops = sorts(schedule, workload)
    seconds = np.empty((len(ops), workload.ranks))
    for n, op in enumerate(ops):
        seconds[n] = op_s(op, schedule, workload, cluster)
    return seconds[sort_of]


def computes_in(workload: Workload, on_gpu: bool) -> str:
    """A key of sim.gpu.DTYPES: what the workload says, or bf16 on a Gpu; rates are measured in fp32."""
    return workload.dtype or ("bf16" if on_gpu else "fp32")


def element_bytes_of(workload: Workload, cluster: Cluster) -> int:
    """Of a weight, or of an activation, in memory."""
    return DTYPES[computes_in(workload, isinstance(cluster.compute, Gpu))]


def check_compute(workload: Workload, cluster: Cluster) -> None:
    """Raises ValueError if the workload has settings that only a Gpu can follow, and the cluster has none; or a dtype
    that its Gpu lacks."""
    if isinstance(cluster.compute, Gpu):
        cluster.compute.flops_per_s(computes_in(workload, on_gpu=True))
        return
    given = {key: value for key in ("dtype", "grouped") if (value := getattr(workload, key))}
    if given:
        named = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ValueError(f"workload: {named} has no effect: cluster {cluster.name} has measured rates, not a GPU")


def moving_parts(
    schedule: Schedule, workload: Workload, cluster: Cluster, ticks_per_s: float
) -> dict[int, list[list[Moving]]]:
    """Position of each collective -> by team, its transfers, one after another, for flows that share links."""
    fabric, link, (sort_of, ops) = cluster.fabric, cluster.links, sorts(schedule, workload)

    def moving(op: Op, team: Sequence[int], key: object) -> Iterator[Moving]:
        counts_s = link.counts_s if isinstance(link, Link) and brings_counts(op, schedule) else 0.0
        for n, moved in enumerate(transfers(op, schedule, workload, fabric, team)):
            moving_s = fabric.moving_s(moved)
            start, whole = fabric.start_s(moved, moving_s) + counts_s * (n == 0), float(moving_s.max())
            ticks = start * ticks_per_s, whole * ticks_per_s, fabric.factor(moved)
            yield Moving(fabric, moved, *ticks, (key, team, n), tuple(team))

    teams = [workload.teams(schedule, op) if op.collective else () for op in ops]
    found = [[[*moving(op, team, n)] for team in teams[n]] for n, op in enumerate(ops)]
    return {i: found[sort_of[i]] for i, op in enumerate(schedule.ops) if op.collective}


def pair_parts(
    schedule: Schedule, parts: Mapping[int, Sequence[Sequence[Moving]]], ticks_per_s: float
) -> dict[int, dict[frozenset[int], Moving]]:
    """Position of each all-to-all -> by pair of ranks, what they send each other."""
    found, known = {}, dict[int, dict[frozenset[int], Moving]]()
    for i, teams in parts.items():
        if schedule.ops[i].kind in "DC":
            if id(teams) not in known:  # ops of one sort share theirs
                known[id(teams)] = {p: m for (whole,) in teams for p, m in whole.pairs(ticks_per_s)}
            found[i] = known[id(teams)]
    return found


def op_s(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> Array | float:
    """Seconds of one op, alone: [rank] where ranks differ, else one number for all."""
    if op.collective:
        return collective_s(op, schedule, workload, cluster)
    seconds = compute_s(op, schedule, workload, cluster.compute)
    return seconds + halves_s(workload, cluster) if op.kind == "Z" else seconds


def op_flops(op: Op, schedule: Schedule, workload: Workload) -> Array | float:
    """FLOPs (two a multiply-accumulate) of a compute op: [rank] for E, whose ranks differ, else the same on each."""
    flops: Array | float = 2 * sum(macs(kernel) for kernel in kernels_of(op, schedule, workload))
    return flops


def launches(schedule: Schedule, workload: Workload, cluster: Cluster) -> list[int]:
    """[op] kernels that the host launches: on a Gpu, those of a compute op; else 1, since Host.launch_s is of an op."""
    sort_of, ops = sorts(schedule, workload)
    each = [op_launches(op, schedule, workload, cluster) for op in ops]
    return [each[n] for n in sort_of]


def op_launches(op: Op, schedule: Schedule, workload: Workload, cluster: Cluster) -> int:
    """Kernels that the host launches for one op."""
    if op.collective or not isinstance(cluster.compute, Gpu):
        return 1
    return sum(kernel_launches(kernel) for kernel in kernels_of(op, schedule, workload)) or 1


def kernels_of(op: Op, schedule: Schedule, workload: Workload) -> list[Kernel]:
    """The kernels of a compute op, as one rank runs them."""
    cut = schedule.micro_batches if op.layer is not None else 1
    images = workload.forward_images(schedule) / cut
    rows = workload.expert_rows(schedule, op) if op.kind == "E" else workload.tokens / cut
    return op_kernels(op.kind, workload.model, Share(rows, images, workload.grouped), schedule.sharded_patches)


def kernel_s(kernel: Kernel, gpu: Gpu, dtype: str) -> Array | float:
    """Seconds of one kernel, or of the products of a rank's experts [rank]."""
    if isinstance(kernel, Pass):
        return gpu.traffic_s(kernel.elements, kernel.kernels, dtype)
    if isinstance(kernel, Attention):
        sizes = kernel.queries, kernel.keys, kernel.width
        return gpu.attention_s(kernel.images, kernel.heads, sizes, dtype)
    if kernel.grouped:
        rows, held = kernel.m.sum(axis=-1), (kernel.m > 0).sum(axis=-1)
        return kernel.times * gpu.gemm_s(rows, kernel.n, kernel.k, dtype, held)
    seconds = kernel.times * gpu.gemm_s(kernel.m, kernel.n, kernel.k, dtype)
    return seconds.sum(axis=-1) if np.ndim(seconds) else float(seconds)


def extrapolated(schedule: Schedule, workload: Workload, cluster: Cluster) -> str:
    """A line on what lies outside of what was measured: kernels, their share of compute, a dtype; "" if nothing does.

    Ops are taken to be like the first of their kind and micro-batch."""
    gpu, dtype = cluster.compute, computes_in(workload, on_gpu=True)
    if not isinstance(gpu, Gpu):
        return ""
    computed = [op for op in schedule.ops if not op.collective]
    first = {(op.kind, op.part): op for op in computed}
    often = Counter((op.kind, op.part) for op in computed)
    kernels = [(*key, kernel) for key, op in first.items() for kernel in kernels_of(op, schedule, workload)]
    seconds = [often[kind, part] * float(np.mean(kernel_s(kernel, gpu, dtype))) for kind, part, kernel in kernels]
    axes = [gpu.gemm.outside((k.m, k.n, k.k)) if isinstance(k, Gemm) else "" for *_, k in kernels]
    share = sum(s for s, outside in zip(seconds, axes, strict=True) if outside) / sum(seconds)
    names = {
        f"{kind} {k.name} ({outside})": None for (kind, _, k), outside in zip(kernels, axes, strict=True) if outside
    }
    said = [f"{share:.1%} of compute, in products outside of {gpu.gemm.measured}: {', '.join(names)}"] if names else []
    if dtype != gpu.gemm.dtype:
        said.append(f"{dtype} is taken to reach the shares of its peak that {gpu.gemm.dtype} does")
    return "; ".join(said)


def compute_s(op: Op, schedule: Schedule, workload: Workload, compute: Mapping[str, Rate] | Gpu) -> Array | float:
    """Seconds of one compute op, alone: [rank] where ranks differ, else one number for all.  Rates of many machines,
    as arrays [machine, 1], give [machine, rank]."""
    if isinstance(compute, Gpu):
        dtype = computes_in(workload, on_gpu=True)
        return sum((kernel_s(kernel, compute, dtype) for kernel in kernels_of(op, schedule, workload)), 0.0)
    rate = compute.get(op.kind) or replace(compute["A"], fixed_s=0.0)  # Q: a part of A
    return rate.fixed_s + op_flops(op, schedule, workload) / rate.flops_per_s


def sorts(schedule: Schedule, workload: Workload) -> tuple[list[int], list[Op]]:
    """[op] number of its sort, and the first op of each sort: ops of one sort cost the same on any machine.

    `workload` must have been fitted to the schedule (`Workload.fits`); of it only counts, which steps and layers differ
    in routing or placement."""
    steps, layers = varies(workload)
    number: dict[object, int] = {}
    sort_of = [number.setdefault(_sort(op, schedule, steps, layers), len(number)) for op in schedule.ops]
    first: dict[int, Op] = {}
    for n, op in zip(sort_of, schedule.ops, strict=True):
        first.setdefault(n, op)
    return sort_of, [first[n] for n in range(len(first))]


def varies(workload: Workload) -> tuple[bool, bool]:
    """Whether the rows of a fitted workload differ from step to step, and from layer to layer."""
    assert workload.routing is not None, "call fits() first"
    steps, layers = workload.routing.counts.shape[:2]
    return steps > 1, max(layers, len(workload.placement.holders) if workload.placement else 1) > 1


def _sort(op: Op, schedule: Schedule, steps: bool, layers: bool) -> object:
    """Ops of one sort cost the same: those of one kind, and for D, E and C of the same tokens and slots."""
    if op.kind not in "DEC" or op.layer is None:
        return op.kind, len(schedule.layers_of(op))
    slots, counts = schedule.chain_slots(op), brings_counts(op, schedule)
    return op.kind, op.step if steps else 0, op.layer if layers else 0, op.part, op.piece, slots, counts
