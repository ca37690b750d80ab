"""Bytes and FLOPs of kernels against the cost model that divides by rates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import cluster as measured_rates

from sim.cluster import Cluster
from sim.cost import kernel_s, kernels_of
from sim.gemm import roofline_s
from sim.gpu import DTYPES, Gpu
from sim.kernels import Attention, Gemm
from sim.load import load_schedule
from sim.roofline import moved_elements, roofline
from sim.workload import MODELS, Workload

CLUSTER = Cluster.load("8x-h100")
SCHEDULE = load_schedule("sync", 2, 28)
RATE = 3.35e12


def moving(gpu: Gpu) -> Gpu:
    """The same, so quick at arithmetic and at starting kernels that memory decides, with all of its rate."""
    plain = replace(gpu.gemm, fixed_s=0.0, memory_share=1.0, compute_share=1.0, m=(1, 2), n=(1, 2), k=(1, 2),
                    factor=(((1.0,) * 2,) * 2,) * 2)  # fmt: skip
    return replace(gpu, peak=dict.fromkeys(gpu.peak, 1e30), gemm=plain, memory_bytes_per_s=RATE)


@pytest.mark.parametrize("settings", [{}, {"grouped": True}, {"dtype": "fp8"}], ids=str)
@pytest.mark.parametrize("model", ["XL", "G"])
def test_seconds_of_a_gpu_that_only_moves_are_bytes_over_its_rate(model: str, settings: dict[str, Any]) -> None:
    workload = Workload(MODELS[model], 8, 16, **settings)
    schedule = load_schedule("sync", 1, workload.model.layers)
    fitted, dtype = workload.fits(schedule), workload.dtype or "bf16"
    assert isinstance(CLUSTER.compute, Gpu)
    gpu = moving(CLUSTER.compute)
    for op in {op.kind: op for op in schedule.ops if not op.collective}.values():
        for kernel in kernels_of(op, schedule, fitted):
            seconds = np.asarray(kernel_s(kernel, gpu, dtype), dtype=np.float64)
            assert seconds == pytest.approx(moved_elements(kernel) * DTYPES[dtype] / RATE), kernel


def test_products_and_attention_of_known_size() -> None:
    gemm = Gemm("a", 100, 20, 30, times=2)
    assert moved_elements(gemm) == 2 * (100 * 30 + 30 * 20 + 100 * 20)
    assert moved_elements(Attention("a", 2, 3, 10, 20, 5)) == 2 * 2 * 3 * (10 + 20) * 5
    assert float(roofline_s((100, 20, 30), 1e30, 1.0, 1)) == moved_elements(gemm) / 2


def test_nothing_lies_above_the_roof() -> None:
    found = roofline(SCHEDULE, Workload(MODELS["XL"], 8, 16), CLUSTER)
    assert [each.kind for each in found] == ["P", "A", "S", "E", "R", "F", "Z"][: len(found)]
    assert isinstance(CLUSTER.compute, Gpu)
    for each in found:
        roof = min(CLUSTER.compute.flops_per_s("bf16"), each.intensity * CLUSTER.compute.memory_bytes_per_s)
        assert 0 < each.flops_per_s < roof
    kernels = roofline(SCHEDULE, Workload(MODELS["XL"], 8, 16), CLUSTER, by_kernel=True)
    assert {each.name for each in kernels} >= {"E expert down", "A attention", "S shared gate, up"}


def test_measured_rates_have_no_roof() -> None:
    with pytest.raises(ValueError, match="cluster test has measured rates, not a GPU"):
        roofline(SCHEDULE, Workload(MODELS["XL"], 8, 16), measured_rates(8))
