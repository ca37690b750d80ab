"""Where the ops of a run lie under a GPU's roofline: FLOPs, bytes and seconds of each kind, as sim/cost.py has them.

It knows what the cost model says; it refuses to know what a real GPU would."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sim.cluster import Cluster
from sim.cost import kernel_s, kernels_of
from sim.gpu import DTYPES, Gpu
from sim.kernels import Attention, Gemm, Kernel, macs
from sim.schedule import Op, Schedule
from sim.workload import Workload


class Working(NamedTuple):
    """One kind of op, or one kernel of it, in one run of the op on the mean rank.

    name: "E routed experts", or "E expert down"; moved_bytes: to and from the GPU's memory."""

    kind: str
    name: str
    flops: float
    moved_bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.moved_bytes

    @property
    def flops_per_s(self) -> float:
        """Rate that is reached."""
        return self.flops / self.seconds


def roofline(schedule: Schedule, workload: Workload, cluster: Cluster, by_kernel: bool = False) -> list[Working]:
    """The first compute op of every kind, or with `by_kernel` its kernels; those without arithmetic are left out.

    Raises ValueError if the cluster's compute is not a Gpu, or if schedule and workload do not fit each other."""
    workload, gpu = workload.fits(schedule), cluster.compute
    if not isinstance(gpu, Gpu):
        raise ValueError(f"cluster {cluster.name} has measured rates, not a GPU: they have no roofline")
    dtype = workload.dtype or "bf16"
    found = []
    first: dict[str, Op] = {}
    for op in schedule.ops:
        first.setdefault(op.kind, op)
    for kind, op in ((kind, op) for kind, op in first.items() if not op.collective):
        parts = [_working(kind, each, gpu, dtype) for each in kernels_of(op, schedule, workload)]
        whole = Working(
            kind, kind, sum(p.flops for p in parts), sum(p.moved_bytes for p in parts), sum(p.seconds for p in parts)
        )
        found += [part for part in parts if part.flops] if by_kernel else [whole] if whole.flops else []
    return found


def _working(kind: str, kernel: Kernel, gpu: Gpu, dtype: str) -> Working:
    size = DTYPES[dtype]
    flops, moved, seconds = 2 * macs(kernel), moved_elements(kernel) * size, kernel_s(kernel, gpu, dtype)
    return Working(kind, f"{kind} {kernel.name}", *(float(np.mean(each)) for each in (flops, moved, seconds)))


def moved_elements(kernel: Kernel) -> Any:
    """Elements that a kernel reads and writes, each operand once; [rank] where ranks differ.

    What sim/gpu.py divides by the memory's rate; tests/test_roofline.py holds the two together."""
    if isinstance(kernel, Gemm):
        rows, held = np.asarray(kernel.m, dtype=np.float64), np.asarray(kernel.m) > 0
        if kernel.grouped or rows.ndim:
            rows, matrices = rows.sum(axis=-1), held.sum(axis=-1)
        else:
            matrices = held * 1
        return kernel.times * (rows * kernel.k + matrices * kernel.k * kernel.n + rows * kernel.n)
    if isinstance(kernel, Attention):
        return 2 * kernel.images * kernel.heads * (kernel.queries + kernel.keys) * kernel.width
    return kernel.elements
