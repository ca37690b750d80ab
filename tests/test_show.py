"""Schedules shown and checked at the command line: what is printed is the schedule, its ages and its buffers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cases import BY_HAND, anything
from command_line import Run, mine
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.buffers import worth
from sim.describe import describe, staleness_lines
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.show import folded

GOLDEN = Path(__file__).parent / "golden"


def test_show_prints_schedule_staleness_and_buffers(run: Run) -> None:
    code, out, err = run("show interweaved --steps 5 --layers 3")
    assert (code, out, err) == (0, (GOLDEN / "show_interweaved_5_3.txt").read_text(), "")


def test_show_text_is_the_text_alone(run: Run) -> None:
    assert run("show displaced warm_up=1 top_k=3 --steps 4 --layers 2 --text") == (
        0, str(load_schedule("displaced", 4, 2, warm_up=1, top_k=3)), "",
    )  # fmt: skip


@settings(max_examples=20)
@given(anything())
def test_what_show_prints_is_the_schedule_again(schedule: Schedule) -> None:
    assert Schedule.parse(describe(schedule)) == schedule


def test_what_show_prints_can_be_shown(run: Run) -> None:
    _, out, _ = run("show interweaved --steps 4 --layers 3")
    Path("mine.txt").write_text(out)
    assert run("show mine.txt") == (0, out, "")


def half_stale(steps: int, layers: int) -> Schedule:
    """Even layers add what the step before made, so that no two neighbouring layers are equal."""

    def cell(s: int, l: int) -> str:  # noqa: E741
        chain = f"E{s}.{l} C{s}.{l}"
        late = f"R{s}.{l}<{s - 1} {chain}" if s and l % 2 == 0 else f"{chain} R{s}.{l}<{s}"
        return f"A{s}.{l} D{s}.{l} S{s}.{l} {late}"

    rows = [f"P{s} {' '.join(cell(s, layer) for layer in range(layers))} F{s} Z{s}" for s in range(steps)]
    return Schedule.parse("\n".join([f"half steps={steps} layers={layers}", *rows])).trimmed().check()


@pytest.mark.parametrize("schedule", [*(load_schedule(name, 50, 28) for name in SCHEDULES), half_stale(50, 28)])
def test_tables_of_long_runs_fit_a_terminal(schedule: Schedule) -> None:
    notes = [line for line in describe(schedule).splitlines() if line.startswith("#")]
    assert max(map(len, notes)) <= 100
    assert len(notes) < 30


def test_equal_rows_and_columns_stand_together_and_others_do_not() -> None:
    lines = staleness_lines(half_stale(9, 5))
    assert [line.split() for line in lines[1:5]] == [
        ["layer", "layer", "layer"], ["step", "0-4/2", "1", "3"], ["0", "0", "0", "0"], ["1-8", "1", "0", "0"],
    ]  # fmt: skip
    assert folded("aabca") == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert folded("abababc") == [range(0, 5, 2), range(1, 6, 2), range(6, 7)]
    assert folded([]) == []


@given(st.lists(st.integers(0, 2), max_size=12))
def test_folding_puts_every_position_with_its_equals_once(keys: list[int]) -> None:
    runs = folded(keys)
    assert sorted(i for run in runs for i in run) == [*range(len(keys))]
    assert all(len({keys[i] for i in run}) == 1 for run in runs)


def test_slots_that_differ_are_shown_apart() -> None:
    assert [line.split()[-1] for line in staleness_lines(BY_HAND[1])[2:6]] == ["0-1", "0", "1", "1,2"]


@pytest.mark.parametrize("schedule", [*BY_HAND, *(load_schedule(name, 4, 3) for name in SCHEDULES)], ids=str)
def test_buffers_shown_are_those_of_the_schedule(schedule: Schedule) -> None:
    """Every number of the table, from `persistent` and `alive`, op by op."""
    lines = describe(schedule).split("buffers:")[1].split("# rows")[0].splitlines()
    top = next(i for i, line in enumerate(lines) if line.endswith("at op"))
    rows = {step: line[2:].split() for line in lines[top + 1 :] if line != "#" for step in _steps(line[2:].split()[0])}
    names = ["received dispatch", "received combine", "expert outputs", "sent dispatch", "sent combine",
             "router weights", "keys and values"]  # fmt: skip
    position = {**schedule.position, f"P{schedule.steps}": None}
    kept = [[sum(worth(schedule, b) for b in schedule.persistent(step) if b.what == name) for name in names]
            for step in range(schedule.steps)]  # fmt: skip
    shown = [i for i, _ in enumerate(names) if any(step[i] for step in kept)]
    for step in range(schedule.steps):
        inside = range(len(schedule.ops))[position[f"P{step}"] : position[f"P{step + 1}"]]
        peaks = [[sum(worth(schedule, b) for b in schedule.alive(i) if b.what in some) for i in inside]
                 for some in (names[:3], names[:5])]  # fmt: skip
        row = [*(kept[step][i] for i in shown), sum(kept[step][:3]), *map(max, peaks)]
        assert [float(cell) for cell in rows[step][1 : len(row) + 1]] == pytest.approx(row, abs=0.005)
        if "-" not in rows[step][0]:
            assert rows[step][len(row) + 1] == schedule.ops[inside[peaks[1].index(max(peaks[1]))]].name


def _steps(span: str) -> range:
    first, _, rest = span.partition("-")
    last, _, stride = rest.partition("/")
    return range(int(first), int(last or first) + 1, int(stride or 1))


def test_show_and_check_need_neither_numpy_nor_simpy_nor_matplotlib_nor_torch() -> None:
    code = f"""
import sys
from sim.cli import main
for line in ("show sync --steps 2 --layers 2", "check {GOLDEN / "sync.txt"}"):
    try:
        main(line.split())
    except SystemExit as ended:
        assert not ended.code
print(*({{"numpy", "simpy", "matplotlib", "torch"}} & set(sys.modules)), file=sys.stderr)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "\n"


def test_check_says_one_line(run: Run) -> None:
    code, out, err = run(f"check {mine()}")
    assert (code, err) == (0, "")
    assert out == "mine.txt: mine steps=3 layers=12 top_k=2: 189 ops, in order; oldest age 1\n"


def test_check_draws_the_error(run: Run) -> None:
    path = mine()
    path.write_text(path.read_text().replace("A1.0 D1.0", "D1.0 A1.0"))
    code, out, err = run("check mine.txt")
    assert (code, out) == (2, "")
    assert err.startswith("error: mine.txt: mine: D1.0 needs A1.0, which is issued later\n")
    assert "    P1 D1.0\n       ^^^^ <-- D1.0 needs A1.0" in err
