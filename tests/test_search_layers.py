"""Searches of layers: the knapsack against all choices, modes against named settings, what is found against all
schedules and against rules of thumb."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from searches import LAYERS, MODES, STEPS, timed, written
from typer.testing import CliRunner

from sim import Schedule, ScheduleError, load_schedule
from sim.cli import app
from sim.search.file import LayersSearch, read_search
from sim.search.knapsack import front, unbeaten
from sim.search.layers import MORE_MODES, LayerSearch, Unreached, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise, mean_ages
from sim.search.rules import beyond, know, rules, stand
from sim.search.run import cost_of, seconds_of
from sim.vulnerability import Vulnerability, quality_cost


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
