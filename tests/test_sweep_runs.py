"""Sweeps that run: a folder that holds each point once, whatever happens; who does the work; the commands."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import pandas as pd
import pytest
from command_line import called
from sweeps import SMALL, Make

from sim.sweeps.point import Sources
from sim.sweeps.points import Chunk, Points, row_keys
from sim.sweeps.provenance import version
from sim.sweeps.rows import rows_of
from sim.sweeps.run import run_sweep
from sim.sweeps.store import Store, opened, part_bytes
from sim.sweeps.workers import Workers, client_of

# ------------------------------------------------------------------------------------------------- the folder


MADE: dict[str, Any] = {"digest": "d", "version": "v", "points": 18, "changes": []}


def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder).sort_values("key").reset_index(drop=True)


def test_what_is_missing_is_done_and_nothing_twice(make: Make, tmp_path: Path) -> None:
    points = Points(make(SMALL))
    with opened(tmp_path / "whole", SMALL, MADE, {}) as store:
        run_sweep(points, store, Workers(processes=0))
    with opened(tmp_path / "parts", SMALL, MADE, {}) as store:
        for first, last in [(2, 4), (15, 18)]:
            store.write(first, last, part_bytes(rows_of(points.chunk(first, last), points.sweep.sources)))
        assert store.missing(18) == [(0, 2), (4, 15)]
        done: list[int] = []
        run_sweep(points, store, Workers(processes=0), done.append)
        assert sum(done) == 13
        assert store.missing(18) == []
    pd.testing.assert_frame_equal(frame(tmp_path / "whole"), frame(tmp_path / "parts"))
    assert len(frame(tmp_path / "parts")) == 18


def test_dask_workers_write_what_this_process_would(make: Make, tmp_path: Path) -> None:
    points = Points(make(SMALL))
    for folder, workers in [("here", Workers(processes=0)), ("there", Workers(processes=2))]:
        with opened(tmp_path / folder, SMALL, MADE, {}) as store:
            run_sweep(points, store, workers)
    pd.testing.assert_frame_equal(frame(tmp_path / "here"), frame(tmp_path / "there"))


def test_a_fault_of_ours_is_told_in_its_row_and_does_not_stop_the_rest(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Points(make(SMALL))

    def faulty(chunk: Chunk, sources: Sources) -> Any:
        if 7 in range(chunk.first, chunk.last):
            raise KeyError("seven")
        return rows_of(chunk, sources)

    monkeypatch.setattr("sim.sweeps.run.rows_of", faulty)
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        run_sweep(points, store, Workers(processes=0))
    rows = frame(tmp_path / "f")
    assert len(rows) == 18
    assert rows["error"].dropna().tolist() == ["fault: KeyError: 'seven'"]
    [key] = row_keys(points.chunk(7, 8), points.sweep.sources)
    assert rows.loc[rows["error"].notna(), "key"].tolist() == [key]


def test_a_scheduler_that_goes_away_ends_the_run_and_loses_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.sweeps.workers.PATIENCE", "1s")
    text = SMALL.replace("steps: 3", "steps: 30").replace("images: [1, 2]", "seed: {low: 0, high: 59, count: 60}")
    points = Points(make(text))
    made = MADE | {"points": len(points)}
    machine = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    done: list[int] = []

    def tell(count: int) -> None:
        done.append(count)
        machine.close()

    with opened(tmp_path / "f", SMALL, made, {}) as store:
        with pytest.raises(ConnectionError, match="the same command goes on"):
            run_sweep(points, store, Workers(scheduler=machine.scheduler_address), tell)
        rows = frame(tmp_path / "f")
        assert len(rows) == sum(done) < len(points)
        assert rows["error"].isna().all()
        assert sum(last - first for first, last in store.missing(len(points))) == len(points) - sum(done)


def test_the_same_file_runs_on_a_scheduler_and_on_slurm(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Points(make(SMALL))
    cluster = partial(distributed.LocalCluster, threads_per_worker=1, processes=False, dashboard_address=":0")

    class Slurm(distributed.LocalCluster):  # what dask-jobqueue's cluster is to those who use it
        def __init__(self) -> None:
            super().__init__(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=":0")

        def scale(self, jobs: int) -> None:
            super().scale(n=jobs)

    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=Slurm))
    with cluster(n_workers=1, protocol="tcp") as machine:
        for folder, workers in [("here", Workers(processes=0)), ("there", Workers(scheduler=machine.scheduler_address)),
                                ("slurm", Workers(slurm_jobs=2))]:  # fmt: skip
            with opened(tmp_path / folder, SMALL, MADE, {}) as store:
                run_sweep(points, store, workers)
    for folder in ("there", "slurm"):
        pd.testing.assert_frame_equal(frame(tmp_path / "here"), frame(tmp_path / folder))


def test_slurm_jobs_start_workers() -> None:
    """What dask-jobqueue would hand to sbatch; no Slurm is needed for that."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    import dask

    about = {"jobqueue.slurm.cores": 4, "jobqueue.slurm.memory": "8GB", "jobqueue.slurm.queue": "gpu"}
    with dask.config.set(about), jobqueue.SLURMCluster() as machine:
        script = machine.job_script()
    assert "#SBATCH -p gpu" in script
    assert "dask" in script


def test_slurm_that_is_not_there_or_not_set_up_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise ValueError("You must specify how many cores to use per job")

    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ValueError, match=r"pip install 'dice-sim\[slurm\]'"), client_of(Workers(slurm_jobs=1)):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=refuses))
    with (
        pytest.raises(ValueError, match="cores to use per job; say cores and memory"),
        client_of(Workers(slurm_jobs=1)),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    with opened(folder, SMALL, MADE, {"date": "1"}):
        pass
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for change, words in [({"digest": "e"}, "another sweep"), ({"version": "w"}, "another version"),
                          ({"points": 9}, "another sweep")]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{words}.*nothing was changed"), opened(folder, "x", MADE | change, {}):
            pass
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="no results of a sweep"), opened(tmp_path / "other", "x", MADE, {}):
        pass


def test_a_program_that_has_changed_since_its_commit_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[str] = []

    def git(home: Path, *words: str) -> list[str]:
        return [str(home), "0123456789abcdef"] if words[0] == "rev-parse" else changes

    monkeypatch.setattr("sim.sweeps.provenance._git", git)
    assert version().endswith("+0123456789ab")
    changes.append(" M sim/sweeps/rows.py")
    before = version()
    assert ".changed-" in before
    monkeypatch.setattr("sim.sweeps.provenance._content", lambda folder: "other")
    assert version() != before


def test_one_process_at_a_time_and_leftovers_of_a_killed_one_go(tmp_path: Path) -> None:
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        (store.folder / ".part-0000000000-0000000002.parquet.1").write_text("half")
        with pytest.raises(ValueError, match="another process is writing"), opened(store.folder, SMALL, MADE, {}):
            pass
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        assert sorted(os.listdir(store.folder)) == ["_lock", "_sweep.json", "_sweep.yaml"]
    assert len(json.loads((tmp_path / "f" / "_sweep.json").read_text())["runs"]) == 2


def test_a_damaged_part_is_taken_away_and_its_points_run_again(make: Make, tmp_path: Path) -> None:
    points = Points(make(SMALL))
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        run_sweep(points, store, Workers(processes=0))
        whole, parts = frame(store.folder), store.done()
    first, second, third = (store.path(*part) for part in parts)
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-8])
    third.write_bytes(part_bytes(rows_of(points.chunk(12, 14), points.sweep.sources)))  # fewer rows than points
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        assert store.damaged == (first, second, third)
        assert store.missing(18) == [(0, 18)]
        run_sweep(points, store, Workers(processes=0))
    pd.testing.assert_frame_equal(frame(tmp_path / "f"), whole)


def test_points_that_stand_there_twice_are_an_error(tmp_path: Path) -> None:
    with opened(tmp_path / "f", SMALL, MADE, {}) as store:
        store.write(0, 4, b"")
        store.write(2, 6, b"")
        with pytest.raises(ValueError, match="points 2 to 5 stand there twice"):
            store.missing(18)
    assert Store(tmp_path / "f").done() == [(0, 4), (2, 6)]


# ------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command line in a folder with the small sweep; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return partial(called, capsys)


def test_a_dry_run_says_how_many_how_long_how_large_and_writes_nothing(run: Callable[..., Any]) -> None:
    code, out, _ = run("sweep", "small.yaml", "--dry-run")
    assert code == 0
    assert out.startswith("18 points\n3 stretches of one list of ops each\nabout ")
    assert "B of results" in out
    assert os.listdir() == ["small.yaml"]


def test_sweep_then_the_same_command_again(run: Callable[..., Any]) -> None:
    code, out, _ = run("sweep", "small.yaml", "--workers", "0")
    assert code == 0
    assert out.startswith("out/small: 18 points, 18 of them now")
    parts = {path: path.stat().st_mtime_ns for path in Path("out/small").glob("*.parquet")}
    code, out, _ = run("sweep", "small.yaml", "--workers", "0")
    assert out.startswith("out/small: 18 points, 0 of them now")
    assert {path: path.stat().st_mtime_ns for path in Path("out/small").glob("*.parquet")} == parts
    code, _, err = run("sweep", "small.yaml", "base.steps=4", "--workers", "0")
    assert code == 2
    assert "another sweep" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "1", "--scheduler", "tcp://x:1"), "give one, not 2"),
        (("--slurm", "2"), "--slurm needs dask-jobqueue"),
        (("--scheduler", "tcp://127.0.0.1:1"), "no scheduler answers"),
    ],
)
def test_who_works_is_said_once_and_has_to_be_there(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("sim.sweeps.workers.PATIENCE", "1s")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    code, _, err = run("sweep", "small.yaml", *words)
    assert code == 2
    assert said in err
    assert not Path("out/small").exists(), "who could not begin leaves nothing behind"


def test_a_sweep_says_which_points_have_no_results(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("small.yaml").write_text(SMALL.replace("images: [1, 2]", "schedule.stride: [2, null]"))
    code, out, _ = run("sweep", "small.yaml", "--workers", "0")
    assert code == 0, "that some combinations do not go together is a result"
    assert "\n3 refused: " in out
    code, told, _ = run("results", "out/small", "--where", "error != null", "--columns", "schedule")
    assert len(told.splitlines()) == 1 + 3

    def faulty(*_: Any) -> Any:
        raise KeyError("seven")

    monkeypatch.setattr("sim.sweeps.run.rows_of", faulty)
    code, out, _ = run("sweep", "small.yaml", "--workers", "0", "--out", "other")
    assert code == 1
    assert "\n18 a fault of the program: fault: KeyError: 'seven'\n" in out


def test_a_dry_run_says_about_how_large(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL.replace("[0.5, 1, 2]", "{low: 0.5, high: 2, count: 200}")
    Path("small.yaml").write_text(text)
    _, out, _ = run("sweep", "small.yaml", "--dry-run", "--workers", "0")
    said = re.search(r"about ([0-9.]+) kB of results", out)
    assert said is not None
    run("sweep", "small.yaml", "--workers", "0")
    size = sum(part.stat().st_size for part in Path("out/small").glob("*.parquet"))
    assert float(said[1]) * 1000 == pytest.approx(size, rel=0.25)
