"""Traces: exact round trips, counted metrics, and what is no trace."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BY_HAND, anything, cluster, interfering, model, named
from hypothesis import given
from hypothesis import strategies as st

from sim.engine import simulate
from sim.load import load_schedule
from sim.schedule import COLLECTIVES, KINDS, Schedule
from sim.trace import Trace
from sim.workload import Workload


def traced(schedule: Schedule, ranks: int = 2, seed: int | None = None) -> Trace:
    machine = interfering(cluster(ranks, jitter={"A": 0.3}), 0.3, 0.2)
    return simulate(schedule, Workload(model(schedule), ranks, images=2), machine, seed)


def spans(trace: Trace) -> Any:
    return np.array([trace.reached_s, trace.start_s, trace.end_s])


# ----------------------------------------------------------------------------------------------- text


@given(anything(), st.sampled_from([1, 2, 4]), st.integers(0, 99))
def test_text_is_read_back_to_the_last_bit(schedule: Schedule, ranks: int, seed: int) -> None:
    trace = traced(schedule, ranks, seed)
    again = Trace.parse(str(trace))
    np.testing.assert_array_equal(spans(again), spans(trace))
    np.testing.assert_array_equal(again.staleness, trace.staleness)
    assert (again.schedule, again.origin, again.about) == (trace.schedule, trace.origin, trace.about)
    assert str(again) == str(trace)


def test_what_is_saved_loads_back(tmp_path: Path) -> None:
    trace = replace(traced(BY_HAND[0]), origin="measured on two ranks", about={"command": "a = b", "nothing": ""})
    trace.save(tmp_path / "trace.tsv")
    again = Trace.load(tmp_path / "trace.tsv")
    assert str(again) == str(trace)
    assert (again.origin, again.about) == (trace.origin, trace.about)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("# trace", "# race", "mine: not a trace: it should begin with '# trace '"),
        ("reached_s\t", "", "mine: not a trace"),
        ("#> P0", "#> P0 P0.1", "mine: line 4, column 7: 'P0.1' should look like P3"),
        ("E0.0 C0.0", "C0.0", "mine: x: C0.0 needs E0.0, which is never issued"),
        ("# staleness 0 0", "# staleness 0", "mine, line 2: expected an age a layer and slot\n    # staleness 0"),
        ("# staleness 0 0", "# staleness 0 x", "mine, line 2: expected an age"),
        ("# staleness 0 0\n", "", "mine: 0 lines of staleness for 1 steps"),
        ("1\tcompute\tS", "1\tcompute\tE", "mine, line 20: expected the span of S0.0 on the compute stream of rank 1"),
        ("1\tcompute\tS", "1\tcommunication\tS", "mine, line 20: expected the span of S0.0"),
        ("1\tcompute\tS", "0\tcompute\tS", "mine, line 20: expected the span of S0.0"),
        ("1\tcompute\tS0.0", "1\tcompute\tS0.0\t0.0", "mine, line 20: expected"),
        ("1\tcompute\tS0.0\t", "1\tcompute\tS0.0\tnan", "mine, line 20: expected"),
    ],
)
def test_what_is_no_trace_is_refused_at_its_line(old: str, new: str, why: str) -> None:
    schedule = Schedule.parse("x steps=1 layers=1\nP0\nA0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0\nF0 Z0")
    text = str(replace(traced(schedule), about={}))
    assert text.count(old) == 1
    with pytest.raises(ValueError, match="^" + re.escape(why)):
        Trace.parse(text.replace(old, new), "mine")


def test_a_trace_cut_short_is_refused() -> None:
    lines = str(traced(load_schedule("sync", 1, 1))).splitlines()
    for cut in range(len(lines) - 9):  # a whole rank less is a trace of fewer ranks
        with pytest.raises(ValueError, match="mine"):
            Trace.parse("\n".join(lines[:cut]), "mine")


# -------------------------------------------------------------------------------------------- metrics


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=9, max_size=9))
def test_exposed_is_what_a_collective_spends_beside_no_compute(times: list[tuple[int, int, int]]) -> None:
    schedule = load_schedule("sync", 1, 1)
    reached, start, end = np.array([sorted(t) for t in times]).T
    trace = Trace(schedule, "drawn", reached[None] / 1.0, start[None] / 1.0, end[None] / 1.0, np.zeros((1, 1, 2), int))
    computing, talking = np.zeros(30, bool), np.zeros(30, bool)  # second by second
    for op, r, s, e in zip(schedule.ops, reached, start, end, strict=True):
        if op.stream == "communication":
            talking[r:e] = True
        else:
            computing[s:e] = True
    assert trace.exposed_s.tolist() == [(talking & ~computing).sum()]


def test_a_rank_that_waits_for_another_is_exposed() -> None:
    schedule = load_schedule("sync", 1, 1)
    one = np.arange(9.0)
    start = np.stack([one, one])
    reached = start.copy()
    reached[1, schedule.position["C0.0"]] -= 0.75  # waits while it computes nothing, but for the end of E
    end = start + 0.5
    trace = Trace(schedule, "drawn", reached, start, end, np.zeros((1, 1, 2), int))
    assert trace.exposed_s.tolist() == [1.0, 1.5]


@given(named(), st.integers(0, 9))
def test_metrics_agree_with_each_other(schedule: Schedule, seed: int) -> None:
    trace = traced(schedule, seed=seed)
    table = {kind: (seconds, share) for kind, seconds, share in trace.table()}
    assert list(table) == [*dict.fromkeys(op.kind for op in schedule.ops), "exposed communication"]
    assert all(share == seconds / trace.makespan_s for seconds, share in table.values())
    busy = {stream: trace.busy_s(stream) for stream in ("compute", "communication")}
    for stream, kinds in [("communication", COLLECTIVES), ("compute", {*KINDS} - {*COLLECTIVES})]:
        spent = sum(seconds for kind, (seconds, _) in table.items() if kind in kinds)
        assert spent == pytest.approx(busy[stream].mean(), abs=1e-15)
    assert trace.step_s.sum() == pytest.approx(trace.makespan_s)
    assert (trace.step_s > 0).all()
    idle = trace.makespan_s - busy["compute"] - trace.exposed_s
    assert (idle >= -1e-12).all()


@given(anything())
def test_order_is_that_of_the_schedule_by_stream(schedule: Schedule) -> None:
    trace = traced(schedule)
    for stream in ("compute", "communication"):
        want = [op.name for op in schedule.ops if op.stream == stream]
        assert trace.order(0, stream) == trace.order(1, stream) == want


def test_order_is_by_start() -> None:
    trace = traced(load_schedule("sync", 1, 1))
    backwards = replace(trace, start_s=-trace.end_s, end_s=-trace.start_s)
    assert backwards.order(0, "communication") == ["C0.0", "D0.0"]


# ------------------------------------------------------------------------------------------- misshapes


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"end_s": np.zeros((2, 8))}, r"end_s should be finite, of shape \[rank, op\], not \(2, 8\)"),
        ({"reached_s": np.zeros((1, 9))}, r"reached_s should be finite"),
        ({"start_s": np.full((2, 9), np.nan)}, r"start_s should be finite"),
        ({"end_s": np.zeros((2, 9))}, r"A0\.0 on rank 0 ends before it starts"),
        ({"staleness": np.zeros((2, 1, 2), int)}, r"staleness .* \[step, layer, slot\] \(1, 1, 2\), not \(2, 1, 2\)"),
        ({"about": {"two": "lines\nof text"}}, r"about 'two': 'lines\\nof text' is not a line of text"),
    ],
)
def test_a_misshapen_trace_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(traced(load_schedule("sync", 1, 1)), **changes)
