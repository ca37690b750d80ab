"""Questions to results: filters, order, fronts, comparison, export, and one point again."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import called
from hypothesis import given
from hypothesis import strategies as st

from sim.cli import main
from sim.sweeps.results import chosen, comparison_lines, export, front, lacking_lines, pareto, read_results
from sim.sweeps.store import Store
from sim.trace import Trace

SWEEP = """
base: {model: tiny, steps: 3, cluster: cpu-2-ranks}
axes:
  schedule: [sync, displaced, dice, overlap]
  images: [1, 2, 4]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a small sweep."""
    where = tmp_path_factory.mktemp("results")
    (where / "s.yaml").write_text(SWEEP)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(where / "s.yaml"), "--out", str(where / "out"), "--workers", "0"])
    assert not ended.value.code
    return where / "out"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return partial(called, capsys, "results")


def test_pandas_reads_the_folder_in_one_line(folder: Path) -> None:
    table = pd.read_parquet(folder)
    assert len(table) == 12
    assert table["key"].nunique() == 12
    assert {"schedule", "images", "makespan_s", "mean_age_steps", "memory_bytes", "engine"} <= {*table.columns}


def test_rows_are_chosen_and_sorted(folder: Path) -> None:
    table = read_results(folder)
    some = chosen(table, ["images > 1", "schedule in ('sync', 'dice')"], ["-images", "makespan_s"], 3)
    assert some["images"].tolist() == [4, 4, 2]
    assert some["makespan_s"].is_monotonic_increasing or some["images"].nunique() > 1
    assert some["makespan_s"].iloc[0] < some["makespan_s"].iloc[1]
    with pytest.raises(ValueError, match="there is no column speed; there are key"):
        chosen(table, [], ["speed"], None)
    with pytest.raises(ValueError, match="there is no speed"):
        chosen(table, ["speed > 1"], [], None)


def brute_front(costs: np.ndarray) -> set[int]:
    return {i for i, mine in enumerate(costs)
            if not any((other <= mine).all() and (other < mine).any() for other in costs)}  # fmt: skip


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=40))
def test_a_front_is_what_nothing_beats(costs: list[tuple[int, int, int]]) -> None:
    array = np.array(costs, dtype=float)
    assert {*front(array).tolist()} == brute_front(array)


def test_the_front_of_many_is_that_of_all_pairs() -> None:
    costs = np.random.default_rng(0).integers(0, 60, (20_000, 3)).astype(float)
    found = front(costs)
    beaten = np.zeros(len(costs), bool)
    for best in costs[found]:
        assert not ((costs <= best).all(axis=1) & (costs < best).any(axis=1)).any()
        beaten |= (costs >= best).all(axis=1) & (costs > best).any(axis=1)
    assert {*found.tolist()} == {*np.flatnonzero(~beaten).tolist()}


def test_pareto_takes_directions_and_leaves_out_what_was_refused() -> None:
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0, 0.0], "b": [1.0, 2.0, 2.0, np.nan], "c": list("wxyz")})
    assert pareto(table, ["a", "-b"])["c"].tolist() == ["w", "x"]
    assert pareto(table, ["a", "b"])["c"].tolist() == ["w"]
    with pytest.raises(ValueError, match="column c has no numbers"):
        pareto(table, ["a", "c"])


def test_an_export_replaces_no_file_and_is_not_taken_for_rows(folder: Path, run: Callable[..., Any]) -> None:
    Path("mine.csv").write_text("mine")
    code, _, err = run(folder, "--export", "mine.csv")
    assert (code, Path("mine.csv").read_text()) == (2, "mine")
    assert "mine.csv: is there already, and is not written over; give another name, or remove it first" in err
    code, _, err = run(folder, "--export", folder / "best.parquet")
    assert code == 2
    assert "are read as rows of the sweep; say another folder" in err
    assert len(read_results(folder)) == 12


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_exports_hold_every_number(folder: Path, tmp_path: Path, suffix: str) -> None:
    table, path = read_results(folder), tmp_path / f"x{suffix}"
    export(table, path)
    read = {".csv": pd.read_csv, ".json": pd.read_json, ".parquet": pd.read_parquet}[suffix](path)
    assert read["schedule"].tolist() == table["schedule"].tolist()
    np.testing.assert_allclose(read["makespan_s"], table["makespan_s"], rtol=1e-14)
    with pytest.raises(ValueError, match=r"should end in one of \.csv"):
        export(table, tmp_path / "x.txt")


def test_the_command_tells_what_there_is(folder: Path, run: Callable[..., Any]) -> None:
    code, out, _ = run(folder)
    assert code == 0
    assert out.startswith("12 of 12 points, by version ")
    assert "12 by lockstep" in out
    code, out, _ = run(folder, "--pareto", "makespan_s,mean_age_steps", "--where", "images == 4")
    fastest = chosen(read_results(folder), ["images == 4"], ["makespan_s"], 1).iloc[0]
    assert code == 0
    assert fastest["key"] in out
    assert "images" not in out.splitlines()[0].split()  # all have as many
    code, out, _ = run(folder, "--sort", "-makespan_s", "--head", "2", "--columns", "schedule,makespan_s")
    assert [line.split()[0] for line in out.splitlines()] == ["schedule", "overlap", "sync"] or len(
        out.splitlines()
    ) == 3


def test_two_sweeps_are_compared_point_by_point(folder: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    for part in changed.glob("*.parquet"):
        table = pd.read_parquet(part)
        table.loc[table["schedule"] == "dice", "makespan_s"] *= 1.25
        table[table["schedule"] != "displaced"].to_parquet(part, index=False)
    code, out, _ = run(changed, "--against", folder)
    assert code == 0
    assert [line.split(" ")[0] for line in out.splitlines()[:2]] == [f"{changed}:", f"{folder}:"]
    assert "9 points in both, 0 only here, 3 only there" in out
    assert out.count("+25.000%") == 4  # the most in the table, and three points
    code, out, _ = run(folder, "--against", folder)
    assert "+0.000%" in out
    assert not [line for line in out.splitlines() if line.split()[-1:] == ["change"]], "no table of points that differ"
    code, out, _ = run(folder, "--against", folder, "--where", "images == 4")
    assert "4 points in both, 0 only here, 0 only there" in out


def test_sweeps_without_a_common_point_are_told_why(folder: Path) -> None:
    table = read_results(folder)
    other = table.assign(key=table["key"] + "x", cluster="8x-a100", steps=[4, None] * 6)
    assert comparison_lines(table, other) == [
        "0 points in both, 12 only here, 12 only there",
        "steps differs in all: 3 here, 4.0, nan there",
        "cluster differs in all: cpu-2-ranks here, 8x-a100 there",
    ]


def test_a_front_says_which_rows_it_cannot_rank(folder: Path, run: Callable[..., Any]) -> None:
    code, out, err = run(folder, "--pareto", "makespan_s,quality")
    assert (code, out) == (0, "no row is left\n")
    assert err == "12 rows are left out, which have no quality\n"
    table = read_results(folder)
    table.loc[table["schedule"] == "dice", "exposed_s"] = np.nan
    [line] = lacking_lines(table, ["makespan_s", "exposed_s"])
    assert line == "3 rows are left out, which have no exposed_s (engine lockstep)"


def test_a_damaged_part_is_named(folder: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = sorted(tmp_path.glob("*.parquet"))[1]
    broken.write_bytes(b"")
    code, _, err = run(tmp_path)
    assert code == 2
    assert f"{broken} is damaged; the sweep's command runs its points again" in err


def test_parts_say_what_made_them(folder: Path) -> None:
    manifest = Store(folder).manifest()
    for part in folder.glob("*.parquet"):
        made = json.loads(pq.read_schema(part).metadata[b"dice-sim"])
        assert (made["digest"], made["version"]) == (manifest["digest"], manifest["version"])
        assert made["date"] == manifest["runs"][0]["date"]
        assert {"host", "system", "python", "numpy", "simpy", "command"} <= {*made}


def test_a_point_runs_again_with_a_trace(folder: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    row = read_results(folder).iloc[5]
    code, out, err = run(folder, "--rerun", row["key"], "--save", "x.trace")
    assert (code, err) == (0, "")
    trace = Trace.load("x.trace")
    assert trace.makespan_s == pytest.approx(row["makespan_s"], rel=1e-6)
    assert trace.schedule.name == row["schedule"]
    assert trace.about["images"] == str(row["images"])
    assert f"in the results: {float(row['makespan_s'])!r} s by lockstep; now {trace.makespan_s!r} s" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rerun", "0123"), "no row has the key 0123"),
        (("--save", "x.trace"), "--save has no effect without --rerun"),
        (("--where", "images >"), "cannot be read"),
        (("--columns", "key,speed"), "there is no column speed"),
        (("--pareto", "schedule"), "has no numbers"),
        (("--pareto", ""), "there is no column"),
        (("--export", "x.doc"), "should end in one of"),
        (("--rerun", "0123", "--where", "images == 4"), "--where has no effect beside --rerun"),
        (("--against", "elsewhere", "--head", "3"), "--head has no effect beside --against"),
        (("--export", "x.csv", "--against", "elsewhere"), "--against has no effect beside --export"),
        (("--where", "schedule < 3"), "does with texts what only numbers can: schedule holds texts"),
    ],
)
def test_questions_that_make_no_sense_are_refused(
    folder: Path, run: Callable[..., Any], words: tuple[str, ...], said: str
) -> None:
    code, _, err = run(folder, *words)
    assert code == 2
    assert said in err


def test_nothing_that_is_left_is_said(folder: Path, run: Callable[..., Any]) -> None:
    assert run(folder, "--where", "images < 0")[:2] == (0, "no row is left\n")


@pytest.mark.parametrize(("text", "said"), [("{}", "lacks digest"), ("[]", "holds no table"), ("{", "Expecting")])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, run: Callable[..., Any], text: str, said: str) -> None:
    (tmp_path / "_sweep.json").write_text(text)
    code, _, err = run(tmp_path)
    assert code == 2
    assert "no results of a sweep" in err
    assert said in err


def test_a_folder_without_results_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    code, _, err = run(tmp_path)
    assert code == 2
    assert "no results of a sweep" in err
