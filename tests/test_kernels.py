"""Ops as kernels on a GPU: published counts, sums by hand, and which settings change what."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import cluster, model, skewed

from sim.cluster import Cluster
from sim.cost import durations_s, extrapolated, kernel_s, kernels_of, launches, op_flops, op_s
from sim.engine import simulate
from sim.gpu import Gpu
from sim.kernels import Attention, Gemm, Pass, Share, kernel_launches, macs, op_kernels, parameters
from sim.load import load_schedule
from sim.models import load_model
from sim.schedule import Op, Schedule
from sim.workload import MODELS, Workload

# Millions of parameters, total and active, and layers: arXiv 2407.11633, table 1, which cuts digits off.
PUBLISHED_M = {"S": (199, 71), "S-16E": (369, 71), "B": (795, 286), "L": (2800, 1000), "XL": (4100, 1500),
               "G": (16500, 3100)}  # fmt: skip
LINGBOT = Path(__file__).parent.parent / "examples" / "lingbot-video.yaml"


@pytest.fixture
def machine() -> Cluster:
    return cluster(compute=Gpu.load("h100_sxm"))


def fitted(name: str = "S", images: int = 4, schedule: Schedule | None = None, **settings: object) -> Workload:
    shape = MODELS[name]
    schedule = schedule or load_schedule("sync", 1, shape.layers)
    return replace(Workload(shape, 2, images), **settings).fits(schedule)  # type: ignore[arg-type]


def seconds(machine: Cluster, workload: Workload, name: str, schedule: Schedule | None = None) -> float:
    schedule = schedule or load_schedule("sync", 1, workload.model.layers)
    op = schedule.ops[schedule.position[name]]
    return float(np.max(op_s(op, schedule, workload, machine)))


@pytest.mark.parametrize("name", PUBLISHED_M)
def test_parameters_are_the_published_ones(name: str) -> None:
    total, active = PUBLISHED_M[name]
    digits = 100 if total >= 1000 else 1
    assert parameters(MODELS[name]) // (digits * 10**6) * digits == total
    assert parameters(MODELS[name], experts=2) / 1e6 == pytest.approx(active, abs=max(1, digits))


@pytest.mark.parametrize("name", ["tiny", "S", "G"])
def test_parameters_are_those_of_the_network_that_runs(name: str) -> None:
    network = pytest.importorskip("realrun.model").DiTMoE(MODELS[name], range(MODELS[name].experts))
    assert parameters(MODELS[name]) == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_kernels_count_what_they_multiply_and_how_often_they_are_launched() -> None:
    rows = np.array([[3.0, 5.0], [0.0, 8.0]])
    loop, grouped = Gemm("x", rows, 2, 7, times=2), Gemm("x", rows, 2, 7, times=2, grouped=True)
    assert macs(loop).tolist() == macs(grouped).tolist() == [2 * 8 * 2 * 7] * 2
    assert (kernel_launches(loop), kernel_launches(grouped), kernel_launches(Gemm("x", 8.0, 2, 7))) == (4, 2, 1)
    assert macs(Attention("x", 2, 3, 4, 5, 6)) == 2 * 2 * 3 * 4 * 5 * 6
    assert (macs(Pass("x", 10, 3, macs=4)), kernel_launches(Pass("x", 10, 3))) == (4, 3)


def test_a_sharded_projection_and_the_rest_are_the_whole_attention() -> None:
    shape, share = MODELS["XL"], Share(4096.0, 16.0)
    apart = [*op_kernels("Q", shape, share, True), *op_kernels("A", shape, share, True)]
    assert apart == op_kernels("A", shape, share)


def test_an_op_takes_as_long_as_its_kernels(machine: Cluster) -> None:
    workload, gpu = fitted(), machine.compute
    schedule = load_schedule("sync", 1, 12)
    assert isinstance(gpu, Gpu)
    shared = [kernel_s(k, gpu, "bf16") for k in kernels_of(Op("S", 0, 0), schedule, workload)]
    by_hand = [2 * gpu.gemm_s(2048, 768, 384, "bf16"), 2 * gpu.gemm.fixed_s + 5 * 2048 * 768 * 2 / (3.35e12 * 0.893),
               gpu.gemm_s(2048, 384, 768, "bf16")]  # fmt: skip
    assert shared == pytest.approx([float(s) for s in by_hand])
    assert seconds(machine, workload, "S0.0") == sum(shared)


def test_attention_runs_in_waves_and_narrow_heads_are_padded() -> None:
    gpu = replace(Gpu.load("h100_sxm"), multiprocessors=100, memory_bytes_per_s=1e30)
    one = gpu.attention_s(1, 100, (128, 1024, 64), "bf16") - gpu.gemm.fixed_s
    flops = 4 * 100 * 128 * 1024 * 64
    assert one == pytest.approx(flops / (0.35 * 989.4e12))
    assert gpu.attention_s(1, 101, (128, 1024, 64), "bf16") - gpu.gemm.fixed_s == pytest.approx(2 * one), (
        "a second wave"
    )
    assert gpu.attention_s(1, 100, (128, 1024, 72), "bf16") - gpu.gemm.fixed_s == pytest.approx(1.5 * one), "72 as 96"


def test_the_rank_with_the_most_rows_takes_longest_and_grouping_saves_launches(machine: Cluster) -> None:
    schedule = load_schedule("sync", 1, 12)
    workload = fitted()
    workload = replace(workload, routing=skewed(schedule, workload, 3)).fits(schedule)
    op = schedule.ops[schedule.position["E0.0"]]
    each, rows = op_s(op, schedule, workload, machine), workload.expert_rows(schedule, op)
    assert np.argmax(each) == np.argmax(rows.sum(axis=1))
    assert rows.shape == (2, 4)
    np.testing.assert_allclose(rows.sum(axis=1), workload.rows(schedule, op).sum(axis=0))
    together = replace(workload, grouped=True)
    assert (op_s(op, schedule, together, machine) < each).all()
    at = schedule.position["E0.0"]
    assert launches(schedule, workload, machine)[at] == 2 + 4 * 5
    assert launches(schedule, together, machine)[at] == 2 + 5
    assert {*launches(schedule, workload, cluster())} == {1}
    np.testing.assert_allclose(op_flops(op, schedule, together), op_flops(op, schedule, workload))


def test_a_narrower_dtype_is_faster_and_noted_and_one_that_is_missing_is_an_error(machine: Cluster) -> None:
    schedule = load_schedule("sync", 1, 12)
    assert seconds(machine, fitted(dtype="bf16"), "E0.0") == seconds(machine, fitted(), "E0.0")
    assert seconds(machine, fitted(dtype="fp8"), "E0.0") < seconds(machine, fitted(), "E0.0")
    assert "fp8 is taken to reach the shares of its peak that bf16 does" in extrapolated(
        schedule, fitted(dtype="fp8"), machine
    )
    with pytest.raises(ValueError, match="has no fp64; it has fp32, tf32, bf16, fp16, fp8"):
        durations_s(schedule, fitted(dtype="fp64"), machine)


@pytest.mark.parametrize("setting", [{"dtype": "bf16"}, {"grouped": True}])
def test_what_only_a_gpu_can_follow_is_refused_where_rates_were_measured(setting: dict[str, object]) -> None:
    schedule = load_schedule("sync", 1, 12)
    with pytest.raises(ValueError, match=r"has no effect: cluster test has measured rates, not a GPU"):
        durations_s(schedule, fitted(**setting), cluster())


def test_a_trace_says_what_was_extrapolated(machine: Cluster) -> None:
    schedule, workload = load_schedule("sync", 1, 28), Workload(MODELS["XL"], 2, 16)
    trace = simulate(schedule, workload, machine)
    found = re.fullmatch(
        r"(.*)% of compute, in products outside of m 16 to 32768, .*: (.*)", trace.about["extrapolated"]
    )
    assert found is not None
    assert 0 < float(found[1]) < 100
    assert "A router (n)" in found[2]
    assert "S shared" not in found[2], "1152 and 2304 wide: measured"
    calibrated = simulate(schedule, workload, cluster())
    assert "extrapolated" not in calibrated.about


# ------------------------------------------------------------------------------------- models as files


def test_a_model_of_another_kind_is_read_from_its_shapes() -> None:
    lingbot = load_model(str(LINGBOT))
    assert lingbot.tokens == 21 * 30 * 30
    assert parameters(lingbot) / 1e9 == pytest.approx(30.1, abs=0.06), "its publication: 30.1 B, about 2.9 B active"
    assert parameters(lingbot, experts=8) / 1e9 == pytest.approx(2.9, abs=0.06)
    with pytest.raises(ValueError, match="is no DiT-MoE: expert_width=768, shared_width=768, frames=21, adaln=False"):
        pytest.importorskip("realrun.model").DiTMoE(lingbot, [])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("heds: 16", "heds: unknown key (16)"),
        ("heads: many", "heads: Input should be a valid integer"),
        ("heads: 15", "hidden=2048 is not divisible by 15"),
        ("heads: 16\nshared_experts: 0", "shared_width=768, but shared_experts=0"),
        ("heads: 16\ntext_tokens: -1", "text_tokens=-1 should be a whole number from 0 up"),
    ],
)
def test_a_bad_model_file_is_refused(line: str, why: str, tmp_path: Path) -> None:
    text = LINGBOT.read_text().replace("heads: 16", line)
    text = text.replace("shared_experts: 1\n", "") if "shared_experts: 0" in line else text
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(why)):
        load_model(str(tmp_path / "model.yaml"))


def test_larger_images_have_more_tokens_and_odd_sizes_are_refused() -> None:
    assert load_model("XL", pixels=512).tokens == 4 * load_model("XL").tokens == 1024
    with pytest.raises(ValueError, match="pixels=500 should be a multiple of 16, above 0"):
        load_model("XL", pixels=500)
    with pytest.raises(
        ValueError, match=r"unknown model 'XXL'; the models are tiny, digits, S, S-16E, B, L, XL, G, or a .yaml"
    ):
        load_model("XXL")


def test_text_goes_through_the_layers_but_is_no_patch() -> None:
    plain = model(load_schedule("sync", 1, 2))
    with_text = replace(plain, text_tokens=plain.tokens)
    share = Share(2.0 * plain.tokens, 1.0)
    work = {name: [sum(macs(k) for k in op_kernels(kind, shape, share)) for kind in "FS"]
            for name, shape in (("text", with_text), ("image", replace(plain, frames=2)))}  # fmt: skip
    assert work["text"][1] == work["image"][1]
    assert work["text"][0] < work["image"][0]
