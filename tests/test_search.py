"""Searches: the knapsack against all choices, layers against all schedules, orders, settings, and their files."""

from __future__ import annotations

import json
import re
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
from optuna import Study
from typer.testing import CliRunner

from sim import Schedule, ScheduleError, Workload, load_schedule, simulate
from sim.cli import app
from sim.search.combinations import nearest, possible
from sim.search.file import LayersSearch, OrderSearch, SettingsSearch, read_search
from sim.search.folder import digest
from sim.search.folder import opened as claimed
from sim.search.journal import mended
from sim.search.knapsack import front, unbeaten
from sim.search.layers import MORE_MODES, LayerSearch, Unreached, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise, mean_ages
from sim.search.limits import excess, missed
from sim.search.order import KINDS, Candidate, local_search, reordered
from sim.search.rules import beyond, know, rules, stand
from sim.search.run import cost_of, seconds_of
from sim.search.settings import evaluated, found_rows, go_on, how_many, opened, told, unbeaten_trials
from sim.sweeps.provenance import version
from sim.sweeps.sweep import Axis
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


def test_whatever_one_mode_in_all_layers_reaches_is_reached() -> None:
    """Also where mixtures take longer than their layers say, so that nothing is said to be surely fast enough."""

    def slower_if_mixed(schedule: Schedule) -> float:
        stale = sum(age > 0 for age, *_ in schedule.staleness()[-1])
        return (4 - stale * 0.5) * (1.05 if 0 < stale < 4 else 1.0)

    search = LayerSearch(STEPS, 4, MODES[:2], age_cost(STEPS, 4, MODES[:2]), slower_if_mixed)
    assert search.probe(20, seed=0) == 0
    found = [search.best(limit_s) for limit_s in (2.0, 2.04, 4.0)]
    assert [each.seconds for each in found] == [2.0, 2.0, 4.0]
    assert all(each.bound is not None and each.bound <= each.cost * (1 + 1e-9) for each in found)
    with pytest.raises(Unreached, match=r"nothing was found that takes 1.99 s at most; the fastest found takes 2 s"):
        search.best(1.99)


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


# ---------------------------------------------------------------------------------------------- rules of thumb


def test_rules_of_thumb_are_modes_of_layers() -> None:
    for layers in (2, 3, 5, 6):
        for rule in rules(STEPS, layers):
            assert load_schedule("interweaved", STEPS, layers, synchronous=rule.name).ops == rule.schedule.ops
            choice = rule.choice(MODES)
            assert choice is not None
            assert layerwise(STEPS, [MODES[m] for m in choice]).ops == rule.schedule.ops
            assert rule.choice(MODES[1:]) is None
    assert [[rule.name for rule in rules(STEPS, layers)] for layers in (2, 3, 4)] == [
        [], ["shallow", "staggered"], ["deep", "shallow", "staggered"]]  # fmt: skip


def test_nothing_is_found_that_a_rule_of_thumb_beats() -> None:
    search = LayerSearch(STEPS, 4, MODES, age_cost(STEPS, 4, MODES), timed)
    know(search, some := rules(STEPS, 4))
    for rule in some:
        cost = cost_of(None)(rule.schedule)
        found = stand(search, rule, cost)
        assert found.as_fast is not None
        assert found.as_fast.seconds <= found.seconds == timed(rule.schedule)
        assert found.as_fast.cost <= cost * (1 + 1e-9)
        assert found.at_cost is not None
        assert found.at_cost.cost <= cost * (1 + 1e-9)
        assert found.at_cost.seconds <= found.seconds
        assert [*beyond(found.seconds / 2, cost * 3, [found])] == [(rule.name, -0.5, pytest.approx(2.0))]
    search = LayerSearch(STEPS, 4, MODES[1:2] * 2, age_cost(STEPS, 4, MODES[1:2] * 2), timed)
    assert stand(search, some[0], 0.1).at_cost is None


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
    assert len(found) == 61
    assert len({*seconds}) > 1
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
        (SETTINGS, ["minimize=[speed]"], "minimize[0]: there is no speed; there are makespan_s"),
        (SETTINGS, ["minimize=[memory_fits]"], "minimize[0]: there is no memory_fits"),
        (SETTINGS, ["minimize=[makespan_s,-makespan_s]"], "minimize[1]: '-makespan_s' names a column twice"),
        (SETTINGS, ["limits=[speed < 3]"], "limits[0]: 'speed < 3': there is no speed"),
        (SETTINGS, ["limits=[3,images]"], "limits[0]: '3' should be a condition"),
        (SETTINGS, ["limits=[3,images]"], "limits[1]: 'images' should be a condition"),
        (SETTINGS, ["limits=[images]"], "limits[0]: 'images' should be a condition"),
        (SETTINGS, ["limits=[wire < 3]"], "limits[0]: 'wire < 3' does with texts what only numbers can"),
        (SETTINGS, ["limits=[images > 3,images > 3]"], "limits[1]: 'images > 3' stands there twice"),
        (SETTINGS, ["vulnerability=digits"], "vulnerability: 'digits' has no effect: nothing asks for quality"),
        (SETTINGS, ["minimize=[quality]"], "vulnerability: missing; quality needs one"),
        (SETTINGS, ["minimize=[quality]", "vulnerability=nope"], "vulnerability: no vulnerability is called nope"),
        (
            SETTINGS,
            ["minimize=[quality]", "vulnerability=digits", "base.vulnerability=digits"],
            "vulnerability: 'digits', and one is in base or axes, too",
        ),
        (SETTINGS, ["axes.schedule=[]"], "axes.schedule: is empty"),
        (SETTINGS, ["trials=0"], "search.yaml: trials: Input should be greater than or equal to 1 (0)"),
        (SETTINGS, ["speed=0"], "search.yaml: speed: unknown key (0)"),
        (LAYERS, ["modes=[sync,late]"], "modes[1]: cannot read the mode 'late'"),
        (LAYERS, ["modes=[sync,sync]"], "modes[1]: 'sync' names one twice"),
        (LAYERS, ['modes=[sync,"stale 1,2,3"]'], "modes: 'stale 1,2,3' should have an interval for each of top_k=2"),
        (LAYERS, ["base.model.layers=1"], "base: a network of 1 layer has nothing to choose among"),
        (LAYERS, ["base.schedule=dice"], "base.schedule: 'dice' has no effect"),
        (LAYERS, ["trials=3"], "trials: unknown key (3)"),
        (LAYERS, ["base.model.top_k=3", "vulnerability=digits"], "vulnerability: vulnerability digits is of top_k=2"),
        (ORDER, ["base.speed=3"], "base.speed: unknown key (3); the nearest is seed"),
        (ORDER, ["base.cluster=nowhere"], "base.cluster: no cluster is called nowhere"),
        (ORDER, ["base.seed=3"], "base.seed: 3 has no effect"),
        (ORDER, ["base.vulnerability=digits"], "base.vulnerability: 'digits' has no effect; say it beside base"),
        (ORDER, ["base.dtype=fp64"], "base.dtype: 'fp64'"),
        (ORDER, ["search=luck"], "search: 'luck' is no kind of search; there are settings, layers, order"),
        ("base: {}", [], "search: missing; there are settings, layers, order"),
        ((ROOT / "examples" / "sweep.yaml").read_text(), [], "this is a sweep, for `python -m sim sweep"),
        ("a: [", [], "search.yaml"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, changes: list[str], why: str) -> None:
    dotted = [change for change in changes if change.startswith("base.model.")]  # which is one key, not a path
    for change in dotted:
        key, _, value = change.removeprefix("base.").partition("=")
        text = text.replace("base: {", f"base: {{{key}: {value}, ").replace(", model.layers: 4", "")
    with pytest.raises(ValueError, match=r"search\.yaml: ") as error:
        read_search(written(tmp_path, text), [change for change in changes if change not in dotted])
    assert why in str(error.value)


def test_all_faults_of_a_file_are_said_at_once(tmp_path: Path) -> None:
    changes = ["base.images=-1", "axes.schedule=[]", "minimize=[speed,makespan_s,makespan_s]", "limits=[a b,fun > 1]",
               "vulnerability=nope", "trials=none", "luck=1"]  # fmt: skip
    with pytest.raises(ValueError, match="base") as error:
        read_search(written(tmp_path, SETTINGS), changes)
    lines = str(error.value).splitlines()
    places = ("base.images: -1", "axes.schedule:", "minimize[0]:", "minimize[2]:", "limits[0]: 'a b'", "limits[1]:",
              "vulnerability: no vulnerability", "trials:", "luck: unknown key")  # fmt: skip
    for place in places:
        assert [place in line for line in lines].count(True) == 1, place
    with pytest.raises(ValueError, match="base") as error:
        read_search(
            written(tmp_path, LAYERS), ["base.images=-1", "modes=[sync,late]", "vulnerability=nope", "points=0"]
        )
    for place in ("base.images: -1", "modes[1]:", "vulnerability:", "points:"):
        assert place in str(error.value)


def test_a_fault_beside_others_is_said_as_when_alone(tmp_path: Path) -> None:
    """What is sound is read like a whole file, and something sound stands in for the rest."""
    alone = ["limits=[memory_fit,makespan_s <=,3,true]"]
    with pytest.raises(ValueError, match="limits") as error:
        read_search(written(tmp_path, SETTINGS), alone)
    lines = str(error.value).splitlines()
    assert [line.split("search.yaml: ")[1] for line in lines] == [
        "limits[0]: 'memory_fit': there is no memory_fit",
        "limits[1]: 'makespan_s <=' cannot be read: invalid syntax",
        "limits[2]: '3' should be a condition, as images <= 16",
        "limits[3]: 'True' asks for no column",
    ]
    with pytest.raises(ValueError, match="luck: unknown key") as error:
        read_search(written(tmp_path, SETTINGS), [*alone, "luck=1", "trials=none", "minimize=[]"])
    assert {*lines} < {*str(error.value).splitlines()}
    assert "minimize: should be 1 at least, not 0" in str(error.value)
    with pytest.raises(ValueError, match=r"modes: should be 2 at least, not 1 \(\['sync'\]\)$"):
        read_search(written(tmp_path, LAYERS), ["modes=[sync]"])
    with pytest.raises(ValueError, match=r"modes\[0\]: cannot read the mode '3'") as error:
        read_search(written(tmp_path, LAYERS), ["modes=[3,sync]", "luck=1"])
    with pytest.raises(ValueError, match=r"base.cluster: null") as error:
        read_search(written(tmp_path, SETTINGS), ["base.cluster=null", "axes.schedule=[null,sync]"])
    assert "axes.schedule[0]: null" in str(error.value)


def test_files_are_read(tmp_path: Path) -> None:
    kinds = {SETTINGS: SettingsSearch, LAYERS: LayersSearch, ORDER: OrderSearch}
    for text, kind in kinds.items():
        assert isinstance(read_search(written(tmp_path, text)), kind)


def settings_search(folder: Path, text: str, *changes: str) -> SettingsSearch:
    search = read_search(written(folder, text), changes)
    assert isinstance(search, SettingsSearch)
    return search


def history(study: Study) -> list[tuple[dict[str, object], list[float] | None]]:
    return [(trial.params, trial.values) for trial in told(study)]


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


GRID = """
search: settings
base: {model: tiny, steps: 4, cluster: 8x-rtx4090, images: 4}
axes:
  schedule: [sync, interweaved, displaced]
  schedule.stride: [null, 2, 3]
  schedule.intervals: [null, "1,2", "2,2"]
minimize: [makespan_s, mean_age_steps]
trials: 40
"""


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


def test_layers_are_asked_for_by_latency_and_held_against_rules(tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "out"
    file = written(tmp_path, LAYERS.replace("points: 3", "latency_s: [5 ms, 1, 900 ms]"))
    result = run.invoke(app, ["search", str(file), "--out", str(out)])
    assert result.exit_code == 0, result.output
    held = json.loads((out / "front.json").read_text())
    assert [row["latency_s"] for row in held["rows"]] == [1.0, 0.9]
    assert [row["schedule"] for row in held["rows"]] == ["layers-0.txt"] * 2  # both are all synchronous
    assert held["unreached"] == [line for line in result.stdout.splitlines() if line.startswith("nothing was found")]
    assert held["unreached"][0].startswith("nothing was found that takes 5 ms at most; the fastest found takes ")
    assert [row["rule"] for row in held["rules"]] == ["deep", "shallow", "staggered"]
    start = read_search(file)
    assert isinstance(start, LayersSearch)
    for row in held["rules"]:
        plan = load_schedule("interweaved", 4, 4, synchronous=row["rule"])
        assert row["makespan_s"] == seconds_of(start.start)(plan)
        assert row["mean age"] == cost_of(None)(plan)
        assert row["as_fast"]["makespan_s"] <= row["makespan_s"]
        assert row["at_cost"]["mean age"] <= row["mean age"] * (1 + 1e-9)
        for found in held["rows"]:
            far = found["against"][row["rule"]]
            assert far["makespan"] == found["makespan_s"] / row["makespan_s"] - 1
            assert far["cost"] == found["mean age"] / row["mean age"] - 1
    head = result.stdout.splitlines()[0]
    assert re.split("  +", head.strip())[-3:] == ["over deep", "over shallow", "over staggered"]
    assert run.invoke(app, ["search", str(file), "latency_s=1 us", "--out", str(tmp_path / "none")]).exit_code == 1
    with pytest.raises(ValueError, match="latency_s") as error:
        read_search(file, ["latency_s=[1 MB,1,1 s,0,true]", "points=3"])
    places = ("latency_s[0]: unknown unit 'MB'", "latency_s[2]: '1 s' stands there twice", "latency_s[3]: 0 should be",
              "latency_s[4]: True is not", "points: 3 has no effect beside latency_s")  # fmt: skip
    for place in places:
        assert place in str(error.value)


def searched(file: Path, out: Path, *changes: str) -> None:
    result = CliRunner().invoke(app, ["search", str(file), *changes, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_orders_are_those_of_a_search_that_was_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, whole, parts = written(tmp_path, ORDER), tmp_path / "whole", tmp_path / "parts"
    searched(file, whole, "trials=40")
    rows = json.loads((whole / "order.json").read_text())["rows"]
    assert len(rows) > 2
    for trials in (1, 10, 25, 40):
        searched(file, parts, f"trials={trials}")
        assert json.loads((parts / "order.json").read_text())["done"] == trials
    assert (parts / "order.json").read_text() == (whole / "order.json").read_text()
    assert (parts / "order.txt").read_text() == (whole / "order.txt").read_text()
    assert load_schedule(str(parts / "order.txt")).steps == 4

    for ends in (0, 7):  # killed at a trial

        def write(path: Path, text: str, ends: int = ends) -> None:
            path.write_text(text)
            if path.name == "order.json" and json.loads(text)["done"] == ends:
                raise KeyboardInterrupt

        out = tmp_path / f"killed-{ends}"
        with monkeypatch.context() as patched:
            patched.setattr("sim.search.run._write", write)
            assert CliRunner().invoke(app, ["search", str(file), "trials=40", "--out", str(out)]).exit_code
        searched(file, out, "trials=40")
        assert (out / "order.json").read_text() == (whole / "order.json").read_text()


KINDS_OF_SEARCH = [("SETTINGS", "journal.log"), ("LAYERS", "layers-0.txt"), ("ORDER", "order.txt")]


@pytest.mark.parametrize(("text", "held"), KINDS_OF_SEARCH)
def test_a_folder_of_another_search_is_left_alone(tmp_path: Path, text: str, held: str) -> None:
    run, file, out = CliRunner(), written(tmp_path, globals()[text]), tmp_path / "out"
    searched(file, out)
    searched(file, out, *(["trials=31"] if text != "LAYERS" else []))  # the same again goes on
    before = (out / held).read_text()
    with pytest.raises(ValueError, match="holds another search"):
        run.invoke(app, ["search", str(file), "base.steps=3", "--out", str(out)], catch_exceptions=False)
    assert (out / held).read_text() == before
    with pytest.raises(ValueError, match=r"holds a search, and no results of a sweep; .*: python -m sim search"):
        run.invoke(app, ["results", str(out)], catch_exceptions=False)
    (out / "_search.json").write_text("[")
    with pytest.raises(ValueError, match="is not what a search writes"):
        run.invoke(app, ["search", str(file), "--out", str(out)], catch_exceptions=False)
    assert (out / held).read_text() == before


@pytest.mark.parametrize("text", ["SETTINGS", "LAYERS", "ORDER"])
def test_a_folder_belongs_to_one_version(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = written(tmp_path, globals()[text]), tmp_path / "out"
    searched(file, out)
    searched(file, out)
    state = (out / "_search.json").read_text()
    held = json.loads(state)
    assert held["version"] == version()
    assert [{"command", "date", "host", "python", "numpy", "optuna"} <= run.keys() for run in held["runs"]] == [
        True
    ] * 2
    monkeypatch.setattr("sim.sweeps.provenance.version", lambda: "later")
    with pytest.raises(ValueError, match=r"holds a search by another version \(.*, not later\); say another --out"):
        searched(file, out)
    assert (out / "_search.json").read_text() == state


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


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_search_that_found_nothing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def fails(*_: object) -> None:
        raise fault

    for text, what in ((SETTINGS, "settings.evaluated"), (LAYERS, "run.layer_search"), (ORDER, "run.local_search")):
        file, out, begun = written(tmp_path, text), tmp_path / "out", tmp_path / what
        searched(file, begun, *(["trials=3"] if text != LAYERS else []))
        held = {path.name for path in begun.iterdir()}
        with monkeypatch.context() as patched:
            patched.setattr(f"sim.search.{what}", fails)
            assert CliRunner().invoke(app, ["search", str(file), "--out", str(out)]).exit_code
            assert CliRunner().invoke(app, ["search", str(file), "--out", str(begun)]).exit_code
        assert not out.exists()
        assert {path.name for path in begun.iterdir()} == held


def test_tables_say_units(tmp_path: Path) -> None:
    file, changes = written(tmp_path, GRID), ["minimize=[memory_bytes,makespan_s]", "trials=3"]
    result = CliRunner().invoke(app, ["search", str(file), *changes, "--out", str(tmp_path / "out")])
    assert re.search(r" [\d.]+ MB +[\d.]+ ms$", result.stdout.splitlines()[1])
    result = CliRunner().invoke(app, ["search", str(file), changes[0], "trials=2", "--out", str(tmp_path / "out")])
    assert result.stdout.splitlines()[-1] == "3 trials are there, more than 2: this is what all of them found"
    file, out = written(tmp_path, ORDER), tmp_path / "order"
    searched(file, out, "trials=3")
    assert CliRunner().invoke(app, ["search", str(file), "trials=3", "--out", str(out)]).stdout.endswith(" GB\n")
    result = CliRunner().invoke(app, ["search", str(file), "trials=2", "--out", str(out)])
    assert result.stdout.splitlines()[-1] == "3 trials are there, more than 2: this is what all of them found"


@pytest.mark.parametrize(("text", "held"), KINDS_OF_SEARCH)
def test_nothing_is_put_beside_other_files(tmp_path: Path, text: str, held: str) -> None:
    run, file, out = CliRunner(), written(tmp_path, globals()[text]), tmp_path / "out"
    out.mkdir()
    (out / held).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {held}, and no search: nothing is put beside it"):
        run.invoke(app, ["search", str(file), "--out", str(out)], catch_exceptions=False)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(held, "mine")]
    with pytest.raises(ValueError, match="is not a folder"):
        run.invoke(app, ["search", str(file), "--out", str(out / held)], catch_exceptions=False)


def test_a_sweep_is_not_searched_over(tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "out"
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("base: {model: S, steps: 2, cluster: 8x-h100}\naxes: {schedule: [sync, dice]}\n")
    assert run.invoke(app, ["sweep", str(sweep), "--workers", "0", "--out", str(out)]).exit_code == 0
    with pytest.raises(ValueError, match="and no search: nothing is put beside it"):
        run.invoke(app, ["search", str(written(tmp_path, ORDER)), "--out", str(out)], catch_exceptions=False)
    assert run.invoke(app, ["results", str(out)]).exit_code == 0
    searched(written(tmp_path, ORDER), out := tmp_path / "searched", "trials=1")
    with pytest.raises(ValueError, match="no results of a sweep: nothing is put beside it"):
        run.invoke(app, ["sweep", str(sweep), "--workers", "0", "--out", str(out)], catch_exceptions=False)


def test_one_process_at_a_time_searches_in_a_folder(tmp_path: Path) -> None:
    file, out = written(tmp_path, ORDER), tmp_path / "out"
    searched(file, out, "trials=1")
    arguments = ["search", str(file), "--out", str(out)]
    made = {"search": digest(read_search(file)), "version": version()}
    with claimed(out, made, {"command": ""}), pytest.raises(ValueError, match="another process"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    (out / "order.json").write_text("[")
    with pytest.raises(ValueError, match="is not what a search of orders writes"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_the_page_shows_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of what was found comes from the results: between markers, in prose, too."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = __import__("search_page")
    found = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text())
    text = (ROOT / "docs" / "search.md").read_text()
    for name, table in page.tables(found).items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in text, f"`python {page.__file__}` renews it"
    written = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+\.\d+|\d+ to \d+ %", re.sub(r"5 % of|`[^`]*`", "", written))
    for part in ("layers", "order", "verify", "digits"):
        assert {"date", "command", "commit", "processor"} <= found["meta"][part].keys()
    assert all(row["cost_as_fast"] <= row["cost_of_rule"] * (1 + 1e-9) for row in found["layers"])
    assert all(row["largest_difference"] < 1e-10 and row["wrong_ages"] == 0 for row in found["verify"])


def test_a_benchmark_notes_what_made_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = __import__("importlib").import_module("search")
    monkeypatch.setattr(bench, "TARGET", tmp_path / "search.json")
    bench.keep("layers", [{"a": 1}], {"commit": "one"})
    bench.keep("verify", [], {"commit": "two"})
    bench.keep("layers", [{"a": 2}], {"commit": "three"})
    held = json.loads((tmp_path / "search.json").read_text())
    assert held["layers"] == [{"a": 1}, {"a": 2}]
    assert {part: made["commit"] for part, made in held["meta"].items()} == {"layers": "three", "verify": "two"}
