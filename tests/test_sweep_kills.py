"""Workers and drivers die; points do not get lost, and one that kills its worker does not stop the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.sweep_kills import compare
from sim.sweeps.failures import KILLED, failure_lines
from sim.sweeps.file import read_sweep
from sim.sweeps.points import Points
from sim.sweeps.run import again_killed, run_sweep
from sim.sweeps.store import opened
from sim.sweeps.workers import Workers

DEADLY = """
import multiprocessing, os, signal
from sim.load import load_schedule

def make(steps, layers, deadly=0):
    if deadly and multiprocessing.parent_process() is not None:      # in a worker, not where the sweep is read
        os.kill(os.getpid(), signal.SIGKILL)
    return load_schedule("sync", steps, layers)
"""


@pytest.mark.timeout(240)
def test_killed_workers_and_drivers_lose_nothing(tmp_path: Path) -> None:
    found = compare(points=400, kills=4, seed=3, folder=tmp_path, steps=30, pause_s=0.05)
    assert found["kills"] == found["of which workers"] + found["of which drivers"] == 4
    assert min(found["of which workers"], found["of which drivers"]) >= 1


@pytest.mark.timeout(240)
def test_a_point_that_always_kills_its_worker_is_reported_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deadly.py").write_text(DEADLY)
    text = """
base: {model: tiny, steps: 2, cluster: cpu-2-ranks, images: 1}
axes: {schedule: ["deadly.py:make", "deadly.py:make deadly=1", sync, displaced]}
"""
    Path("s.yaml").write_text(text)
    points = Points(read_sweep("s.yaml"))
    made = {"digest": "d", "version": "v", "points": len(points), "changes": []}
    done: list[int] = []
    with opened(tmp_path / "out", text, made, {}) as store:
        run_sweep(points, store, Workers(processes=2))
        again_killed(store)
        assert len(store.missing(4)) == 1, "the same command tries it again"
        run_sweep(points, store, Workers(processes=1), done.append)
    assert done == [1]
    rows = pd.read_parquet(tmp_path / "out").set_index("schedule")
    assert len(rows) == 4
    assert rows.loc["deadly.py:make deadly=1", "error"] == KILLED
    assert [*failure_lines(rows["error"])] == [f"1 not run: {KILLED}"]
    others = rows.drop("deadly.py:make deadly=1")
    assert others["error"].isna().all()
    assert (others["makespan_s"] > 0).all()
