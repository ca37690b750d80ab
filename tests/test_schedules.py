"""The named schedules against the published ages and buffers, and against their rules told a second time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cases import named
from hypothesis import given
from hypothesis import strategies as st

from sim.schedule import Schedule, ScheduleError
from sim.schedules import SCHEDULES, load_schedule

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "warm_up"), [("sync", None), ("displaced", 1), ("interweaved", 1)])
def test_golden_text(name: str, warm_up: int | None) -> None:
    assert str(load_schedule(name, 5, 3, warm_up=warm_up)) == (GOLDEN / f"{name}.txt").read_text()


# Measured on the authors' code (Cobalt-27/DICE 292938d), 10 steps; F, a forced synchronous step, is age 0.
@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize(
    ("name", "warm_up", "ages"),
    [
        ("sync", None, "F F F F F F F F F F"),
        ("displaced", 0, "F 1 2 2 2 2 2 2 2 2"),
        ("displaced", 2, "F F F 1 2 2 2 2 2 2"),
        ("interweaved", 0, "F 1 1 1 1 1 1 1 1 1"),
        ("interweaved", 2, "F F F 1 1 1 1 1 1 1"),
    ],
)
def test_ages_are_those_measured_on_the_authors_code(name: str, warm_up: int | None, ages: str, layers: int) -> None:
    want = [[[0 if age == "F" else int(age)] * 2] * layers for age in ages.split()]
    assert load_schedule(name, 10, layers, warm_up=warm_up).staleness() == want


def test_a_ring_of_one_layer_degenerates_to_displaced() -> None:
    assert load_schedule("interweaved", 10, 1, warm_up=1).ops == load_schedule("displaced", 10, 1, warm_up=1).ops


def ages_by_the_rules(name: str, steps: int, layers: int, warm_up: int) -> list[list[int]]:
    """Ages [step][layer], by moving rows as the published method says, with no op in sight.

    received[l]: the step of the rows that lie with layer l's experts; returned[l]: of the outputs that came back."""
    received, returned = [0] * layers, [0] * layers
    ages = []
    for s in range(steps):
        ages.append([0] * layers)
        for l in range(layers):  # noqa: E741
            if name == "sync" or s <= warm_up:
                received[l] = returned[l] = s
            ages[s][l] = s - returned[l]  # add what came back
            runs = l if name == "displaced" else (l - 1) % layers  # the layer whose experts run inside layer l
            returned[runs] = received[runs]
            received[l] = s  # send X(s, l)
    return ages


@given(st.sampled_from([*SCHEDULES]), st.integers(1, 8), st.integers(1, 6), st.integers(0, 7), st.integers(1, 3))
def test_ages_are_those_of_the_rules(name: str, steps: int, layers: int, warm_up: int, top_k: int) -> None:
    warm_up = min(warm_up, steps - 1)
    settings = {} if name == "sync" else {"warm_up": warm_up}
    rules = ages_by_the_rules(name, steps, layers, warm_up)
    ages = load_schedule(name, steps, layers, top_k=top_k, **settings).staleness()
    assert ages == [[[age] * top_k for age in step] for step in rules]


def received(schedule: Schedule, step: int) -> Counter[str]:
    """How many received buffers of each kind live on from `step` into the next, a slot."""
    return Counter(b.what for b in schedule.persistent(step) if b.slot == 0 and b.what.startswith("received"))


@pytest.mark.parametrize("layers", [2, 3, 7])
def test_interweaved_keeps_exactly_half_of_what_displaced_keeps(layers: int) -> None:
    schedules = {name: load_schedule(name, 8, layers) for name in SCHEDULES}
    for step in (3, 4):  # the steady state: past the ramp, before the end
        assert schedules["sync"].persistent(step) == []
        assert received(schedules["displaced"], step) == {"received dispatch": layers, "received combine": layers}
        assert received(schedules["interweaved"], step) == {"received dispatch": 1, "received combine": layers - 1}


@given(named())
def test_every_slot_that_is_dispatched_is_added_somewhere(schedule: Schedule) -> None:
    adds = [op for op in schedule.ops if op.kind == "R"]
    added = {(step, op.layer, slot) for op in adds for slot, step in enumerate(schedule.steps_read(op))}
    sends = [op for op in schedule.ops if op.kind == "D"]
    assert Counter((op.step, op.layer, slot) for op in sends for slot in schedule.slots_sent(op)) == Counter(added)


@given(named())
def test_every_step_and_layer_adds_and_shares_once(schedule: Schedule) -> None:
    for kind in "ASR":
        cells = [(op.step, op.layer) for op in schedule.ops if op.kind == kind]
        assert cells == [(s, l) for s in range(schedule.steps) for l in range(schedule.layers)]  # noqa: E741


# -------------------------------------------------------------------------------------------- loading


def test_a_file_needs_no_size_and_is_the_schedule_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(str(load_schedule("interweaved", 4, 2)))
    assert load_schedule(str(file)) == load_schedule(str(file), 4, 2) == load_schedule("interweaved", 4, 2)


@pytest.mark.parametrize(
    ("source", "settings", "why"),
    [
        ("nothing", {}, r"unknown schedule 'nothing': neither a file nor one of sync, displaced, interweaved"),
        ("sync", {}, r"sync: say how many steps and layers"),
        ("sync", {"steps": 5, "layers": 0}, r"sync: layers=0 should be at least 1"),
        ("sync", {"steps": 5, "layers": 3, "warm_up": 1}, r"sync has no setting warm_up"),
        ("displaced", {"steps": 5, "layers": 3, "warm_up": -1}, r"displaced: warm_up=-1 should be at least 0"),
        ("displaced", {"steps": 5, "layers": 3, "warm_up": 5}, r"displaced: warm_up=5 should be less than steps=5"),
        ("interweaved", {"steps": 5, "layers": 1, "top_k": 0}, r"top_k=0 should be at least 1"),
    ],
)
def test_what_names_no_schedule_is_refused(source: str, settings: dict[str, int], why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        load_schedule(source, **settings)


@pytest.mark.parametrize(
    ("content", "settings", "why"),
    [
        (b"x steps=1 layers=1\nP0 A0", {}, r"bad\.txt: line 2, column 4: 'A0' should look like A3\.1"),
        (b"x steps=1 layers=1\nP0", {}, r"bad\.txt: x: the schedule ends without Z0"),
        (b"\xff\xfe", {}, r"bad\.txt: cannot be read as text"),
        (str(load_schedule("sync", 2, 1)).encode(), {"steps": 5}, r"with steps=2, but steps=5 was asked for"),
        (str(load_schedule("sync", 2, 1)).encode(), {"warm_up": 1}, r"no warm_up, but warm_up=1 was asked for"),
    ],
)
def test_a_file_that_says_otherwise_is_refused(
    tmp_path: Path, content: bytes, settings: dict[str, int], why: str
) -> None:
    file = tmp_path / "bad.txt"
    file.write_bytes(content)
    with pytest.raises(ScheduleError, match=why):
        load_schedule(str(file), **settings)
