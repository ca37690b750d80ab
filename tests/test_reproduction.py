"""DICE's publication predicted: one parameter, from the share alone; the page is what its numbers say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from calibration.reproduction import beside, causes, draws, links, machine, page, pairs, predict, write
from calibration.reproduction.machine import SHARE, SHARED, Doubt
from calibration.reproduction.predict import PUBLISHED, READINGS, Case, Prediction
from sim.cluster import Cluster
from sim.engine import simulate
from sim.load import load_schedule
from sim.transfers.network import Network

DOCS = Path(__file__).parent.parent / "docs"
NUMBERS = json.loads((DOCS / write.NUMBERS).read_text())


@pytest.fixture(scope="module")
def calibrated() -> Cluster:
    return machine.calibrated(Doubt(), "sync")[0]


def test_the_page_is_what_the_command_writes_from_the_numbers() -> None:
    assert (DOCS / write.PAGE).read_text() == page.page(NUMBERS)
    assert (DOCS / write.NUMBERS).read_text() == write.text(NUMBERS)


def test_the_preset_has_the_published_share_and_is_the_machine_of_the_reproduction(calibrated: Cluster) -> None:
    preset = Cluster.load(machine.PRESET)
    trace = simulate(load_schedule("sync", 4, 28), machine.workload(16, Doubt()), preset)
    assert machine.all_to_all_share(trace, with_waits=False) == pytest.approx(SHARE, abs=5e-4)
    assert isinstance(preset.link, Network)
    assert isinstance(calibrated.link, Network)
    rates = {name: (calibrated.link.resources[name], resource) for name, resource in preset.link.resources.items()}
    for mine, its in rates.values():
        assert mine.bytes_per_s == pytest.approx(its.bytes_per_s, rel=1e-3)
    as_preset = {name: replace(mine, bytes_per_s=its.bytes_per_s) for name, (mine, its) in rates.items()}
    link = replace(calibrated.link, resources=as_preset)
    assert replace(calibrated, link=link, errors={}) == replace(preset, jitter={}, errors={})


def test_the_links_of_the_preset_are_those_of_eight_l40s_times_one_factor() -> None:
    preset, base = Cluster.load(machine.PRESET).link, Cluster.load(machine.BASE).link
    assert isinstance(preset, Network)
    assert isinstance(base, Network)
    assert preset.resources.keys() == base.resources.keys()
    factors = {name: r.bytes_per_s / base.resources[name].bytes_per_s for name, r in preset.resources.items()}
    changed = {name: factor for name, factor in factors.items() if factor != 1}
    assert {*changed} == {*SHARED}
    assert [*changed.values()] == pytest.approx([changed["host"]] * len(SHARED), rel=1e-3)
    assert all("inferred, not measured" in resource.source for resource in preset.resources.values())


def test_links_are_renewed_with_source_and_error_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, found = tmp_path / "mine.yaml", links.Links(2.0, 1.5, 3.0, 0.25)
    before = Cluster.load(machine.PRESET)
    file.write_text(str(before))
    monkeypatch.setattr(links, "inferred", lambda: found)
    links.renew(file)
    after = Cluster.load(file)
    assert isinstance(before.link, Network)
    assert isinstance(after.link, Network)
    for name in SHARED:
        rate, base = after.link.resources[name].bytes_per_s, Cluster.load(machine.BASE).link
        assert rate == pytest.approx(2 * base.resources[name].bytes_per_s)  # type: ignore[union-attr]
        assert after.errors[f"link.resources.{name}.bytes_per_s"] == pytest.approx(rate / 4, rel=1e-3)
        assert "x 1.5 to 3 " in after.link.resources[name].source
    same = replace(after.link, resources=before.link.resources)
    assert replace(after, link=same, errors=before.errors) == before


def test_part_of_an_all_to_all_does_not_depend_on_its_bytes() -> None:
    cluster = machine.machine(Doubt(unscaled=0.5), 1.0)
    bytes_of = machine.workload(machine.SHARE_IMAGES, Doubt()).row_bytes * 2 * machine.SHARE_IMAGES * 256 * 2 / 8
    even = np.full((8, 8), bytes_of) * ~np.eye(8, dtype=bool)
    whole, half = (float(cluster.fabric.transfer_s(even * share).max()) for share in (1.0, 0.5))
    assert half / whole == pytest.approx(0.75, abs=0.02)


def test_a_share_that_no_factor_gives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no factor between .* gives a share of 73.3%: Doubt\(compute=0.001"):
        machine.calibrated(Doubt(compute=1e-3), "sync")


def test_draws_stay_in_their_ranges_and_are_the_same_for_the_same_seed() -> None:
    drawn = [machine.draw(seed) for seed in range(200)]
    assert drawn[7] == machine.draw(7)
    for key, (low, high, _) in machine.RANGES.items():
        values = [getattr(doubt, key) for doubt in drawn]
        assert low <= min(values) < low + (high - low) / 10
        assert high >= max(values) > high - (high - low) / 10
    assert {doubt.wire for doubt in drawn} == {"float16", "float32"}
    assert {doubt.share_waits for doubt in drawn} == {False, True}


@pytest.mark.parametrize("reading", READINGS)
def test_the_numbers_are_those_of_the_code(reading: str) -> None:
    assert draws.one(reading, 0) == pytest.approx(NUMBERS["draws"][reading][0], abs=2e-3)
    made, kept = predict.predict(Case(READINGS[reading])), NUMBERS["causes"][reading][0]
    assert kept["cause"] == "none"
    assert made.factor == pytest.approx(kept["factor"], rel=2e-3)
    assert [made.speed_up(each) for each in PUBLISHED] == pytest.approx(kept["speed_up"], abs=2e-3)


def test_the_numbers_have_a_row_for_every_cause_and_batch() -> None:
    for reading, rows in NUMBERS["causes"].items():
        assert [row["cause"] for row in rows] == ["none", *(cause.name for cause in causes.causes(reading))]
        assert [row["pair"] for row in NUMBERS["pairs"][reading]] == [[*pair] for *pair, _ in pairs.pairs(reading)]
    assert [*NUMBERS["rivals"]] == [*map(str, beside.BATCHES)]
    assert [len(rows) for rows in NUMBERS["draws"].values()] == [draws.DRAWS] * len(READINGS)
    assert NUMBERS["told"] == draws.told(NUMBERS["draws"])


def test_every_cause_changes_one_thing() -> None:
    for reading in READINGS:
        base = Case(READINGS[reading])
        for cause in causes.causes(reading):
            if cause.change is None:
                assert cause.why.startswith("no effect")
                continue
            case = cause.change(base)
            fields = ("schedules", "doubt", "images", "fixed_s", "masks")
            assert [getattr(case, f) != getattr(base, f) for f in fields].count(True) == 1, cause
            for source in case.schedules.values():
                load_schedule(source, 10, 4)


def test_pairs_hold_both_causes_and_none_contradicts_itself() -> None:
    for reading in READINGS:
        base, by_name = Case(READINGS[reading]), {cause.name: cause for cause in causes.causes(reading)}
        listed = pairs.pairs(reading)
        for one, other, case in listed:
            first, second = by_name[one].change, by_name[other].change
            assert first is not None
            assert second is not None
            assert case not in (base, first(base), second(base)), (one, other)
            for source in case.schedules.values():
                load_schedule(source, 10, 4)
        named = {frozenset((one, other)) for one, other, _ in listed}
        assert frozenset(("warm-up of 2 more steps", "warm-up of 4 more steps")) not in named
        assert frozenset(("no interference", "interference of 40 % either way")) not in named
        assert frozenset(("no interference", "warm-up of 4 more steps")) in named


def test_many_predictions_at_once_are_those_of_the_simulation() -> None:
    base = Case(READINGS["as intended"])
    masked = Case(READINGS["as released"], Doubt(launch_s=1e-5), masks=True, fixed_s=1.0)
    for one, many in zip(map(predict.predict, (base, masked)), predict.predict_many([base, masked]), strict=True):
        assert many.factor == one.factor
        assert many.makespan_s == pytest.approx(one.makespan_s, rel=1e-3)


def test_a_pair_is_inside_if_the_spread_about_it_reaches_every_published_number() -> None:
    within = pairs.spread([[1.0, 2.0, 3.0], [1.1, 2.0, 3.3], [1.2, 2.0, 3.6]])
    assert within[1] == (1.0, 1.0)
    assert pairs.inside([0.05, 0.0, -0.05], within, 0.0)
    assert not pairs.inside([0.05, 0.01, -0.05], within, 0.0)
    assert pairs.inside([0.05, 0.001, -0.05], within, 0.005)


def test_a_fixed_cost_closes_what_it_says_it_closes() -> None:
    dice = PUBLISHED[0]
    made = Prediction(1.0, 0.7, {"sync, 50 steps": 66.0, "dice, 50 steps": 46.0})
    fixed_s = made.fixed_s(dice)
    assert fixed_s is not None
    assert (66 + fixed_s) / (46 + fixed_s) == pytest.approx(dice.speed_up)
    assert Prediction(1.0, 0.7, {"sync, 50 steps": 66.0, "dice, 50 steps": 60.0}).fixed_s(dice) is None


def test_the_nearest_draws_are_found() -> None:
    exact = [each.speed_up for each in PUBLISHED]
    far = [[2 * speed_up for speed_up in exact]] * 9
    told = draws.told({"as intended": [*far, exact], "as released": [*far, far[0]]})
    assert told["least_miss"] == 0
    assert told["readings"]["as intended"] >= 1
    assert draws.interval([[1.0], [2.0], [3.0]], 0) == pytest.approx((1.1, 2.0, 2.9))


def test_counts_on_the_same_communicator_leave_one_layer_to_overlap() -> None:
    same, own = write.layer_traces()
    ends = {
        name: [
            trace.end_s[0, plan.position[f"N3.{layer + 1}"]] - trace.end_s[0, plan.position[f"C2.{layer}"]]
            for layer in range(page.LAYERS - 1)
        ]
        for name, trace, plan in [("same", same, same.schedule), ("own", own, own.schedule)]
    }
    assert min(ends["same"]) > 0  # counts of the next layer come when the stale combine of this one has passed
    assert max(ends["own"]) < 0


def test_a_folder_that_is_none_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        write.write(tmp_path / "nowhere", Console())
