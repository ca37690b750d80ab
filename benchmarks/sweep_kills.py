"""A sweep whose workers and whose own process are killed, again and again, has the results of one left in peace.

    python benchmarks/sweep_kills.py [POINTS] [KILLS] [SEED]

1,000 points, 20 SIGKILLs at random: each strikes a worker or the process that drives the sweep, when a further share
of points is done; a driver is started again by the same command.  Then every point is there once, and every column is
what a sweep in one process, left in peace, says.  Writes benchmarks/results/sweep_kills.json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import psutil

from calibration.samples import machine
from sim.sweeps.store import Store

RESULTS = Path(__file__).parent / "results" / "sweep_kills.json"
ROOT = Path(__file__).parent.parent
SWEEP = """
base: {{model: tiny, steps: {steps}, cluster: cpu-2-ranks}}
axes:
  schedule: [sync, displaced, interweaved, dice]
  seed: {{low: 0, high: {last}, count: {count}}}     # each draws jitter of its own
"""


@dataclass
class Driver:
    """The command, started as often as it takes; killed: whom the kills struck."""

    folder: Path
    file: Path
    killed: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the command."""
        words = [sys.executable, "-m", "sim", "sweep", str(self.file), "--out", str(self.folder), "--workers", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def workers(self) -> list[psutil.Process]:
        """Processes that run chunks."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if _says(child, "spawn_main")]

    def kill(self, whom: str) -> bool:
        """Kills a worker or the driver; whether there was one.  A killed driver is started again."""
        assert self.process is not None
        if whom == "driver":
            orphans = self.workers()
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            psutil.wait_procs(orphans, timeout=30)
            self.start()
        else:
            found = self.workers()
            try:
                found[0].kill()
            except (IndexError, psutil.NoSuchProcess):  # between two of them
                return False
        self.killed.append(whom)
        return True


def _says(process: psutil.Process, word: str) -> bool:
    try:
        return any(word in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def harass(driver: Driver, points: int, kills: int, seed: int, pause_s: float) -> None:
    """Runs the command to its end, with `kills` kills spread over its progress, each up to pause_s late.  Raises if it
    fails by itself, or ends before it was killed so often."""
    random = Random(seed)
    whom = [random.choice(["worker", "driver"]) for _ in range(kills - 2)]
    whom = random.sample([*whom, "worker", "driver"], kills)
    driver.start()
    for n, each in enumerate(whom):
        while _done(driver.folder) < n * points * 0.7 / kills:
            _running(driver)
            time.sleep(0.05)
        time.sleep(random.uniform(0.0, pause_s))
        while not driver.kill(each):
            _running(driver)
            time.sleep(0.05)
    assert driver.process is not None
    if driver.process.wait(timeout=600):
        raise RuntimeError(f"the sweep ended with {driver.process.returncode}")


def _running(driver: Driver) -> None:
    assert driver.process is not None
    if driver.process.poll() is not None:
        raise RuntimeError(f"the sweep ended too early, with {driver.process.returncode}")


def _done(folder: Path) -> int:
    return sum(last - first for first, last in Store(folder).done()) if folder.exists() else 0


def frame(folder: Path) -> pd.DataFrame:
    """All rows, in an order that does not depend on who ran them."""
    return pd.read_parquet(folder).sort_values("key").reset_index(drop=True)


def compare(points: int, kills: int, seed: int, folder: Path, steps: int = 40, pause_s: float = 0.5) -> dict[str, Any]:
    """Runs both sweeps; says what was killed.  Raises AssertionError where results differ."""
    file = folder / "kills.yaml"
    file.write_text(SWEEP.format(steps=steps, last=points // 4 - 1, count=points // 4))
    peace = [sys.executable, "-m", "sim", "sweep", str(file), "--out", str(folder / "peace"), "--workers", "0"]
    subprocess.run(peace, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    driver, began = Driver(folder / "killed", file), time.perf_counter()
    harass(driver, points, kills, seed, pause_s)
    killed, left = frame(folder / "killed"), frame(folder / "peace")
    assert len(killed) == points == killed["key"].nunique(), "every point once"
    pd.testing.assert_frame_equal(killed, left, check_exact=True)
    assert killed["error"].isna().all()
    return {"points": points, "kills": len(driver.killed), **_count(driver.killed), "seed": seed,
            "parts": len(Store(folder / "killed").done()), "s": round(time.perf_counter() - began),
            "rows that differ from a sweep left in peace": 0}  # fmt: skip


def _count(killed: list[str]) -> dict[str, int]:
    return {f"of which {whom}s": killed.count(whom) for whom in ("worker", "driver")}


def main() -> None:
    points, kills, seed = (int(each) for each in (sys.argv[1:] + ["1000", "20", "0"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        found = compare(points, kills, seed, Path(folder))
    print(json.dumps(found, indent=1))
    if points >= 1000 and kills >= 20:
        RESULTS.write_text(json.dumps({"meta": machine(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
