"""Advice: who is in, in which order, how sure; and limits and evidence are what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from advices import CLUSTER, COSTS, MODEL, asked

from sim.advise import advise, evidence, verdicts
from sim.cluster import Cluster
from sim.engine import simulate
from sim.memory import memory
from sim.option import Option
from sim.sweeps.facts import FactBook
from sim.vulnerability import quality_cost
from sim.workload import Workload


@pytest.fixture(scope="module")
def options() -> list[Option]:
    return advise(asked())


def test_every_number_is_what_simulation_and_memory_say(options: list[Option]) -> None:
    for option in options:
        trace = simulate(option.schedule, option.workload, CLUSTER)
        assert option.makespan_s == pytest.approx(trace.makespan_s, rel=1e-6)
        assert option.facts.memory_bytes == pytest.approx(memory(option.schedule, option.workload, 4).peak_bytes)
        assert option.facts.mean_age_steps == pytest.approx(trace.mean_age.mean())
        assert option.interval_s[0] <= np.median(option.seconds) <= option.interval_s[1]


def test_rivals_without_staleness_and_fewer_steps_are_among_them(options: list[Option]) -> None:
    why = {option.name: option.why for option in options}
    assert why["sync"] == why["overlap"] == why["data_parallel"] == "exact"
    assert {"stale", "caching", "fewer bytes", "exact", "fewer steps"} == {*why.values()}
    assert len(why) == len(options)
    sync = next(option for option in options if option.name == "sync")
    for few in (option for option in options if option.why == "fewer steps"):
        assert few.schedule.steps < 4
        assert few.facts.mean_age_steps == 0
        assert few.makespan_s < sync.makespan_s


def test_they_are_ordered_by_makespan_and_limits_go_first(options: list[Option]) -> None:
    assert [(bool(o.unpriced), o.makespan_s) for o in options] == sorted(
        (bool(o.unpriced), o.makespan_s) for o in options
    )
    limited = advise(asked(mean_age=0.5))
    kept = [not option.against for option in limited]
    assert kept == sorted(kept, reverse=True)
    for option in limited:
        assert bool(option.against) == (option.facts.mean_age_steps > 0.5 or option.facts.oldest_attention_steps > 0)


def test_within_a_latency_the_least_stale_is_first(options: list[Option]) -> None:
    limit = sorted(option.makespan_s for option in options)[len(options) // 2]
    found = [option for option in advise(asked(latency_s=limit)) if not option.against]
    assert found
    assert all(option.makespan_s <= limit for option in found)
    ages = [(bool(option.unpriced), option.facts.mean_age_steps) for option in found]
    assert ages == sorted(ages)


def test_what_no_number_prices_is_not_ranked_beside_the_rest(options: list[Option]) -> None:
    """Fewer steps, rounded rows, stale keys and values: mean age 0 or low, and images that lose."""
    for option in options:
        stale_attention = option.facts.oldest_attention_steps > 0
        assert bool(option.unpriced) == (option.why in ("fewer steps", "fewer bytes") or stale_attention), option.name
    reasons = {(), ("rounded rows",), ("stale keys and values",)}
    assert {option.unpriced for option in options} == {*reasons, ("fewer steps",)}
    known = advise(replace(asked(latency_s=9.0), vulnerability=COSTS))
    assert {option.unpriced for option in known} == reasons
    ranked = [option.quality for option in known if not option.unpriced]
    assert ranked == sorted(ranked, key=lambda quality: quality or 0.0)
    assert any(option.why == "fewer steps" for option in known[: len(ranked)])


def test_where_all_rows_are_rounded_only_what_sends_none_is_ranked() -> None:
    rounding = replace(asked(), workload=Workload(MODEL, 2, 2, "int8"), vulnerability=COSTS)
    found = advise(rounding)
    assert [option.name for option in found if not option.unpriced] == ["data_parallel"]
    assert {option.name for option in found if option.quality is not None} == {"data_parallel"}
    why = {option.name: option.why for option in found}
    assert (why["sync"], why["overlap"], why["data_parallel"]) == ("fewer bytes", "fewer bytes", "exact")
    assert any("stale keys and values" in o.unpriced and "rounded rows" in o.unpriced for o in found)
    told = "rows travel as {}, and are computed in fp32: what rounding them costs in images is in no number here"
    for wire in ("int8", "bfloat16"):
        assert told.format(wire) in evidence(replace(rounding, workload=Workload(MODEL, 2, 2, wire)))
    assert not any(
        "rows travel" in line for line in evidence(replace(asked(), workload=Workload(MODEL, 2, 2, "float32")))
    )


def test_facts_of_a_schedule_are_found_once_for_all_wires(
    options: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr("sim.advise.FactBook", lambda plan: looked.append(plan.name) or FactBook(plan))
    found = advise(asked())
    assert len(looked) == len({option.schedule for option in found}) < len(found) == len(options)


def test_memory_limits(options: list[Option]) -> None:
    limit = float(np.median([option.facts.memory_bytes for option in options]))
    for option in advise(asked(memory_bytes=limit)):
        assert bool(option.against) == (option.facts.memory_bytes > limit)


def test_quality_is_what_the_file_estimates() -> None:
    found = advise(replace(asked(quality=0.2), vulnerability=COSTS))
    for option in found:
        if option.facts.oldest_attention_steps or option.workload.wire == "int8":
            assert option.quality is None
            assert option.against == ("quality not known",)
        else:
            assert option.quality == quality_cost(option.schedule, COSTS)
            assert bool(option.against) == (option.quality > 0.2)
    few = [option for option in found if option.why == "fewer steps"]
    assert all(option.quality is not None and option.quality >= np.sqrt(0.5) / 4 for option in few)


def test_too_close_to_call_means_neither_is_surely_faster(options: list[Option]) -> None:
    base = options[0]
    seconds = np.linspace(1.0, 1.1, 100)
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    same, close, far = (replace(base, seconds=s, against=()) for s in (seconds, seconds + noise, seconds + 0.2))
    assert verdicts([same, close, far]) == ["", "too close to call with 1", f"{1.2 / 1.0 - 1:+.1%}"]
    shifted = replace(base, seconds=seconds * 1.001, against=())  # intervals overlap, but it is slower in every draw
    assert verdicts([same, shifted]) == ["", "+0.1%"]
    assert same.faster_than(same) == 0.5
    for by in ("mean age", "quality"):  # an order that makespans say nothing of
        assert verdicts([same, close, far], by)[1:] == [f"{close.makespan_s - 1:+.1%}", "+20.0%"]


def test_evidence_names_every_source() -> None:
    cluster = Cluster.load("8x-rtx4090")
    lines = "\n".join(evidence(replace(asked(), cluster=cluster)))
    for source in (
        "inferred, not measured, for lack of data of such a machine",
        "inferred, not measured: the rate of 8x-l40s x",
        "NVIDIA Ada GPU architecture",
        "mean age: exact",
    ):
        assert source in lines
