"""Sweeps: the file and its faults, the points, and what a row says (how they run: tests/test_sweep_runs.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sweep_fuzz import fuzz
from sim.cluster import cluster_tables
from sim.engine import simulate
from sim.load import load_schedule
from sim.memory import Reserve, channels_of, memory
from sim.report import sent_bytes
from sim.routing import Routing
from sim.sweeps.facts import FactBook
from sim.sweeps.file import sweep_of
from sim.sweeps.point import Sources, build
from sim.sweeps.points import Points, row_keys
from sim.sweeps.rows import rows_of
from sim.sweeps.settings import DEFAULTS, value_problem
from sim.sweeps.sweep import Sweep
from sim.vectorised.engines import Case, evaluate, simulated, told
from sim.vulnerability import Vulnerability, quality_cost
from sim.workload import MODELS, Workload

Make = Callable[..., Sweep]
SMALL = """
base: {model: tiny, steps: 3, cluster: cpu-2-ranks}
axes:
  schedule: [sync, displaced, dice]
  images: [1, 2]
  times.cluster.link.bytes_per_s: [0.5, 1, 2]
"""


def every(points: Points) -> list[dict[str, Any]]:
    """The settings of every point, in order."""
    borders = points.borders
    chunks = [points.chunk(first, last) for first, last in pairwise(borders)]
    return [chunk.point(i) for chunk in chunks for i in range(len(chunk))]


# ------------------------------------------------------------------------------------------------- the file


def test_every_fault_is_said_at_once_with_its_place(make: Make) -> None:
    with pytest.raises(ValueError, match="is in base") as caught:
        make("""
base: {model: XX, steps: 0, cluster: 8x-h1000, wire: int7, foo: 3, images: 4}
axes:
  schedule: [sync, nope, sync]
  images: [4, -16, x]
  foo: [1]
  pixels: 256
  schedule.stride: []
  schedule.colour: [1]
  cluster.link.bytes_per_s: [3 apples, 4 GB/s]
  keep: {low: 0.9, high: 0.1, count: 3}
plan: {points: 3}
filters: [imagess > 3, images <]
""")
    lines = [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]
    for start in (
        "axes.schedule: 'sync' stands there twice", "axes.pixels: 256 should be a list",
        "axes.schedule.stride: is empty",
        "axes.cluster.link.bytes_per_s[0]: cluster.link.bytes_per_s: unknown unit 'apples'",
        "axes.keep: low=0.9 should be below high=0.1", "axes.images: is in base, too", "axes.foo: is in base, too",
        "base.steps: 0: input should be greater", "base.wire: 'int7': input should be 'float64'",
        "base.foo: unknown key (3); there are schedule, cluster, steps",
        "axes.images[1]: -16: input", "axes.images[2]: 'x': input",
        "axes.schedule.colour[0]: unknown key (1); there are top_k, ", "plan.points=3 has no effect on a grid",
        "filters[0]: 'imagess > 3': there is no setting imagess", "filters[1]: 'images <' cannot be read",
        "base.cluster: no cluster is called 8x-h1000", "base.model: unknown model 'XX'",
        "axes.schedule: unknown schedule 'nope'",
    ):  # fmt: skip
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert sum(line.startswith("axes.schedule.stride") for line in lines) == 1, "what is empty has no values to look at"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("axes:", "axis:"), "axis: unknown key"),
        (("axes:", "axes: {}\nfilters:"), "filters"),
        (("[1, 2]", "[1, 2]\n  images: [3]"), "duplicate key"),
        (("[1, 2]", "{low: 1, high: 4}"), "a grid needs a count"),
        (("[0.5, 1, 2]", "[0.5, -1]"), r"\[1\]: -1 should be a factor above 0"),
        (("bytes_per_s: [0.5", "bytes: [0.5"), r"axes\.times\.cluster\.link\.bytes: times\..*: there is no bytes"),
        (("[1, 2]", "[1, 1048577]"), r"images\[1\]: 1048577: input should be less"),
        (("[sync,", "[mine.txt,"), "unknown schedule 'mine.txt'"),
        (("steps: 3", "steps: 3, seed: 1, dtype: bf16"), "dtype=bf16 has no effect"),
        (("steps: 3", "steps: 3, schedule.stride: 2"), "with 'sync', no point can be run: .*no effect"),
        (("[sync,", "[sync, 3,"), r"axes\.schedule\[1\]: 3: input should be a valid string"),
        (("[sync,", "[sync, ' ',"), r"axes\.schedule\[1\]: ' ' is blank"),
        (("images: [1, 2]", "cluster.link.scope: [1, wide]"), "all numbers, or all texts"),
        (
            ("images: [1, 2]", "cluster.link.*: [1]\n  cluster.link.latency_s: [2]"),
            r"link\.\*: says what cluster.link.lat",
        ),
        (("[sync,", "[null,"), r"axes\.schedule\[0\]: null: it has to be given"),
        (("steps: 3", "steps: 3, schedule: null"), r"base\.schedule: null: it has to be given"),
        (("base:", "search: settings\nbase:"), "is a search, not a sweep: python -m sim search"),
        (("images: [1, 2]", "cluster.: [1]"), "'cluster.' names nothing"),
        (("images: [1, 2]", "cluster.ranks: [1.0e+9, false]"), "with False, no point can be run: .*ranks=0 should be"),
        (("[1, 2]", "[1, [2]]"), "should be one value"),
        (("steps: 3", "steps: 3, wire: off"), "wire: False"),
        (("steps: 3", "steps: 3, schedule.forced: 1"), r"base\.schedule\.forced: 1 should be a text"),
        (("steps: 3", "steps: 3, schedule.stride: '2'"), r"base\.schedule\.stride: '2' should be a whole number"),
        (("steps: 3", "steps: 3, model.adaln: 1"), r"base\.model\.adaln: 1 should be true or false"),
    ],
)
def test_a_file_with_a_fault_is_refused_before_anything_runs(make: Make, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(SMALL.replace(*change))


def faults(make: Make, text: str) -> list[str]:
    """What is said of a file, without its name."""
    with pytest.raises(ValueError, match=r"s\.yaml") as caught:
        make(text)
    return [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]


def test_no_section_hides_the_faults_of_another(make: Make) -> None:
    text = """
base: {model: tiny, steps: 3, cluster: cpu-2-ranks, model.nope: 3, schedule.nothing: 1}
axes: {schedule: [sync, dice], pixels: [255, 256], images: {low: 1, high: 4}, foo: [1]}
plan: {kind: sobl, points: -4}
filters: ["images", "images > 'a'", "images / 0 > 1", "nobody == 1"]
"""
    lines = faults(make, text)
    for start in (
        "plan.kind: Input should be 'grid'", "plan.points: Input should be greater", "base.model.nope: unknown key (3)",
        "base.schedule.nothing: unknown key (1)", "axes.foo: unknown key (1)", "axes.pixels: with 255, no",
        "filters[0]: 'images' should be a condition", "filters[1]: \"images > 'a'\" does with texts",
        "filters[2]: 'images / 0 > 1': 'images / 0' divides by 0", "filters[3]: 'nobody == 1': there is no setting",
    ):  # fmt: skip
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == 10, "and nothing else is accused: not images, which a plan may draw without a count"


@pytest.mark.parametrize(
    ("text", "accused"),
    [
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, schedule: sync}\naxes: {ranks: [3, 8, 1000], "
         "pixels: [255, 256], cluster.host.launch_s: [3 us, -1]}",
         {"axes.pixels: with 255": "pixels=255", "axes.cluster.host.launch_s: with -1": "host.launch_s=-1",
          "axes.ranks: with 3": "3 ranks", "axes.ranks: with 1000": "1000"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100}\naxes: {schedule: [sync, dice], mesh: [foo], "
         "placement: [bar]}", {"axes.mesh": "foo", "axes.placement": "bar"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, mesh: foo}\naxes: {schedule: [sync, dice]}",
         {"base.mesh": "foo"}),
        ("base: {model: S, cluster: 8x-h100, schedule: sync, steps: 2}\naxes: {images: [1, 2], "
         "cluster.compute.gpu.peak.bf16: {low: 1.0e+14, high: 1.0e+15, count: 10}}",
         {"axes.cluster.compute.gpu.peak.bf16": "there is no gpu"}),
        ("base: {model: S, cluster: 8x-h100, schedule: sync, steps: 0}\naxes: {pixels: [255]}",
         {"base.steps": "0", "axes.pixels": "255"}),
        ("base: {model: tiny, steps: 3, schedule: sync}\naxes: {cluster: [8x-h100, 8x-a100], cluster.name: [3]}",
         {"axes.cluster.name": "name"}),
        ("base: {model: tiny, steps: 3, cluster: cpu-2-ranks, schedule.stride: 2}\naxes: {schedule: [sync], "
         "images: [1, 2]}", {"base.schedule.stride": "stride"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, keep: 0.5}\naxes: {schedule: [sync], images: [1, 2], "
         "dtype: [fp8, bf17]}", {"axes.dtype[1]": "bf17", "base.keep": "keep=0.5"}),
    ],
)  # fmt: skip
def test_only_what_is_at_fault_is_accused(make: Make, text: str, accused: dict[str, str]) -> None:
    lines = faults(make, text)
    assert len(lines) == len(accused), lines
    for start, word in accused.items():
        assert sum(line.startswith((f"{start}:", f"{start},")) and word in line for line in lines) == 1, (start, lines)


@pytest.mark.parametrize("text", ["[1, 2]", "- a", "base: [", "axes: {a: ${nowhere}}", "plan: {kind: grit}"])
def test_what_is_no_sweep_is_refused(make: Make, text: str) -> None:
    with pytest.raises(ValueError, match=r"s\.yaml"):
        make(text)


def test_changes_on_the_command_line_are_part_of_the_file(make: Make) -> None:
    sweep = make(SMALL, "base.steps=4", "plan.kind=random", "plan.points=5")
    assert sweep.base["steps"] == 4
    assert len(Points(sweep)) == 5
    assert sweep.digest != make(SMALL).digest
    text = SMALL.replace("images: [1, 2]", "model.hidden: {low: 64, high: 128, count: 2}")
    sweep = make(text, "axes.times.cluster.link.bytes_per_s=[4]", "base.cluster.host.launch_s=3 us",
                 "axes.model.hidden.high=256", "base.images=8")  # fmt: skip
    assert sweep.base["cluster.host.launch_s"] == 3e-6
    assert {axis.key: axis.values[-1] for axis in sweep.axes[1:]} == {
        "model.hidden": 256, "times.cluster.link.bytes_per_s": 4
    }  # fmt: skip
    with pytest.raises(ValueError, match="should look like plan"):
        make(SMALL, "steps")


def test_a_sweep_is_another_one_if_a_file_that_it_names_is(make: Make, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(str(load_schedule("sync", 3, 4)))
    text = SMALL.replace("[sync,", f"[{mine}, sync,")
    before = make(text)
    keys = row_keys(Points(before).chunk(0, 6), before.sources)
    mine.write_text(str(load_schedule("interweaved", 3, 4)))
    after = make(text)
    assert before.digest != after.digest
    assert {*keys}.isdisjoint(row_keys(Points(after).chunk(0, 6), after.sources))


# ------------------------------------------------------------------------------------------------- points


def test_a_grid_has_every_combination_once(make: Make) -> None:
    points = Points(make(SMALL))
    assert len(points) == 18
    found = {(p["schedule"], p["images"], p["times.cluster.link.bytes_per_s"]) for p in every(points)}
    assert found == {(s, i, f) for s in ("sync", "displaced", "dice") for i in (1, 2) for f in (0.5, 1, 2)}
    assert points.borders == [0, 6, 12, 18]


def test_filters_leave_out_points_and_nothing_else(make: Make) -> None:
    points = Points(make(SMALL + "filters: [images < 2 or schedule != 'sync', steps == 3]"))
    kept = [p for p in every(Points(make(SMALL))) if p["images"] < 2 or p["schedule"] != "sync"]
    assert sorted(map(str, every(points))) == sorted(map(str, kept))
    assert points.before_filters - len(points) == 3
    with pytest.raises(ValueError, match="none of 18 points is left by images > 9"):
        Points(make(SMALL + "filters: [images > 9]"))


@pytest.mark.parametrize("kind", ["random", "latin", "sobol"])
def test_drawn_points_are_seeded_in_range_and_together_by_list_of_ops(make: Make, kind: str) -> None:
    text = SMALL.replace("[1, 2]", "{low: 1, high: 64}").replace("[0.5, 1, 2]", "{low: 0.1, high: 10, scale: log}")
    drawn = {seed: every(Points(make(f"{text}\nplan: {{kind: {kind}, points: 256, seed: {seed}}}"))) for seed in (0, 1)}
    assert drawn[0] == every(Points(make(f"{text}\nplan: {{kind: {kind}, points: 256, seed: 0}}")))
    assert drawn[0] != drawn[1]
    images = [p["images"] for p in drawn[0]]
    factors = np.array([p["times.cluster.link.bytes_per_s"] for p in drawn[0]])
    assert {type(n) for n in images} == {int}
    assert 1 <= min(images) < 8 < 56 < max(images) <= 64
    assert 0.1 <= factors.min() < 0.2 < 5 < factors.max() <= 10
    assert 0.35 < (factors < 1).mean() < 0.65  # evenly on the logarithmic axis
    schedules = [p["schedule"] for p in drawn[0]]
    assert sum(a != b for a, b in pairwise(schedules)) == 2


def test_of_many_numbers_the_least_the_greatest_and_one_between_are_looked_at(make: Make) -> None:
    keep = ", ".join(f"{n / 10}" for n in range(10))
    text = SMALL.replace("images: [1, 2]", f"keep: [{keep}]")
    with pytest.raises(ValueError, match=r"with 0\.0, no point can be run") as caught:
        make(text)
    assert "0.5" in str(caught.value)
    assert "0.9" in str(caught.value)
    assert "0.1," not in str(caught.value)


def test_points_drawn_twice_are_there_once(make: Make) -> None:
    points = Points(make(SMALL + "plan: {kind: random, points: 500}"))
    assert len(points) == 18
    assert len({*map(str, every(points))}) == 18


def test_keys_tell_points_apart_and_know_them_again(make: Make) -> None:
    sweep = make(SMALL)
    points = Points(sweep)
    keys = row_keys(points.chunk(0, 6), sweep.sources) + row_keys(points.chunk(6, 18), sweep.sources)
    assert len({*keys}) == 18
    assert keys[2:5] == row_keys(points.chunk(2, 5), sweep.sources)
    other = make(SMALL.replace("schedule: [sync, displaced, dice]", "schedule: [dice]").replace("[1, 2]", "[2]"))
    assert {*row_keys(Points(other).chunk(0, 3), other.sources)} < {*keys}
    same = make(SMALL.replace("steps: 3", "steps: 3, wire: bfloat16"))  # the default, said
    assert row_keys(Points(same).chunk(0, 6), same.sources) == keys[:6]


# ------------------------------------------------------------------------------------------------- rows


CALM = (
    "8x-h100, cluster.interference.communication: 0, 'cluster.interference.compute.*': 0, "
    "cluster.interference.multiprocessors: 0"
)


@pytest.mark.parametrize(("cluster", "engine"), [("8x-h100", "lockstep"), (CALM, "recurrence")])
def test_a_row_says_what_simulation_memory_and_report_say(make: Make, cluster: str, engine: str) -> None:
    sweep = make(SMALL.replace("cpu-2-ranks", cluster).replace("link.bytes", "link.resources.port.bytes"))
    chunk = Points(sweep).chunk(12, 18)
    for i, row in enumerate(rows_of(chunk, sweep.sources).to_pylist()):
        schedule, workload, machine = build(chunk.point(i), sweep.sources)
        trace, reserve = simulate(schedule, workload, machine), Reserve(channels=channels_of(machine))
        peak = memory(schedule, workload, reserve=reserve).peak_bytes
        assert (row["error"], row["engine"]) == (None, engine)
        assert row["makespan_s"] == pytest.approx(trace.makespan_s, rel=0 if engine == "recurrence" else 1e-6, abs=0)
        assert row["images_per_s"] == workload.images_in_all / row["makespan_s"]
        assert row["mean_age_steps"] == pytest.approx(trace.mean_age.mean(), rel=1e-12)
        assert row["oldest_age_steps"] == trace.staleness.max()
        assert row["memory_bytes"] == pytest.approx(peak, rel=1e-12)
        sent = sum(each.mean() for each in sent_bytes(schedule, workload).values())
        assert row["sent_bytes"] == pytest.approx(sent, rel=1e-12)
        assert row["memory_fits"] is (peak <= machine.compute.memory_bytes)  # type: ignore[union-attr]
        by_simpy = told(trace, workload, machine)
        assert (row["computing_alone_s"], row["communicating_alone_s"]) == pytest.approx(by_simpy[1:3], rel=1e-9)
        assert row["stalled_s"] == pytest.approx(by_simpy[3], rel=1e-9)
        assert row["communication_share"] == pytest.approx(by_simpy[5], rel=1e-9)
        assert row["exposed_s"] == (None if engine == "recurrence" else pytest.approx(by_simpy[4], rel=1e-9))


SKEWED = """
base: {model: tiny, steps: 3, cluster: 8x-h100, images: 4}
axes:
  schedule: [sync, dice]
  imbalance: [1.2, 1.5]
  times.cluster.link.resources.port.bytes_per_s: [0.1, 1]
"""


def test_points_whose_ranks_differ_are_walked_together_and_say_what_simpy_says(make: Make) -> None:
    sweep, fewer = make(SKEWED), make(SKEWED.replace("[1.2, 1.5]", "[1.5]"))
    many, few = Points(sweep), Points(fewer)
    for points, first, last, engine in [(many, 0, 4, "uneven"), (many, 4, 8, "uneven"), (few, 0, 2, "simulation")]:
        chunk = points.chunk(first, last)
        for i, row in enumerate(rows_of(chunk, sweep.sources).to_pylist()):
            schedule, workload, machine = build(chunk.point(i), sweep.sources)
            want = told(simulate(schedule, workload, machine), workload, machine)
            names = ("makespan_s", "computing_alone_s", "communicating_alone_s", "stalled_s", "exposed_s")
            assert (row["error"], row["engine"]) == (None, engine)
            assert [row[name] for name in (*names, "communication_share")] == pytest.approx(want, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("jitter", "engine"), [({"A": 0.1, "D": 0.2}, "uneven"), ({}, None)])
def test_seeds_of_a_machine_that_interferes_are_walked(jitter: dict[str, float], engine: str | None) -> None:
    schedule = load_schedule("dice", 3, MODELS["S"].layers)
    workload, tables = Workload(MODELS["S"], 8, 2), {**cluster_tables("8x-rtx4090"), "jitter": jitter}
    seeds = np.array([1, 5, 1, 7, 8])
    case = Case(schedule, workload, tables, 5, seeds=seeds)
    found, want = evaluate(case), simulated(case)
    assert [*found.engine] == [engine] * 5
    assert [*found.error] == [*want.error]
    for mine, theirs in zip(found[:6], want[:6], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_gpu_named_in_an_axis_is_a_gpu_like_the_cluster_s_own(make: Make) -> None:
    sweep = make("base: {model: S, steps: 2, schedule: sync, images: 4, cluster: 8x-h100}\n"
                 "axes: {cluster.compute.gpu: [null, h100_sxm, l40s]}\n")  # fmt: skip
    own, named, other = rows_of(Points(sweep).chunk(0, 3), sweep.sources).to_pylist()
    settings = ("key", "cluster.compute.gpu")
    assert {**own, **dict.fromkeys(settings)} == {**named, **dict.fromkeys(settings)}
    assert (own["memory_fits"], other["memory_fits"]) == (True, True)
    assert other["makespan_s"] > own["makespan_s"]


def test_memory_counts_the_channels_of_each_point(make: Make) -> None:
    sweep = make("base: {model: S, steps: 2, cluster: 8x-h100, schedule: dice}\n"
                 "axes: {times.cluster.interference.multiprocessors: [0.25, 1, 2]}")  # fmt: skip
    chunk = Points(sweep).chunk(0, 3)
    found = [row["memory_bytes"] for row in rows_of(chunk, sweep.sources).to_pylist()]
    for i, channels in enumerate([8, 32, 64]):
        schedule, workload, machine = build(chunk.point(i), sweep.sources)
        assert channels_of(machine) == channels
        assert found[i] == pytest.approx(
            memory(schedule, workload, 2, Reserve(channels=channels)).peak_bytes, rel=1e-12
        )


def test_a_seed_draws_jitter_by_simpy_which_says_everything(make: Make) -> None:
    sweep = make(SMALL.replace("images: [1, 2]", "seed: [3]"))
    chunk = Points(sweep).chunk(0, 1)
    [row] = rows_of(chunk, sweep.sources).to_pylist()
    schedule, workload, machine = build(chunk.point(0), sweep.sources)
    trace = simulate(schedule, workload, machine, seed=3)
    assert (row["engine"], row["seed"], row["makespan_s"]) == ("simulation", 3, trace.makespan_s)
    assert row["exposed_s"] == float(trace.exposed_s.mean())


@pytest.mark.parametrize("name", ["sync", "dice", "overlap", "distrifusion", "cached"])
def test_facts_of_one_workload_serve_others_in_proportion(name: str) -> None:
    schedule = load_schedule(name, 4, 12)
    book = FactBook(schedule)
    for images, latent, wire in [(1, 32, "bfloat16"), (6, 64, "int8"), (2, 32, "float32")]:
        workload = Workload(replace(MODELS["S"], latent=latent), 8, images, wire)
        facts = book.facts(workload, 2)
        assert facts.memory_bytes == pytest.approx(memory(schedule, workload, 2).peak_bytes, rel=1e-12)
        sent = sum(each.mean() for each in sent_bytes(schedule, workload).values())
        assert facts.sent_bytes == pytest.approx(sent, rel=1e-12)


def test_quality_is_estimated_where_a_vulnerability_is_named(make: Make) -> None:
    sweep = make(SMALL.replace("steps: 3", "steps: 3, vulnerability: digits").replace("dice]", "dice, distrifusion]"))
    costs, points = Vulnerability.load("digits"), Points(sweep)
    for first, name in zip(points.borders, ("sync", "displaced", "dice", "distrifusion"), strict=False):
        rows = rows_of(points.chunk(first, first + 2), sweep.sources).to_pylist()
        want = None if name == "distrifusion" else quality_cost(load_schedule(name, 3, 4), costs)
        assert [(row["schedule"], row["quality"]) for row in rows] == [(name, want)] * 2
    assert sweep.digest != make(SMALL).digest
    with pytest.raises(ValueError, match="vulnerability: no vulnerability is called moths"):
        make(SMALL.replace("steps: 3", "steps: 3, vulnerability: moths"))


def test_modelled_routing_is_looked_at_point_by_point() -> None:
    schedule, book = load_schedule("dice", 3, 4), FactBook(load_schedule("dice", 3, 4))
    for skew in (1.2, 2.0):
        routing = Routing.skewed(MODELS["tiny"], 2, 256, 3, imbalance=skew)
        workload = Workload(MODELS["tiny"], 2, 2, routing=routing)
        assert book.facts(workload, 4).memory_bytes == pytest.approx(memory(schedule, workload, 4).peak_bytes)


def test_a_point_that_cannot_be_run_says_why_and_the_others_run(make: Make) -> None:
    sweep = make(
        SMALL.replace("[sync, displaced, dice]", "[overlap]").replace("[1, 2]", "[1, 2]\n  guidance: [true, false]")
    )
    rows = rows_of(Points(sweep).chunk(0, 12), sweep.sources).to_pandas()
    odd = (rows["images"] == 1) & ~rows["guidance"]
    assert rows.loc[odd, "error"].str.contains("do not divide into 2 micro-batches").all()
    assert rows.loc[odd, "makespan_s"].isna().all()
    assert rows.loc[~odd, "error"].isna().all()
    assert (rows.loc[~odd, "makespan_s"] > 0).all()


# ------------------------------------------------------------------------------------------------- anything at all


def test_settings_drawn_at_random_end_in_a_result_or_in_words() -> None:
    tally = fuzz(150, seed=11)
    assert not tally.failures
    assert tally.ended["finished"] > 30
    assert tally.ended["refused"] + tally.ended["refused before it ran"] > 30


@pytest.mark.parametrize("value", [[], {}, [1], float("nan"), object()])
def test_no_setting_takes_what_is_no_value(value: Any) -> None:
    for key in ("images", "times.cluster.host.launch_s", "keep", "schedule"):
        assert value_problem(key, value)


def test_files_are_read_once_and_travel_with_the_sweep(tmp_path: Path) -> None:
    sources = Sources(schedules={"mine.txt": str(load_schedule("sync", 3, 4))})
    schedule, _, _ = build({"schedule": "mine.txt", "model": "tiny", "cluster": "cpu-2-ranks"}, sources)
    assert schedule == load_schedule("sync", 3, 4)


def test_a_row_does_not_depend_on_how_points_are_cut_into_chunks(make: Make) -> None:
    text = SMALL.replace("cpu-2-ranks", "8x-h100").replace("link.bytes", "link.resources.port.bytes")
    sweep = make(text.replace("images: [1, 2]", "seed: [3, null]\n  imbalance: [1.5, 3, null]"))
    points = Points(sweep)
    found = set[str]()
    for first, last in pairwise(points.borders):
        whole = rows_of(points.chunk(first, last), sweep.sources)
        found |= {*whole["engine"].to_pylist()}
        for step in (1, 5):
            parts = [(at, min(last, at + step)) for at in range(first, last, step)]
            cut = pa.concat_tables([rows_of(points.chunk(*part), sweep.sources) for part in parts])
            assert cut.equals(whole), "to the last bit"
    assert found == {"lockstep", "uneven"}


# ------------------------------------------------------------------------------------------------- any file


KEYS = st.sampled_from([
    *DEFAULTS, "schedule.stride", "schedule.conditional", "schedule.synchronous", "model.hidden", "model.experts",
    "cluster.host.launch_s", "cluster.compute.gpu", "cluster.link", "cluster.name", "cluster.ranks", "cluster.",
    "cluster.link.resources.*.bytes_per_s", "times.cluster.link.bytes_per_s", "times.cluster", "nobody", "",
])  # fmt: skip
VALUES = st.sampled_from([
    None, True, 0, 1, 3, 8, -1, 255, 256, 0.5, 1e9, 1e300, float("nan"), float("inf"), 2**70, "", " ", "sync", "dice",
    "interweaved stride=3", "tiny", "8x-h100", "3 us", "3 apples", "bf16", "data=2 expert=4", "low", [1], {"a": 1},
])  # fmt: skip
AXES = st.lists(VALUES, max_size=4) | st.dictionaries(st.sampled_from(["low", "high", "count", "whole", "x"]), VALUES)
FILTERS = st.sampled_from(["images > 1", "images", "images >", "images / 0 > 1", "nobody == 1", "steps == null", 3])
SOUND = {"schedule": "sync", "model": "tiny", "steps": 3, "cluster": "8x-h100"}


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(KEYS, AXES, max_size=3),
    st.dictionaries(st.sampled_from(["kind", "points", "seed"]), VALUES), st.lists(FILTERS, max_size=2),
)  # fmt: skip
def test_any_file_is_a_sweep_or_is_refused_with_each_fault_once(base: Any, axes: Any, plan: Any, filters: Any) -> None:
    tables = {"base": {**SOUND, **base}, "axes": {"images": [1, 2], **axes}, "plan": plan, "filters": filters}
    try:
        Points(sweep_of(tables, "s.yaml"))
    except ValueError as error:
        lines = str(error).splitlines()
        assert len({*lines}) == len(lines)
        assert all(line.startswith(("s.yaml: ", "filters: none of")) for line in lines)
