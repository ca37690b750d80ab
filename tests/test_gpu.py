"""GPUs as files: those of the package, exact round trips, and everything that is wrong said at once."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from cases import cluster

from sim.cluster import Cluster
from sim.gpu import DTYPES, Gpu, gpu_presets

ASKED_FOR = {"a100_sxm", "b200_sxm", "h100_sxm", "h200_sxm", "l40s", "rtx_4090", "rtx_pro_6000_server"}


@pytest.fixture
def gpu() -> Gpu:
    return Gpu.load("h100_sxm")


def test_the_gpus_that_were_asked_for_come_with_the_package() -> None:
    assert {*gpu_presets()} >= ASKED_FOR


@pytest.mark.parametrize("name", gpu_presets())
def test_what_is_printed_loads_back_and_every_number_has_a_source(name: str, tmp_path: Path) -> None:
    loaded, file = Gpu.load(name), tmp_path / "gpu.yaml"
    file.write_text(str(loaded))
    assert Gpu.load(file) == loaded
    assert {each.name for each in fields(Gpu)} - {"name", "sources", "measured"} == {*loaded.sources}


def test_one_dtype_is_not_slower_than_a_wider_one_and_measured_rates_are_below_the_peak() -> None:
    for loaded in map(Gpu.load, gpu_presets()):
        rates = [loaded.flops_per_s(dtype) for dtype in DTYPES if dtype + "_flops_per_s" in loaded.peak]
        assert rates == sorted(rates)
        for size in (2048, 8192):
            assert 2 * size**3 / loaded.gemm_s(size, size, size, "bf16") < 1.05 * loaded.flops_per_s("bf16")


def test_a_dtype_that_a_gpu_lacks_is_answered_with_those_it_has() -> None:
    with pytest.raises(ValueError, match=r"GPU A100 SXM 80 GB has no fp8; it has fp32, tf32, bf16, fp16$"):
        Gpu.load("a100_sxm").gemm_s(16, 16, 16, "fp8")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"peak": {"fp4_flops_per_s": 1e15}}, "peak.fp4_flops_per_s: unknown, not one of fp32_flops_per_s, tf32"),
        ({"peak": {}}, "peak is empty, and should have at least one of fp32_flops_per_s"),
        ({"memory_bytes": 0.0}, "memory_bytes=0 should be above 0"),
        ({"multiprocessors": -1}, "multiprocessors=-1 should be above 0"),
        ({"attention_share": float("nan")}, "attention_share=nan should be above 0"),
        ({"attention_share": 1.01}, "attention_share=1.01 should be a share, at most 1"),
        ({"sources": {"color": "green"}}, r"sources.color: unknown key \('green'\); there are name, peak"),
        (
            {"measured": {"bf16": ((16, 16, 0, 1.0),)}},
            r"measured.bf16: \[16, 16, 0, 1.0\] should be m, n, k and seconds",
        ),
        ({"measured": {"bf16": ((16, 16, 16, 1.0),) * 2}}, "measured.bf16: a shape stands there twice"),
        ({"measured": {"bf16": ()}}, "measured.bf16: has no products"),
        ({"measured": {"fp4": ()}}, "measured: no peak for 'fp4', only fp32_flops_per_s"),
    ],
)
def test_an_impossible_gpu_is_refused(gpu: Gpu, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(gpu, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"m": (64, 16)}, r"gemm.m=\[64, 16\] should be two or more sizes, growing, from 1 up"),
        ({"k": (0, 1, 2)}, r"gemm.k=\[0, 1, 2\] should be"),
        ({"factor": (((1.0,),),)}, r"gemm.factor should be \[m, n, k\] of \[6, 3, 3\] nodes"),
        ({"factor": (((-1.0,) * 3,) * 3,) * 6}, "gemm.factor=-1 should be above 0"),
        ({"compute_share": 0.0}, "gemm.compute_share=0 should be above 0"),
        ({"fixed_s": -1.0}, "gemm.fixed_s=-1 should be at least 0"),
        ({"dtype": "int4"}, "gemm.dtype: no peak for 'int4'"),
    ],
)
def test_an_impossible_fit_is_refused(gpu: Gpu, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(gpu, gemm=replace(gpu.gemm, **changes))


def test_everything_that_is_wrong_with_a_file_is_said_at_once(gpu: Gpu, tmp_path: Path) -> None:
    file = tmp_path / "gpu.yaml"
    bad = str(gpu).replace("multiprocessors: 132", "cores: 16896").replace("bf16_flops_per_s: 989400000000000.0",
                                                                           "bf16_flops_per_s: 989 TFLOPS")  # fmt: skip
    file.write_text(bad.replace("compute_share: ", "compute_share: much, much more than "))
    with pytest.raises(ValueError, match="cores") as error:
        Gpu.load(file)
    assert str(error.value).replace(f"{file}: ", "").splitlines() == [
        "peak.bf16_flops_per_s: unknown unit 'TFLOPS' in '989 TFLOPS'; known here: FLOP/s, GFLOP/s, TFLOP/s",
        "multiprocessors: missing",
        f"gemm.compute_share: Input should be a valid number, unable to parse string as a number "
        f"('much, much more than {gpu.gemm.compute_share}')",
        "cores: unknown key (16896); the nearest is sources",
    ]


# ------------------------------------------------------------------------------------- in a cluster


def written(tmp_path: Path, compute: str) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(f"name: lab\nranks: 2\ncompute: {compute}\nlink: {{latency_s: 20 us, bytes_per_s: 1 GB/s}}\n")
    return file


def test_a_cluster_names_a_gpu_or_spells_it_out(gpu: Gpu, tmp_path: Path) -> None:
    named = Cluster.load(written(tmp_path, "{gpu: h100_sxm}"))
    assert named.compute == gpu
    named.save(tmp_path / "spelt.yaml")
    assert Cluster.load(tmp_path / "spelt.yaml") == named


@pytest.mark.parametrize(
    ("compute", "why"),
    [
        ("{gpu: h101}", "compute.gpu: no GPU is called h101, and no file; the names are a100_sxm, b200_sxm"),
        ("{gpu: h100_sxm, peak: 3}", "compute.gpu='h100_sxm' is all of it: peak?"),
        ("{peak: {bf16_flops_per_s: 1 TFLOP/s}, name: x}", "compute.memory_bytes: missing"),
        ("{peak: {bf16_flops_per_s: 1 TFLOP}}", "compute.peak.bf16_flops_per_s: unknown unit 'TFLOP'"),
        ("{P: {fixed_s: 1}}", "compute.P.flops_per_s: missing"),
    ],
)
def test_a_bad_gpu_in_a_cluster_is_named(compute: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cluster.yaml") as error:
        Cluster.load(written(tmp_path, compute))
    assert why in str(error.value)


def test_a_bad_number_of_a_gpu_in_a_cluster_is_named_with_its_key(gpu: Gpu, tmp_path: Path) -> None:
    text = str(cluster(compute=gpu)).replace("multiprocessors: 132", "multiprocessors: 0")
    (tmp_path / "cluster.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"compute.multiprocessors=0 should be above 0"):
        Cluster.load(tmp_path / "cluster.yaml")
