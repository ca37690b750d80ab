"""Reports: numbers that agree with the trace, with each other and with what can be worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cases import anything, cluster, model, named, skewed
from hypothesis import given
from hypothesis import strategies as st

from sim.cluster import Cluster
from sim.engine import simulate
from sim.load import load_schedule
from sim.memory import Reserve, channels_of, memory
from sim.report import Around, report, sent_bytes, throughput
from sim.routing import Routing
from sim.schedule import Schedule
from sim.tell import report_lines
from sim.trace import Trace
from sim.workload import MODELS, Workload


def ran(schedule: Schedule, ranks: int = 2, seed: int = 0) -> tuple[Trace, Workload]:
    workload = Workload(model(schedule), ranks, images=2)
    workload = replace(workload, routing=skewed(schedule, workload, seed))
    return simulate(schedule, workload, cluster(ranks)), workload


@given(anything() | named(), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_a_report_is_json_and_agrees_with_itself(schedule: Schedule, ranks: int, seed: int) -> None:
    trace, workload = ran(schedule, ranks, seed)
    made = report(trace, workload)
    assert json.loads(json.dumps(made)) == made
    whole_s = made["makespan_s"]
    assert sum(made["step_s"]) == pytest.approx(whole_s)
    assert np.shape(made["layer_s"]) == (schedule.steps, schedule.layers)
    assert (np.sum(made["layer_s"], axis=1) <= np.array(made["step_s"]) + 1e-12).all()
    assert sum(made["critical_path"]["kinds_s"].values()) == pytest.approx(whole_s)
    assert sum(made["critical_path"]["ranks_s"].values()) == pytest.approx(whole_s)
    talking = sum(np.mean(share) for stream, share in made["busy_share"].items() if stream != "compute")
    assert 0 <= made["all_to_all_share"] <= talking + 1e-12
    assert made["images_per_s"] * whole_s == pytest.approx(2 * ranks)


def test_layers_of_a_synchronous_step_are_its_time_less_its_frame() -> None:
    trace, _ = ran(load_schedule("sync", 3, 4))
    frame = [
        sum(np.diff(trace.span_s(0, trace.schedule.ops[trace.schedule.position[f"{kind}{step}"]]))[0] for kind in "PFZ")
        for step in range(3)
    ]
    np.testing.assert_allclose(trace.layer_s.sum(axis=1) + frame, trace.step_s)


def test_a_rank_sends_what_its_dispatches_and_combines_carry() -> None:
    schedule, layers, steps = load_schedule("sync", 2, 28), 28, 2
    sent = sent_bytes(schedule, Workload(MODELS["XL"], ranks=8, images=16))
    for kind in "DC":  # 37.7 MB in 2-byte elements, of which an eighth stays (arXiv 2411.16786's XL at batch 16)
        np.testing.assert_allclose(sent[kind], steps * layers * 2 * 16 * 256 * 2 * 1152 * 2 * 7 / 8)
    assert {*sent} == {"D", "C"}


def test_images_are_those_of_all_ranks_and_decoding_takes_its_time() -> None:
    trace, _ = ran(load_schedule("sync", 2, 2), ranks=4)
    plain, around = throughput(trace), throughput(trace, Around(start_up_s=7.0, decode_s=0.5))
    assert plain is not None
    assert around is not None
    whole_s = trace.makespan_s
    assert (plain.images, around.images) == (8, 8)
    assert plain.first_image_s == whole_s
    assert around.first_image_s == 7.0 + whole_s + 0.5
    assert plain.per_s == pytest.approx(8 / whole_s)
    assert around.per_s == pytest.approx(8 / (whole_s + 2 * 0.5))
    assert around.per_gpu_hour == pytest.approx(around.per_s * 3600 / 4)
    assert throughput(replace(trace, about={})) is None


def test_what_is_left_out_is_said() -> None:
    trace, _ = ran(load_schedule("sync", 2, 2))
    for around, without in [
        (Around(), "(without start-up and decoding)"),
        (Around(start_up_s=1.0), "(without decoding)"),
        (Around(decode_s=1.0), "(without start-up)"),
    ]:
        (line,) = [line for line in report_lines(trace, None, around) if "first image" in line]
        assert line.endswith(without)
    (line,) = [line for line in report_lines(trace, None, Around(1.0, 1.0)) if "first image" in line]
    assert "without" not in line
    made = report(trace)
    assert (made["sent_bytes"], made["start_up_s"], made["decode_s"]) == (None, None, None)
    assert made["memory_bytes"] is None


def test_memory_of_the_fullest_rank_is_told_of_what_was_simulated() -> None:
    schedule = load_schedule("displaced", 3, 28)
    workload = Workload(MODELS["XL"], ranks=8, images=4)
    machine = Cluster.load("8x-h100")
    needed = memory(schedule, workload, reserve=Reserve(channels=channels_of(machine)))
    trace = simulate(schedule, workload, machine)
    made = report(trace, workload)["memory_bytes"]
    assert made.pop("peak") == needed.peak_bytes == pytest.approx(sum(made.values()))
    assert made == needed.bytes_of
    assert report(replace(trace, origin="measured"), workload)["memory_bytes"] is None


def test_equal_steps_and_layers_share_a_row() -> None:
    schedule = load_schedule("interweaved", 50, 28)
    trace = simulate(schedule, Workload(model(schedule), 2, images=2), cluster())
    lines = report_lines(trace, None, Around())
    assert len(lines) < 40
    assert any(line.startswith("2-48") for line in lines)


def test_ages_are_means_over_tokens_where_a_policy_decides() -> None:
    schedule = load_schedule("interweaved conditional=random", 8, 2)
    workload = Workload(model(schedule), 2, images=2)
    workload = replace(workload, routing=Routing.skewed(workload.model, 2, workload.tokens, 8, keep=0.8))
    trace = simulate(schedule, workload, cluster())
    assert trace.ages is not None
    made = report(trace, workload)
    assert np.mean(made["staleness"]["mean_steps"]) < trace.staleness.mean()
    ages = np.array(trace.ages)
    assert made["staleness"]["mean_steps"][3] == pytest.approx((ages[3] @ np.arange(8)).sum() / ages[3].sum())


@pytest.mark.parametrize("around", [{"start_up_s": -1.0}, {"decode_s": float("nan")}, {"decode_s": float("inf")}])
def test_impossible_times_are_refused(around: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="should be at least 0 and finite"):
        Around(**around)


def test_a_workload_of_other_ranks_is_refused() -> None:
    trace, workload = ran(load_schedule("sync", 2, 2))
    with pytest.raises(ValueError, match="the workload is for 4 ranks, the trace has 2"):
        report(trace, replace(workload, ranks=4))


def test_exposed_communication_above_the_share_of_all_to_alls_is_explained() -> None:
    schedule = load_schedule("sync", 3, 2)
    workload = Workload(model(schedule), 2, 2)
    calm, late = (simulate(schedule, workload, cluster(jitter=jitter), seed=1) for jitter in ({"A": 1e-9}, {"A": 4.0}))
    for trace, more in ((calm, False), (late, True)):
        assert (trace.exposed_s.mean() > 1.01 * trace.all_to_all_s.mean()) == more
        [line] = [line for line in report_lines(trace, None, Around()) if line.startswith("exposed communication")]
        assert line.endswith("(more, since waits for other ranks and other collectives count)") == more
