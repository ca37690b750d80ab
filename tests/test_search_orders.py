"""Searches of orders: shifts keep a schedule what it is, and what is found only gets faster, stopped or not."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from anything import any_schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import ORDER, searched, timed, written
from typer.testing import CliRunner

from sim import Schedule, load_schedule
from sim.cli import app
from sim.search.order import KINDS, Candidate, local_search, reordered
from sim.search.run import cost_of


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
