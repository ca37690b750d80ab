"""Products into seconds: limits known by hand, measured points, and what a fit does outside of what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.gemm import GemmFit, Points, covariance, roofline_s
from sim.gpu import Gpu

FIT = GemmFit(0.5, 0.8, 1e-6, "bf16", (16, 1024), (512, 8192), (512, 8192), (((1.0, 1.0),) * 2, ((2.0, 2.0),) * 2))
FLOPS_PER_S, BYTES_PER_S = 1e14, 1e12


def seconds(m: Any, n: int = 1024, k: int = 1024, fit: GemmFit = FIT) -> Any:
    return fit.seconds((m, n, k), FLOPS_PER_S, BYTES_PER_S, 2)


def test_a_roofline_is_its_longer_side_where_one_is_much_longer() -> None:
    assert roofline_s((8192, 8192, 8192), 1e14, 1e30, 2) == 2 * 8192**3 / 1e14
    assert roofline_s((1, 8192, 8192), 1e30, 1e12, 2) == 2 * (8192**2 + 2 * 8192) / 1e12
    assert roofline_s((512, 512, 512), 2 * 512**3 / 3.0, 6 * 512**2 / 4.0, 2) == pytest.approx(5.0), "3, 4, 5"


def test_a_factor_is_met_at_its_node_and_its_geometric_mean_half_way() -> None:
    plain = replace(FIT, factor=(((1.0, 1.0),) * 2,) * 2)
    ratio = [float(seconds(m) / seconds(m, fit=plain)) for m in (16, 128, 1024)]
    assert ratio == pytest.approx([1.0, 2**0.5, 2.0]), "128 is half-way from 16 to 1024 in octaves"


@pytest.mark.parametrize(("m", "factor"), [(1, 1.0), (4, 1.0), (2048, 2.0), (10**6, 2.0)])
def test_beyond_what_was_measured_the_roofline_goes_on_with_the_factor_of_the_border(m: int, factor: float) -> None:
    line = roofline_s((m, 1024, 1024), FLOPS_PER_S * 0.5, BYTES_PER_S * 0.8, 2)
    assert seconds(m) == pytest.approx(factor * (1e-6 + line))
    assert FIT.outside((m, 1024, 1024)) == "m"


def test_what_was_measured_is_not_flagged_and_an_expert_without_rows_costs_nothing() -> None:
    assert FIT.outside((np.array([0.0, 16.0, 1024.0]), 512, 8192)) == ""
    assert FIT.outside((np.array([0.0, 17.0]), 8, 10**4)) == "n, k"
    assert seconds(np.array([0.0, 64.0]))[0] == 0.0


@pytest.mark.parametrize("change", ["compute_share", "memory_share", "fixed_s"])
def test_every_number_of_a_fit_counts(change: str) -> None:
    assert seconds(256, fit=replace(FIT, **{change: 2 * getattr(FIT, change)})) != seconds(256)


@pytest.mark.parametrize("node", [*np.ndindex(2, 2, 2)])
def test_every_factor_of_a_fit_counts(node: tuple[int, int, int]) -> None:
    factors = np.array(FIT.factor)
    factors[node] *= 1.5
    changed = replace(FIT, factor=tuple(tuple(map(tuple, plane)) for plane in factors.tolist()))
    assert seconds(100, fit=changed) > seconds(100)


# ------------------------------------------------------------------------------------- measured points


def truth(m: float, n: float, k: float) -> float:
    """A machine whose efficiency drifts with every size, in a way that no fit here has."""
    return float(2 * m * n * k / 1e14 * (2 + np.sin(np.log2(m * n / k) / 3)) + 2e-6)


MEASURED = tuple((m, n, k, truth(m, n, k)) for m in (16, 64, 256, 1024) for n in (512, 2048, 8192) for k in (512, 2048))


@pytest.fixture
def gpu() -> Gpu:
    return replace(Gpu.load("h100_sxm"), gemm=FIT, measured={"bf16": MEASURED})


def test_measured_points_are_returned_to_the_last_bit(gpu: Gpu) -> None:
    assert [float(gpu.gemm_s(m, n, k, "bf16")) for m, n, k, _ in MEASURED] == [point[3] for point in MEASURED]
    assert gpu.gemm_s(np.array([[16.0, 0.0], [64.0, 16.0]]), 512, 512, "bf16").tolist() == [
        [truth(16, 512, 512), 0.0], [truth(64, 512, 512), truth(16, 512, 512)]
    ]  # fmt: skip


def test_between_points_their_neighbours_say_more_than_the_fit(gpu: Gpu) -> None:
    between = [(m, n, k) for m in (32, 128, 512) for n in (1024, 4096) for k in (1024,)]
    without = replace(gpu, measured={})
    near, far = (
        np.mean([abs(float(np.log(each.gemm_s(*shape, "bf16") / truth(*shape)))) for shape in between])
        for each in (gpu, without)
    )
    assert near < 0.25 * far


def test_points_say_nothing_about_another_dtype(gpu: Gpu) -> None:
    assert gpu.gemm_s(16, 512, 512, "fp16") == replace(gpu, measured={}).gemm_s(16, 512, 512, "fp16")


def test_leaving_one_out_has_a_closed_form(gpu: Gpu) -> None:
    """What benchmarks/gemm.py uses: kriging without a point, from the inverse of the covariance of all."""
    fitted = [float(FIT.seconds(p[:3], gpu.flops_per_s("bf16"), gpu.memory_bytes_per_s, 2)) for p in MEASURED]
    inverse = np.linalg.inv(covariance(Points(MEASURED, tuple(fitted)).at))
    residual = np.log([point[3] for point in MEASURED]) - np.log(fitted)
    short = np.exp(-(inverse @ residual) / np.diag(inverse))
    for i, point in enumerate(MEASURED):
        others = Points(MEASURED[:i] + MEASURED[i + 1 :], tuple(fitted[:i] + fitted[i + 1 :]))
        assert others.seconds(point[:3], np.array(fitted[i])) / point[3] == pytest.approx(short[i], rel=1e-9)


def test_the_benchmark_kept_its_promise() -> None:
    found = json.loads((Path(__file__).parent.parent / "benchmarks" / "results" / "gemm.json").read_text())
    left_out, plain = found["pooled"]["leave one out"], found["pooled"]["log interpolation"]
    assert left_out["median"] <= 0.04
    assert left_out["p90"] <= 0.12
    assert left_out["median"] < plain["median"]
    assert len(found["rows"]) == 6
