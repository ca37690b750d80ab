"""Calibration: fits recover what made the data, errors are signed and joined right, and the demo's plan really runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cluster
from rich.console import Console
from typer.testing import CliRunner

from calibration import results
from calibration.cells import Cell, orders
from calibration.cli import app
from calibration.compare import compare
from calibration.demo import demo
from calibration.echo import EchoTransport
from calibration.fit import NO_SLOPE, fit
from calibration.measure import fullest
from calibration.plan import Plan
from calibration.samples import Sample
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.transport import GlooTransport
from sim.cluster import COMPUTE_KINDS, Cluster, Rate
from sim.engine import simulate
from sim.load import load_schedule
from sim.workload import ModelShape, Workload

RATE = 20e6
GAPS = {"launch": 2e-5, "collective": 3e-4, "wake": 5e-4}
META = {"processor": "invented"}
TINY = ModelShape("tiny", layers=2, hidden=32, heads=2, experts=4, classes=10, latent=8)


def synthetic(noise: float, outliers: int = 0) -> list[Sample]:
    """What a machine would say that has known rates, 20 % and 10 % interference, 50 kB bursts and 1 ms counts."""
    rng = np.random.default_rng(0)
    made = []
    for kind in COMPUTE_KINDS:
        for flops in [1e8, 2e8, 3e8] * 12:
            alone_s = 1e-3 + flops / 50e9
            made.append(Sample("op", kind, flops, alone_s * np.exp(noise * rng.standard_normal()), 0))
            for load in (0.5, 1.0):
                made.append(Sample("op", kind, flops, (1 + 0.2 * load) * alone_s, 0, load, RATE))
    for size in [2.5e5, 5e5, 1e6] * 12:
        for form in ("dispatch", "combine"):
            counts_s = 1e-3 if form == "dispatch" else 0.0
            queued_s = 2e-3 + counts_s + size / RATE
            rested_s = queued_s - 50e3 / RATE
            jitter = np.exp(noise * rng.standard_normal())
            made.append(Sample("transfer", form, size, rested_s * jitter, 0, 0.0, RATE))
            made.append(Sample("transfer", form, size, queued_s * jitter, 0, 0.0, RATE, queued=True))
            made.append(Sample("transfer", form, size, 1.1 * queued_s, 0, 1.0, RATE, queued=True))
    made += [Sample("gap", subject, 0.0, s, 0) for subject, s in GAPS.items()] * 9
    wild = [i for i, sample in enumerate(made) if sample.what == "op" and sample.alone][:: len(COMPUTE_KINDS) * 3]
    for i in wild[:outliers]:
        made[i] = replace(made[i], seconds=made[i].seconds * 20)
    return made


def test_a_fit_recovers_what_made_the_data() -> None:
    found = fit(synthetic(noise=0.0), 2, RATE, META)
    for rate in found.compute.values():
        assert (rate.fixed_s, rate.flops_per_s) == pytest.approx((1e-3, 50e9), rel=1e-3)
    link = found.link
    assert (link.latency_s, link.counts_s) == pytest.approx((2e-3, 1e-3), rel=1e-3)
    assert (link.bytes_per_s, link.burst_bytes) == pytest.approx((RATE, 50e3), rel=1e-3)
    assert [*found.interference.compute.values()] == pytest.approx([0.2] * len(COMPUTE_KINDS), abs=1e-3)
    assert found.interference.communication == pytest.approx(0.1, abs=1e-3)
    assert (found.host.launch_s, found.host.collective_s, found.host.wake_s) == pytest.approx(tuple(GAPS.values()))


def test_noise_and_outliers_move_a_fit_by_no_more_than_a_few_of_its_errors() -> None:
    found = fit(synthetic(noise=0.05, outliers=7), 2, RATE, META)
    for kind, rate in found.compute.items():
        for key, value, truth in [("fixed_s", rate.fixed_s, 1e-3), ("flops_per_s", rate.flops_per_s, 50e9)]:
            assert abs(value - truth) < 5 * found.errors[f"compute.{kind}.{key}"] + 0.02 * truth
    assert max(found.jitter.values()) > 0.3, "outliers are noise too"
    assert max(fit(synthetic(noise=0.05), 2, RATE, META).jitter.values()) == pytest.approx(0.05, rel=0.5)
    assert abs(found.link.bytes_per_s - RATE) < 5 * found.errors["link.bytes_per_s"]


def test_one_size_says_nothing_about_a_slope() -> None:
    one_size = [s for s in synthetic(0.0) if s.what != "op" or s.size == 1e8]
    assert {rate.flops_per_s for rate in fit(one_size, 2, RATE, META).compute.values()} == {NO_SLOPE}


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (("gap", "wake", False), "the samples hold no gap called wake"),
        (("op", "E", False), "the samples hold no E alone"),
        (("op", "A", True), "the samples hold no A under load at 20 MB/s"),
        (("transfer", None, False), "the samples hold no transfer alone at 20 MB/s"),
        (("transfer", None, True), "the samples hold no transfer under load at 20 MB/s"),
    ],
)
def test_a_fit_says_what_was_not_measured(lacking: tuple[str, str | None, bool], message: str) -> None:
    what, subject, loaded = lacking
    some = [
        s
        for s in synthetic(0.0)
        if not (s.what == what and s.alone != loaded and (subject is None or s.subject == subject))
    ]
    with pytest.raises(ValueError, match=message):
        fit(some, 2, RATE, META)


def test_a_fitted_cluster_loads_back(tmp_path: Path) -> None:
    found = fit(synthetic(0.05), 2, RATE, META)
    found.save(tmp_path / "cluster.yaml")
    assert Cluster.load(tmp_path / "cluster.yaml") == found


# ------------------------------------------------------------------------------------------- comparison


def test_errors_are_signed_and_told_apart_by_level() -> None:
    schedule, workload = load_schedule("displaced", 4, 2), Workload(TINY, 2, 2)
    truth = cluster()
    slow_attention = replace(truth, compute={**truth.compute, "A": Rate(9e-6, 1e12)})
    rows = compare(simulate(schedule, workload, slow_attention), simulate(schedule, workload, truth))
    assert {row.level for row in rows} == {"run", "step", "layer", "op", "collective"}
    by_kind = {row.key: row.error for row in rows if row.level in ("op", "collective")}
    assert by_kind["A"] > 0.5
    assert [by_kind[kind] for kind in "SERFZDC"] == pytest.approx([0.0] * 7, abs=1e-6)
    assert all(row.error > 0 for row in rows if row.level in ("run", "step", "layer"))
    assert {row.key for row in rows if row.level == "collective"} == {"D", "C"}
    assert {row.error for row in compare(*[simulate(schedule, workload, truth)] * 2)} == {0.0}


def test_traces_of_different_schedules_are_not_compared() -> None:
    workload, machine = Workload(TINY, 2, 2), cluster()
    traces = [simulate(load_schedule(name, 4, 2), workload, machine) for name in ("sync", "displaced")]
    with pytest.raises(ValueError, match=r"cannot compare sync steps=4 .* with displaced steps=4"):
        compare(*traces)


def made_up_cells() -> list[Cell]:
    workload, slow = Workload(TINY, 2, 2), cluster()
    fast = replace(slow, compute=dict.fromkeys(COMPUTE_KINDS, Rate(1e-6, 1e12)))
    schedules = [load_schedule(name, 4, 2) for name in ("sync", "interweaved")]
    draws = [np.linspace(0.1, 1.1, 21)] * 3
    return [
        Cell(s.name, RATE, [simulate(s, workload, slow)] * 3, [simulate(s, workload, fast)] * 3, draws)
        for s in schedules
    ]


def test_results_survive_a_file_and_a_table(tmp_path: Path) -> None:
    summary = results.summarise(made_up_cells(), META)
    results.save(tmp_path / "results.json", summary)
    assert results.load(tmp_path / "results.json") == summary
    table = results.markdown(summary).splitlines()
    assert table[0].startswith("| link | schedule | stale pred. | stale meas. | seconds pred. | seconds 90 % |")
    assert len({line.count("|") for line in table}) == 1
    (tmp_path / "other.json").write_text(json.dumps({"cells": [{"speed": 1}]}))
    with pytest.raises(ValueError, match=r"other\.json holds no results"):
        results.load(tmp_path / "other.json")


def test_an_interval_covers_what_lies_in_it() -> None:
    cell = made_up_cells()[0]
    assert cell.interval_s == pytest.approx((0.15, 1.05))
    outside = replace(cell, draws=[np.linspace(0.1, 1.1, 21) * cell.measured_s * 1e3] * 3)
    inside = replace(cell, draws=[np.linspace(0.1, 1.9, 21) * cell.measured_s] * 3)
    assert [c.runs_inside for c in (outside, inside)] == [0.0, 1.0]
    summary = results.summarise([inside, replace(outside, text="other")], META)
    assert [c.inside for c in summary.cells] == [True, False]
    assert (summary.covered, summary.runs_covered) == (0.5, 0.5)


def test_orders_count_pairs_that_differ_by_more_than_their_spread() -> None:
    slow, fast = made_up_cells()
    backwards = replace(fast, predicted=[replace(t, end_s=t.end_s + 9.0) for t in fast.predicted], text="late")
    (order,) = orders(
        [slow, replace(fast, measured=[replace(t, end_s=t.end_s / 2, start_s=t.start_s / 2) for t in fast.measured])]
    )
    assert order.pairs == 1
    assert order.told == float(fast.predicted_s < slow.predicted_s)
    (wrong,) = orders([slow, backwards])
    assert wrong.predicted == ("sync", "late")


def test_staleness_that_differs_anywhere_is_told() -> None:
    sync, other = made_up_cells()
    ages = other.measured[0].staleness.copy()
    ages[2, 1, 1] += 1
    wrong = replace(other, measured=[*other.measured[:2], replace(other.measured[0], staleness=ages)])
    right, differs = (results.summarise([sync, cell], META).cells[1] for cell in (other, wrong))
    assert right.staleness_equal
    assert not differs.staleness_equal


# ----------------------------------------------------------------------------------------- on real ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(2, timeout_s=20) as pool:
        yield pool


def test_an_echo_computes_as_many_rows_as_if_all_ranks_sent_alike(ranks: Ranks) -> None:
    ranks.call(check_echo)


def check_echo(context: RankContext) -> None:
    with GlooTransport(replace(context, rank=0, world=1)) as alone:
        echo = EchoTransport(rank=1, world=2, stream=alone)
        rows, header = torch.arange(10.0)[:, None], torch.tensor([[0, 0, 0, 3, 1], [4, 5, 0, 2, 4]])
        parcel = echo.dispatch("D4.5", rows, header).wait()
        assert parcel.rows_RD[:, 0].tolist() == [4.0, 5, 6, 7, 8, 9] * 2
        assert parcel.counts.tolist() == [[2, 4]] * 2
        assert parcel.tags.tolist() == [[4, 5, 0]] * 2
        assert len(echo.combine("C4.5", parcel.rows_RD, header, [3, 4]).wait().rows_RD) == 7
        assert len(echo.combine("C4.5", parcel.rows_RD[:0], header, [3, 4]).wait().rows_RD) == 7
        echo.barrier()


def test_the_main_job_in_small(tmp_path: Path) -> None:
    plan = Plan(images=2, rates=(20e6, 80e6), schedules=("sync", "interweaved"), steps=3, rounds=1, other_images=(1,),
                calibration_steps=3, repeats=2, loads=(1.0,))  # fmt: skip
    console = Console(record=True, width=140, force_terminal=False)
    found = demo(plan, tmp_path / "out", console)
    said = console.export_text()
    assert len(found) == 4
    assert all(cell.same_staleness() for cell in found)
    assert "makespan off by" in said
    assert "interweaved: " in said.split("digits.png")[1]
    for name in plan.schedules:
        assert said.count(name) >= 2
    files = "results.json timeline.png trace.json digits.png bundle/meta.json simulated.trace measured.trace"
    for file in files.split():
        assert (tmp_path / "out" / file).stat().st_size > 0
    events = json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert any("simulated" in name for name in processes)
    assert any("measured" in name for name in processes)


def test_the_main_job_removes_no_folder_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, and no bundle"):
        demo(Plan(), tmp_path, Console(quiet=True))
    assert (tmp_path / "bundle" / "thesis.txt").read_text() == "years"


def test_an_unwritable_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file" / "below")])
    assert isinstance(outcome.exception, OSError)


@pytest.mark.parametrize(("hosts", "across"), [(0, 0), (2, 7), (4, 6)])
def test_the_fullest_card_is_that_of_a_host_also_where_each_rank_has_one(hosts: int, across: int) -> None:
    rows = np.array([[9, 1, 2, 3], [0, 9, 1, 1], [0, 1, 9, 1], [2, 1, 0, 9]])
    plan = Plan(ranks=4, backend=f"namespaces hosts={hosts}" if hosts else "paced")
    assert fullest(rows, 0, plan) == (3, across)
