"""Searches: the knapsack against all choices, layers against all schedules, orders, settings, and their files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from anything import any_schedule
from cases import cluster, model
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sim import Schedule, ScheduleError, Workload, load_schedule, simulate
from sim.cli import app
from sim.search.file import LayersSearch, OrderSearch, SettingsSearch, read_search
from sim.search.knapsack import front, unbeaten
from sim.search.layers import MORE_MODES, LayerSearch, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise, mean_ages
from sim.search.order import KINDS, Candidate, local_search, reordered
from sim.search.run import cost_of
from sim.search.settings import go_on, opened, told, unbeaten_trials
from sim.vulnerability import Vulnerability, quality_cost

ROOT = Path(__file__).parent.parent
MODES = tuple(map(Mode.parse, ("sync", "stale", "sync 1,2", "stale 2,2")))
STEPS = 7


def timed(schedule: Schedule, bytes_per_s: float = 1e9) -> float:
    """Seconds on a machine whose links and compute are about as slow."""
    machine = cluster(2, link=replace(cluster().link, bytes_per_s=bytes_per_s))
    return simulate(schedule, Workload(model(schedule), 2, 2), machine).makespan_s


# ------------------------------------------------------------------------------------------------ the knapsack


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4))
def test_a_front_is_what_no_choice_beats(seed: int, items: int, options: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 9, (2, items, options)).astype(float)
    found = front(first, second)
    every = np.array([*product(range(options), repeat=items)])
    sums = [np.take_along_axis(each, every.T, axis=1).sum(axis=0) for each in (first, second)]
    kept = unbeaten(*sums)
    np.testing.assert_array_equal([found.first, found.second], [sums[0][kept], sums[1][kept]])
    chosen = [np.take_along_axis(each, found.choices.T, axis=1).sum(axis=0) for each in (first, second)]
    np.testing.assert_array_equal(chosen, [found.first, found.second])
    assert found.slack == 0


@given(st.integers(0, 2**32))
def test_a_thinned_front_bounds_what_it_left_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.random((2, 6, 4))
    exact, thin = front(first, second), front(first, second, longest=10)
    assert (thin.slack > 0) == (len(thin.first) < len(exact.first)) or len(exact.first) <= 10
    for limit in np.linspace(exact.first[0], exact.first[-1], 20):
        assert thin.least_second(limit) <= exact.least_second(limit) + 1e-12
    assert not (thin.second < [exact.least_second(each) - 1e-12 for each in thin.first]).any()  # real choices


def test_costs_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape"):
        front(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="nothing comes to less than 2"):
        front(np.ones((2, 1)), np.ones((2, 1))).best_within(1.5)


# ------------------------------------------------------------------------------------------- a mode for each layer


@given(st.lists(st.sampled_from(MORE_MODES), min_size=2, max_size=5), st.integers(1, 9))
def test_what_a_mode_ages_does_not_depend_on_the_other_layers(modes: list[Mode], steps: int) -> None:
    if sum(mode.stale for mode in modes) == 1:
        modes = [replace(mode, stale=True) for mode in modes]
    made = layerwise(steps, modes)
    for layer, mode in enumerate(modes):
        np.testing.assert_array_equal(np.array(made.staleness())[:, layer], mean_ages(steps, mode)[:, :2])


def test_modes_are_what_the_named_settings_mean() -> None:
    waits, stale, half = map(Mode.parse, ("sync", "stale", "stale 1,2"))
    for modes, source in [
        ([waits] * 4, "sync"),
        ([stale] * 4, "interweaved"),
        ([stale, stale, waits, waits], "interweaved synchronous=deep"),
        ([half] * 4, "interweaved conditional=low"),
        ([Mode(False, (2, 2))] * 4, "cached"),
    ]:
        assert layerwise(STEPS, modes).ops == load_schedule(source, STEPS, 4).ops


@pytest.mark.parametrize("text", ["sync", "stale", "stale 1,2", "sync 3,3"])
def test_a_mode_reads_back(text: str) -> None:
    assert str(Mode.parse(text)) == text


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Mode.parse("late"), "written like sync, stale or stale 1,2"),
        (lambda: layerwise(3, [Mode(True), Mode(False)]), "layer 0 alone is stale"),
        (lambda: layerwise(3, [Mode(True, (1, 2, 3))] * 2), "layer 0: mode stale 1,2,3 should have top_k=2"),
    ],
)
def test_modes_that_cannot_be(make: Callable[[], object], why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        make()


def test_costs_are_those_of_the_schedules() -> None:
    """Mean age, and what a vulnerability says, of any choice."""
    random, digits = Random(0), Vulnerability.load("digits")
    ages, images = age_cost(STEPS, 6, MODES), image_cost(STEPS, 6, MODES, digits)
    for _ in range(20):
        choice = np.array([random.randrange(4) for _ in range(6)])
        if sum(MODES[m].stale for m in choice) == 1:
            continue
        made = layerwise(STEPS, [MODES[m] for m in choice])
        assert ages.of(choice) == pytest.approx(np.mean(made.staleness()))
        assert images.of(choice) == pytest.approx(quality_cost(made, digits, euler=False))


def test_the_least_cost_at_a_latency_is_that_of_all_schedules() -> None:
    """Every mode for every one of four layers, timed: none as fast costs less than was found, or than the bound."""
    search = LayerSearch(STEPS, 4, MODES, age_cost(STEPS, 4, MODES), timed)
    search.probe(30, seed=1)
    every = [np.array(each) for each in product(range(4), repeat=4)]
    every = [choice for choice in every if sum(MODES[m].stale for m in choice) != 1]
    truth = [(search.timed(search.schedule(choice)), search.cost.of(choice)) for choice in every]
    for limit_s in np.linspace(min(s for s, _ in truth), max(s for s, _ in truth), 7)[1:]:
        found = search.best(float(limit_s))
        least = min(cost for seconds, cost in truth if seconds <= limit_s)
        assert found.seconds <= limit_s
        assert found.bound is not None
        assert found.bound <= least * (1 + 1e-9)
        assert least <= found.cost <= least * 1.05
        quickest = min(seconds for seconds, cost in truth if cost <= found.cost * (1 + 1e-9))
        assert search.fastest(found.cost).seconds <= quickest * 1.02


@pytest.mark.parametrize("stale_s", [0.1, 0.3, 1 / 3, 2.591 / 7])
def test_a_bound_holds_where_the_limit_is_just_what_layers_add_up_to(stale_s: float) -> None:
    """The sum of some layers' seconds may be a last bit over the limit that the same schedule takes."""

    def additive(schedule: Schedule) -> float:
        stale = sum(age > 0 for age, *_ in schedule.staleness()[-1])
        return 28 * 0.7 - stale * (0.7 - stale_s)

    search = LayerSearch(STEPS, 28, MODES[:2], age_cost(STEPS, 28, MODES[:2]), additive)
    for stale in range(2, 28):
        found = search.best(additive(layerwise(STEPS, [MODES[n < stale] for n in range(28)])))
        assert found.bound is not None
        assert found.bound <= found.cost * (1 + 1e-9)


def test_layers_that_cost_more_are_spared() -> None:
    weights = np.array([[1.0, 1.0], [9.0, 9.0], [1.0, 1.0], [9.0, 9.0], [1.0, 1.0], [1.0, 1.0]])
    search = LayerSearch(STEPS, 6, MODES[:2], age_cost(STEPS, 6, MODES[:2], weights=weights), timed)
    half_s = search.timed(layerwise(STEPS, [MODES[0], MODES[0], MODES[0], MODES[1], MODES[1], MODES[1]]))
    found = search.best(half_s * 1.02)
    assert [str(found.modes[layer]) for layer in (1, 3)] == ["sync", "sync"]
    digits = image_cost(STEPS, 6, MODES[:2], Vulnerability.load("digits"))
    search = LayerSearch(STEPS, 6, MODES[:2], digits, timed)
    deep = np.array([1, 1, 1, 0, 0, 0])
    assert search.best(search.timed(search.schedule(deep))).cost <= digits.of(deep)
    assert search.fastest(digits.of(deep)).cost <= digits.of(deep) * (1 + 1e-9)


# ------------------------------------------------------------------------------------------------------ orders


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.dictionaries(st.sampled_from([*"ANDSECR", "D0", "E1"]), st.floats(-30, 30)))
def test_any_shifts_of_any_schedule_can_be_run(seed: int, shifts: dict[str, float]) -> None:
    schedule = any_schedule(Random(seed)).check()
    made = reordered(schedule, shifts)
    assert sorted(made.ops) == sorted(schedule.ops)
    assert made.staleness() == schedule.staleness()
    assert reordered(schedule, {}) == schedule


def test_a_shift_moves_what_it_names() -> None:
    schedule = load_schedule("interweaved", 3, 4)
    made = reordered(schedule, {"S": 3.5})
    assert made.ops != schedule.ops
    for kind in KINDS:
        if "S" not in kind:
            assert [op for op in made.ops if op.kind in kind] == [op for op in schedule.ops if op.kind in kind]


def test_a_search_of_orders_only_gets_faster_and_never_staler() -> None:
    plan = load_schedule("interweaved", 5, 4)

    def build(chosen: object) -> Schedule:
        return load_schedule("interweaved", 5, 4, **chosen)  # type: ignore[arg-type]

    def slow(schedule: Schedule) -> float:
        return timed(schedule, 2e8)

    found, again = ([*local_search(build, slow, cost_of(None), 60, seed=2)] for _ in range(2))
    seconds = [each.seconds for each in found]
    assert len(found) > 1
    assert seconds[0] == slow(plan)
    assert seconds == sorted(seconds, reverse=True)
    assert all(each.cost <= cost_of(None)(plan) for each in found)
    assert found[-1].seconds == slow(reordered(build(found[-1].candidate.settings), found[-1].candidate.shifts))
    assert [str(each.candidate) for each in again] == [str(each.candidate) for each in found]
    assert str(Candidate()) == "as it was"


# ---------------------------------------------------------------------------------------- files and the command

SETTINGS = """
search: settings
base: {model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 3}
axes:
  schedule: [sync, interweaved]
  schedule.stride: [null, 2]
  images: {low: 4, high: 32, whole: true}
minimize: [makespan_s, mean_age_steps]
limits: ["images >= 8"]
trials: 30
"""
LAYERS = """
search: layers
base: {model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 4}
modes: [sync, stale, "sync 1,2"]
points: 3
probes: 3
"""
ORDER = """
search: order
base: {schedule: interweaved, model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 4}
trials: 25
"""


def written(folder: Path, text: str) -> Path:
    (file := folder / "search.yaml").write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "changes", "why"),
    [
        (SETTINGS, ["minimize=[speed]"], "minimize: there is no speed; there are makespan_s"),
        (SETTINGS, ["limits=[speed < 3]"], "limits: 'speed < 3': there is no speed"),
        (SETTINGS, ["vulnerability=digits"], "vulnerability: has no effect: nothing asks for image_cost"),
        (SETTINGS, ["minimize=[image_cost]"], "vulnerability: image_cost needs one"),
        (SETTINGS, ["axes.schedule=[]"], "axes.schedule: is empty"),
        (SETTINGS, ["trials=0"], "greater than or equal to 1"),
        (LAYERS, ["modes=[sync,late]"], "cannot read the mode 'late'"),
        (LAYERS, ["modes=[sync,sync]"], "name one twice"),
        (LAYERS, ["base.schedule=dice"], "base.schedule has no effect"),
        (LAYERS, ["trials=3"], "trials"),
        (ORDER, ["base.speed=3"], "base.speed: there is no such setting"),
        (ORDER, ["search=luck"], "luck"),
        ("a: [", [], "search.yaml"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, changes: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=r"search\.yaml: ") as error:
        read_search(written(tmp_path, text), changes)
    assert why in str(error.value)


def test_files_are_read(tmp_path: Path) -> None:
    kinds = {SETTINGS: SettingsSearch, LAYERS: LayersSearch, ORDER: OrderSearch}
    for text, kind in kinds.items():
        assert isinstance(read_search(written(tmp_path, text)), kind)


def test_trials_are_told_once_and_only_once_whatever_stops_them(tmp_path: Path) -> None:
    """A search that is killed goes on: what was asked and never told is asked again."""
    search = read_search(written(tmp_path, SETTINGS))
    assert isinstance(search, SettingsSearch)
    journal = tmp_path / "journal.log"
    study = opened(search, journal)
    go_on(replace(search, trials=5), study)
    lost = study.ask()
    lost.suggest_categorical("schedule", ["sync", "interweaved"])
    study = opened(search, journal)  # as after a kill
    go_on(search, study)
    assert told(study) == 30
    numbers = [trial.number for trial in study.trials if trial.user_attrs.get("told")]
    assert len({*numbers}) == 30
    found = unbeaten_trials(study)
    assert found
    assert all(trial.params["images"] >= 8 for trial in found)
    values = [trial.values for trial in found]
    assert [a for a, _ in values] == sorted({a for a, _ in values})
    assert [b for _, b in values] == sorted({b for _, b in values}, reverse=True)
    with pytest.raises(ValueError, match="holds the trials of another search"):
        opened(replace(search, minimize=("makespan_s",)), journal)


def test_the_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    file, out = written(tmp_path, SETTINGS.replace("trials: 30", "trials: 16")), tmp_path / "out"
    command = [sys.executable, "-m", "sim", "search", str(file), "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as first:
        journal, deadline = out / "journal.log", time.monotonic() + 60
        while time.monotonic() < deadline and (not journal.exists() or journal.read_text().count("told") < 2):
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].split()[:3] == ["trial", "schedule", "schedule.stride"]
    search = read_search(file)
    assert isinstance(search, SettingsSearch)
    assert told(opened(search, journal)) == 16


def test_the_command_writes_schedules_that_are_what_it_says(tmp_path: Path) -> None:
    run = CliRunner()
    out = tmp_path / "layers"
    result = run.invoke(app, ["search", str(written(tmp_path, LAYERS)), "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = json.loads((out / "front.json").read_text())["rows"]
    assert [row["makespan_s"] for row in rows] == sorted(row["makespan_s"] for row in rows)
    for row in rows:
        plan = load_schedule(str(out / row["schedule"]))
        assert np.mean(plan.staleness()) == pytest.approx(row["mean age"])
    out = tmp_path / "order"
    for trials in ("10", "25"):  # the second goes on
        result = run.invoke(app, ["search", str(written(tmp_path, ORDER)), f"trials={trials}", "--out", str(out)])
        assert result.exit_code == 0, result.output
    held = json.loads((out / "order.json").read_text())
    assert held["done"] == 25
    assert load_schedule(str(out / "order.txt")).steps == 4


@pytest.mark.parametrize(("text", "held"), [("LAYERS", "front.json"), ("ORDER", "order.json")])
def test_a_folder_of_another_search_is_left_alone(tmp_path: Path, text: str, held: str) -> None:
    run, file, out = CliRunner(), written(tmp_path, globals()[text]), tmp_path / "out"
    assert run.invoke(app, ["search", str(file), "--out", str(out)]).exit_code == 0
    before = (out / held).read_text()
    with pytest.raises(ValueError, match="holds another search"):
        run.invoke(app, ["search", str(file), "base.steps=3", "--out", str(out)], catch_exceptions=False)
    assert (out / held).read_text() == before
    (out / held).write_text("[")
    with pytest.raises(ValueError, match="holds no search"):
        run.invoke(app, ["search", str(file), "--out", str(out)], catch_exceptions=False)


def test_the_page_shows_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = __import__("search_page")
    found = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text())
    text = (ROOT / "docs" / "search.md").read_text()
    for table in (page.layers(found["layers"]), page.orders(found["order"]), page.checked(found)):
        assert table in text
    assert all(row["cost_as_fast"] <= row["cost_of_rule"] * (1 + 1e-9) for row in found["layers"])
    assert all(row["largest_difference"] < 1e-10 and row["wrong_ages"] == 0 for row in found["verify"])
