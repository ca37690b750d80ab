"""Searches of settings: their trials, goals and limits, stopped or not; and the journal that holds them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import pytest
from optuna import Study
from searches import GRID, ROOT, SETTINGS, history, searched, settings_search, written
from typer.testing import CliRunner

from sim import load_schedule
from sim.cli import app
from sim.search.combinations import nearest, possible
from sim.search.file import SettingsSearch, read_search
from sim.search.journal import mended
from sim.search.limits import excess, missed
from sim.search.settings import evaluated, found_rows, go_on, how_many, opened, told, unbeaten_trials
from sim.sweeps.sweep import Axis
from sim.vulnerability import Vulnerability, quality_cost


@pytest.mark.parametrize("goals", ["[makespan_s,mean_age_steps]", "[makespan_s]"])
def test_trials_are_those_of_a_search_that_was_never_stopped(tmp_path: Path, goals: str) -> None:
    """Stopped while a trial ran, in and between generations, and with more trials later: the same trials, told once."""
    text = SETTINGS.replace("[sync, interweaved]", "[displaced, interweaved]")  # which all can be run
    search = settings_search(tmp_path, text, f"minimize={goals}", "trials=110")
    whole = opened(search, tmp_path / "whole.log")
    go_on(search, whole)
    for trials in (3, 50, 51, 100, 110):
        study = opened(replace(search, trials=trials), tmp_path / "parts.log")  # as after a kill
        go_on(replace(search, trials=trials), study)
        assert len(told(study)) == trials
        study.sampler = whole.sampler
        lost = study.ask()
        lost.suggest_categorical("schedule", ["displaced", "interweaved"])
        lost.set_user_attr("row", {})
    assert history(study) == history(whole)
    assert found_rows(search, study) == found_rows(search, whole)


@pytest.mark.parametrize("goals", ["[makespan_s,mean_age_steps]", "[mean_age_steps]"])
def test_all_settings_are_tried_once_and_nothing_better_is_left(tmp_path: Path, goals: str) -> None:
    search = settings_search(tmp_path, GRID, f"minimize={goals}")
    go_on(search, study := opened(search, tmp_path / "journal.log"))
    asked = [tuple(trial.params[axis.key] for axis in search.sweep.axes) for trial in told(study)]
    assert sorted(map(repr, asked)) == sorted(map(repr, product(*(axis.values for axis in search.sweep.axes))))
    every = [evaluated(search, {**search.sweep.base, **trial.params}) for trial in told(study)]
    costs = [tuple(row[goal] for goal in search.minimize) for row in every if row["error"] is None]
    unbeaten = {one for one in costs if not any(all(map(float.__le__, a, one)) and a != one for a in costs)}
    assert {tuple(trial.values) for trial in unbeaten_trials(study)} == unbeaten
    failed = sum(row["error"] is not None for row in every)
    could_not = f"; {failed} of them could not be run" if failed else ""
    assert how_many(search, study) == f"all 27 possible settings were tried{could_not}: nothing better is left"


def test_a_stop_before_a_setting_that_was_not_tried_is_asked_for_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = settings_search(tmp_path, GRID)
    go_on(search, whole := opened(search, tmp_path / "whole.log"))
    queue = Study.enqueue_trial

    def stop(self: Study, params: dict[str, object]) -> None:
        queue(self, params)
        raise KeyboardInterrupt

    stops = 0
    while True:
        study = opened(search, tmp_path / "parts.log")
        with monkeypatch.context() as patched:
            patched.setattr(Study, "enqueue_trial", stop)
            try:
                go_on(search, study)
                break
            except KeyboardInterrupt:
                stops += 1
    assert stops > 5
    assert history(study) == history(whole)


def test_a_combination_not_tried_is_near() -> None:
    axes = Axis("a", (1, 2, 3)), Axis("b", (), 1, 2, whole=True)
    assert possible(axes) == 6
    assert possible((*axes, Axis("c", (), 0, 1))) is None
    assert possible((*axes, Axis("c", (), 0, 1e9, whole=True))) is None
    tried = {(1, 1), (1, 2), (2, 1)}
    assert {nearest((1, 1), axes, tried, Random(seed)) for seed in range(20)} == {(3, 1)}
    assert {nearest((1, 1), axes, {*tried, (3, 1)}, Random(seed)) for seed in range(20)} == {(2, 2), (3, 2)}
    assert nearest((1, 1), axes, {*product((1, 2, 3), (1, 2))}, Random(0)) is None


def test_what_is_found_is_within_limits_and_unbeaten(tmp_path: Path) -> None:
    search = settings_search(tmp_path, SETTINGS)
    study = opened(search, journal := tmp_path / "journal.log")
    go_on(search, study)
    found = unbeaten_trials(study)
    assert found
    assert all(trial.params["images"] >= 8 for trial in found)
    values = [trial.values for trial in found]
    assert [a for a, _ in values] == sorted({a for a, _ in values})
    assert [b for _, b in values] == sorted({b for _, b in values}, reverse=True)
    opened(replace(search, trials=99), journal)
    with pytest.raises(ValueError, match="holds the trials of another search"):
        opened(replace(search, minimize=("makespan_s",)), journal)


def test_a_goal_with_a_minus_is_to_be_large(tmp_path: Path) -> None:
    search = settings_search(tmp_path, SETTINGS, "minimize=[-images_per_s,makespan_s]", "trials=60")
    study = opened(search, tmp_path / "journal.log")
    go_on(search, study)
    rows = found_rows(search, study)
    rates = [row["images_per_s"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    ran = [trial.user_attrs["row"] for trial in told(study) if trial.values is not None]
    within = [row for row in ran if row["images"] >= 8]
    assert rates[0] == max(row["images_per_s"] for row in within)
    assert rows[-1]["makespan_s"] == min(row["makespan_s"] for row in within)


def test_quality_is_that_of_a_sweep(tmp_path: Path) -> None:
    changes = ("minimize=[quality]", "vulnerability=digits", "trials=4")
    search = settings_search(tmp_path, SETTINGS.replace("[null, 2]", "[null]"), *changes)
    study = opened(search, tmp_path / "journal.log")
    go_on(search, study)
    for trial in told(study):
        plan = load_schedule(trial.params["schedule"], 4, 3)
        assert trial.values == [quality_cost(plan, Vulnerability.load("digits"))]


def test_excess_is_the_share_of_the_bound_that_is_missed() -> None:
    row = {"a": 3.0, "fits": False, "b": 2, "none": None}
    assert excess("a <= 3", row) == 0
    assert excess("a <= 2", row) == pytest.approx(0.5)
    assert excess("a * b >= 12", row) == pytest.approx(0.5)
    assert 0 < excess("a < 3", row) < 1e-9
    assert [excess(limit, row) for limit in ("fits", "a < 2 or b > 3", "none > 1", "a / (b - 2) < 1")] == [1, 1, 1, 1]
    assert missed(["a <= 3", "fits", "none > a"], row) == ["fits (fits=False)", "none > a (none=not known, a=3)"]


def test_the_command_says_what_comes_nearest_where_nothing_is_within_limits(tmp_path: Path) -> None:
    run, file = CliRunner(), written(tmp_path, SETTINGS)
    fits = run.invoke(app, ["search", str(file), "limits=[memory_fits]", "trials=4", "--out", str(tmp_path / "fits")])
    assert fits.exit_code == 0
    arguments = ["search", str(file), "limits=[images >= 40,memory_fits]", "trials=12", "--out", str(tmp_path / "none")]
    result = run.invoke(app, arguments)
    assert result.exit_code == 1
    first, second, many = result.stdout.splitlines()
    assert many.startswith("12 different settings of 116 possible ones were tried")
    nearest = re.fullmatch(r"nothing is within the limits; trial \d+ comes nearest: .*images=(\d+)", first)
    assert nearest
    search = settings_search(tmp_path, SETTINGS, *arguments[2:4])
    asked = [trial.params["images"] for trial in told(opened(search, tmp_path / "none" / "journal.log"))]
    assert int(nearest[1]) == max(asked)
    assert second == f"  misses images >= 40 (images={max(asked)})"


def test_the_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    file, out = written(tmp_path, SETTINGS.replace("trials: 30", "trials: 16")), tmp_path / "out"
    command = [sys.executable, "-m", "sim", "search", str(file), "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as first:
        journal, deadline = out / "journal.log", time.monotonic() + 60
        while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count('"row"') < 2):
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].split()[:3] == ["trial", "schedule", "schedule.stride"]
    search = read_search(file)
    assert isinstance(search, SettingsSearch)
    assert len(told(opened(search, journal))) == 16


def test_a_journal_goes_on_without_a_line_half_written(tmp_path: Path) -> None:
    file, whole, cut = written(tmp_path, GRID), tmp_path / "whole", tmp_path / "cut"
    searched(file, whole, "trials=12")
    searched(file, cut, "trials=8")
    journal = cut / "journal.log"
    for lost in (1, 20, 300, 1500):  # a stop between any two bytes
        journal.write_bytes(journal.read_bytes()[:-lost])
        assert (journal.read_bytes()[-1:] != b"\n") == bool(told_of := mended(journal))
        assert told_of == "" or told_of.startswith(f"{journal}: its last line was not written to its end")
        searched(file, cut, "trials=9")
    with journal.open("ab") as end:
        end.write(b'{"op_code":')
    result = CliRunner().invoke(app, ["search", str(file), "trials=12", "--out", str(cut)])
    assert result.exit_code == 0
    assert "its last line was not written to its end" in result.stderr
    search = settings_search(tmp_path, GRID)
    assert history(opened(search, journal)) == history(opened(search, whole / "journal.log"))
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:4], "{", *lines[5:]]) + "\n")
    with pytest.raises(ValueError, match=r"journal.log: line 5 is damaged; `sed -i '5,\$d' .*journal.log` keeps"):
        searched(file, cut)
