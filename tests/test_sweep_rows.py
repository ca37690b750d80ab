"""What a row of a sweep says of its point: what simulation, memory and report say, in whatever chunks points are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sweeps import SMALL, Make

from benchmarks.sweep_fuzz import fuzz
from sim.cluster import cluster_tables
from sim.engine import simulate
from sim.load import load_schedule
from sim.memory import Reserve, channels_of, memory
from sim.report import sent_bytes
from sim.routing import Routing
from sim.sweeps.facts import FactBook
from sim.sweeps.point import Sources, build
from sim.sweeps.points import Points
from sim.sweeps.rows import rows_of
from sim.vectorised.engines import Case, evaluate, simulated, told
from sim.vulnerability import Vulnerability, quality_cost
from sim.workload import MODELS, Workload

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


def test_settings_drawn_at_random_end_in_a_result_or_in_words() -> None:
    tally = fuzz(150, seed=11)
    assert not tally.failures
    assert tally.ended["finished"] > 30
    assert tally.ended["refused"] + tally.ended["refused before it ran"] > 30


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
