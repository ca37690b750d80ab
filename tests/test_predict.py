"""Predictions of runs: their intervals cover what a machine with known noise and drift does, and history remembers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import cluster
from test_calibration import META, RATE, TINY, synthetic

from calibration import history, page, results
from calibration.cells import Cell
from calibration.fit import fitted
from calibration.fit_links import transfers
from calibration.lines import condition, fit_line
from calibration.predict import Drift, drift, drifted, predict
from calibration.report import correlated, left_out, numbers
from calibration.samples import Sample
from sim.cluster import Rate
from sim.engine import simulate
from sim.load import load_schedule
from sim.transfers.network import Network
from sim.workload import Workload

ROOT = Path(__file__).parent.parent


def test_intervals_cover_the_truth_and_correlations_are_seen() -> None:
    fit = fitted(synthetic(noise=0.05), 2, RATE, META)
    truth = {"fixed_s": 1e-3, "flops_per_s": 50e9}
    inside = [
        low <= truth[name.rsplit(".", 1)[1]] <= high
        for name in fit.names
        if name.startswith("compute")
        for low, high in [fit.interval(name, 0.9)]
    ]
    assert np.mean(inside) > 0.7, "90 % intervals of 14 numbers"
    table = fit.correlations()
    at = [fit.names.index(f"compute.A.{key}") for key in ("fixed_s", "flops_per_s")]
    assert table[at[0], at[1]] > 0.5, "a longer fixed time goes with a higher rate"
    assert np.allclose(np.diag(table), 1.0, atol=1e-6)
    assert correlated(fit)
    assert {name for name, *_ in numbers(fit)} == {*fit.names}


def test_what_cannot_be_told_apart_is_told() -> None:
    close = [replace(s, size=1e8 + (s.size - 1e8) / 1e3) if s.what == "op" else s for s in synthetic(0.01)]
    fit = fitted(close, 2, RATE, META)
    assert [w for w in fit.warnings if w.startswith("compute.A.flops_per_s: one size")]
    assert not fitted(synthetic(0.01), 2, RATE, META).warnings
    rng = np.random.default_rng(0)
    x = np.array([1.0, 1.001, 0.999, 1.0] * 9)
    features = np.stack([np.ones_like(x), x], axis=1)
    assert condition(features, x) > 1e3
    assert not fit_line(features, x, rng).tellable


def test_sizes_left_out_are_predicted_from_the_others() -> None:
    fit = fitted(synthetic(noise=0.02), 2, RATE, META)
    errors = {name: error for name, error, _ in left_out(synthetic(noise=0.02), fit)}
    assert max(errors.values()) < 0.05
    assert {*errors} == {*"PASERFZ", "transfers"}


def moved(samples: list[Sample], round_: int, factor: float) -> list[Sample]:
    return [replace(s, round=round_, seconds=s.seconds * (factor if s.what == "op" else 1.0)) for s in samples]


def test_drift_is_what_a_round_is_off_its_neighbours() -> None:
    base = synthetic(noise=0.0)
    rounds = [s for number, factor in enumerate([1.0, 1.2, 1.0, 1.2, 1.0]) for s in moved(base, number, factor)]
    found = drift(rounds, fitted(rounds, 2, RATE, META))
    assert found.compute == pytest.approx(np.log(1.2), rel=0.02)
    assert found.links == pytest.approx(0.0, abs=1e-9)
    assert drift(moved(base, 0, 1.0), fitted(base, 2, RATE, META)) == Drift(0.0, 0.0)


def test_intervals_cover_runs_of_a_machine_that_drifts() -> None:
    """A machine whose compute is 10 % off from run to run: 90 % intervals hold 80 to 100 % of 40 runs."""
    schedule, workload = load_schedule("interweaved", 3, 2), Workload(TINY, 2, 8, wire="float32")
    fit = fitted(synthetic(noise=0.05), 2, RATE, META)
    rng, inside = np.random.default_rng(1), []
    interval = np.quantile(predict(schedule, workload, fit, Drift(0.1, 0.0), 0).makespans_s, [0.05, 0.95])
    for seed in range(40):
        truth = drifted(fit.cluster, float(np.exp(0.1 * rng.standard_normal())), 1.0)
        made_s = simulate(schedule, workload, truth, seed=1000 + seed).makespan_s
        inside.append(interval[0] <= made_s <= interval[1])
    assert 0.8 <= np.mean(inside) <= 1.0
    assert (
        np.diff(interval)[0]
        > np.diff(np.quantile(predict(schedule, workload, fit, Drift(0.0, 0.0), 0).makespans_s, [0.05, 0.95]))[0]
    ), "without drift they are narrower"


def test_cards_that_ranks_share_are_fitted_to_the_last_of_them() -> None:
    made = [s for s in synthetic(0.0) if s.what != "transfer"]
    for number, size in enumerate([1e6, 2e6, 4e6] * 8):
        for rank in range(4):
            for load in (0.0, 1.0):
                seconds = 2e-3 + size / RATE * (1.0 if rank % 2 else 0.6)
                made.append(Sample("transfer", "combine", size, seconds, rank, load, RATE, number=number,
                                   across_bytes=size))  # fmt: skip
            made.append(Sample("transfer", "combine", size, size / 1e9, rank, 0.0, None, number=number))
    fit = fitted(made, 4, RATE, META, host_ranks=2)
    assert isinstance(fit.cluster.link, Network)
    assert fit.cluster.link.resources["card"].bytes_per_s == pytest.approx(RATE, rel=1e-3)
    assert fit.cluster.link.resources["local"].bytes_per_s == pytest.approx(1e9, rel=1e-3)
    assert len(transfers(made, RATE, 2)) == 24 * 2
    assert "link.resources.card.bytes_per_s" in fit.names


# -------------------------------------------------------------------------------------- history and pages


def entry(**given: Any) -> Mapping[str, Any]:
    return {"date": "today", "commit": "none", "errors": {"sync": 0.01}, **given}


def test_history_grows_by_lines_and_says_which_is_none(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for commit in ("one", "two"):
        history.append(path, dict(entry(commit=commit)))
    assert [line["commit"] for line in history.load(path)] == ["one", "two"]
    path.write_text(path.read_text() + "{half\n")
    with pytest.raises(ValueError, match=r"history\.jsonl, line 3: "):
        history.load(path)


def test_history_fails_where_equality_fails_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(history.PLAN, schedules=("sync",), steps=2, images=2)
    assert history.unequal(plan) == []
    monkeypatch.setattr(history, "difference", lambda *_: (0.5, 0))
    assert history.unequal(plan) == [
        f"sync on {name}: 0.5 from one process, 0 outputs of another age" for name in history.BACKENDS
    ]


def test_the_tables_of_a_page_are_those_of_the_files(tmp_path: Path) -> None:
    workload = Workload(TINY, 2, 2)
    fast = replace(cluster(), compute=dict.fromkeys("PASERFZ", Rate(1e-6, 1e12)))
    schedules = [load_schedule(name, 4, 2) for name in ("sync", "interweaved")]
    found = [
        Cell(s.name, RATE, [simulate(s, workload, cluster())], [simulate(s, workload, fast)], [np.ones(3)])
        for s in schedules
    ]
    (tmp_path / "made").mkdir()
    meta = {"processor": "invented", "cores": "2", "date": "2026-11-25T", "command": "test"}
    results.save(tmp_path / "made" / "results.json", results.summarise(found, meta))
    (tmp_path / "page.md").write_text("a\n<!-- table made -->\nold\n<!-- end -->\nb\n")
    page.renew_all(tmp_path / "page.md", tmp_path)
    text = (tmp_path / "page.md").read_text()
    assert "\nold\n" not in text
    assert text.startswith("a\n<!-- table made -->\n| link | schedule |")
    assert "| collective |" in text
    assert text.endswith("<!-- end -->\nb\n")
    again = text
    page.renew_all(tmp_path / "page.md", tmp_path)
    assert (tmp_path / "page.md").read_text() == again


def test_the_page_on_calibration_has_the_tables_of_the_data() -> None:
    text = (ROOT / "docs" / "calibration.md").read_text()
    folders = [path.parent for path in (ROOT / "calibration" / "data").glob("*/results.json")]
    assert folders
    for folder in folders:
        assert page.section(folder) in text
    lines = (ROOT / "calibration" / "data" / "history.jsonl").read_text().splitlines()
    assert all("errors" in json.loads(line) for line in lines)
