"""A million points on this machine: how long, how much memory, how large, and how much of it is not the engine.

    python benchmarks/sweep_million.py [POINTS ["with interference" | "first-in first-out"]]

DiT-MoE-XL, 50 steps, 8 ranks: four schedules, four batches, and a machine of its own for every point (rates and
latencies of links, host, interference; Sobol).  Once with interference (lockstep engine), once first-in first-out
(recurrence).  Time is the command's, from its start to the last part, and what all its processes spent on the two
cores, which others may have shared; memory is the most that it and its workers have
at once (proportional set size).  Overhead is processor time of a chunk beside the engine's walk, over that walk, when
caches are warm.  Writes benchmarks/results/sweep_million.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import pandas as pd
import psutil

from calibration.samples import machine
from sim.sweeps.file import read_sweep
from sim.sweeps.points import Points
from sim.sweeps.rows import rows_of
from sim.sweeps.run import MOST_POINTS
from sim.sweeps.store import part_bytes
from sim.vectorised import engines

RESULTS = Path(__file__).parent / "results" / "sweep_million.json"
ROOT = Path(__file__).parent.parent
MACHINES = {
    "with interference": "  times.cluster.interference.multiprocessors: {low: 0.1, high: 2}\n",
    "first-in first-out": "",
}
SWEEP = """
base: {{model: XL, steps: 50, cluster: 8x-h100{calm}}}
axes:
  schedule: [sync, displaced, interweaved, dice]
  images: [4, 8, 16, 32]
  times.cluster.link.resources.port.bytes_per_s: {{low: 0.05, high: 2, scale: log}}
  times.cluster.link.resources.port.latency_s: {{low: 0.5, high: 5, scale: log}}
  times.cluster.host.launch_s: {{low: 0.5, high: 2, scale: log}}
{more}plan: {{kind: sobol, points: {points}}}
"""
CALM = (
    ", cluster.interference.communication: 0, 'cluster.interference.compute.*': 0, "
    "cluster.interference.multiprocessors: 0, cluster.host.priority: true"
)


def text_of(what: str, points: int) -> str:
    """The sweep's file."""
    calm = CALM if what == "first-in first-out" else ""
    return SWEEP.format(calm=calm, more=MACHINES[what], points=points)


def measured(file: Path, out: Path) -> tuple[float, float, float]:
    """Seconds of the command, processor seconds of it and its workers, and the most bytes that they had at once."""
    words = [sys.executable, "-m", "sim", "sweep", str(file), "--out", str(out)]
    began, most, before = time.perf_counter(), 0.0, getrusage(RUSAGE_CHILDREN)
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            most = max(most, _held(process.pid))
            time.sleep(0.5)
        if process.returncode:
            raise RuntimeError(f"the sweep ended with {process.returncode}")
    after = getrusage(RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, spent, most


def _held(pid: int) -> float:
    try:
        mine = psutil.Process(pid)
        return float(sum(each.memory_full_info().pss for each in (mine, *mine.children(recursive=True))))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0


@contextmanager
def engine_clock() -> Iterator[list[float]]:
    """Processor seconds in the engines' walks, while it is open: their first entry."""
    spent, kept, inside = [0.0], [], [False]

    def clocked(function: Any) -> Any:
        def inner(*arguments: Any, **named: Any) -> Any:
            if inside[0]:  # a walk that walks some again
                return function(*arguments, **named)
            inside[0], began = True, time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[0] += time.process_time() - began
                inside[0] = False

        return inner

    walks: list[Any] = [engines.Recurrence, engines.Lockstep]
    for walk in walks:
        for name in ("__init__", "makespans"):
            kept.append((walk, name, getattr(walk, name)))
            setattr(walk, name, clocked(getattr(walk, name)))
    try:
        yield spent
    finally:
        for walk, name, function in kept:
            setattr(walk, name, function)


def overhead(file: Path) -> dict[str, float]:
    """Of chunks in the middle of each list of ops: microseconds a point, and what is not the engine over the engine."""
    sweep = read_sweep(file)
    points, whole_s, engine_s, count = Points(sweep), 0.0, 0.0, 0
    for first in points.borders[:-1]:
        for chunk in (points.chunk(first + n * MOST_POINTS, first + (n + 1) * MOST_POINTS) for n in range(2)):
            with engine_clock() as spent:
                began = time.process_time()
                part_bytes(rows_of(chunk, sweep.sources))
                took = time.process_time() - began
            if chunk.first > first:  # the first fills caches
                whole_s, engine_s, count = whole_s + took, engine_s + spent[0], count + len(chunk)
    return {"us of processor time a point": round(whole_s / count * 1e6, 1),
            "of which the engine": round(engine_s / count * 1e6, 1),
            "overhead over the engine": round(whole_s / engine_s - 1, 3)}  # fmt: skip


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found |= {"meta": machine(), "points": points}
    for what in sys.argv[2:] or MACHINES:
        found[what] = one(what, points)
        print(json.dumps({what: found[what]}, indent=1), flush=True)
        if points >= 1_000_000:
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def one(what: str, points: int) -> dict[str, Any]:
    """The sweep on machines of one sort.  Raises AssertionError if a point is missing, there twice, or refused."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "million.yaml", Path(folder) / "out"
        file.write_text(text_of(what, points))
        load = os.getloadavg()[0]
        seconds, spent, most = measured(file, out)
        rows = pd.read_parquet(out, columns=["key", "engine", "error", "makespan_s"])
        assert len(rows) == rows["key"].nunique() == points
        assert rows["error"].isna().all()
        size = sum(part.stat().st_size for part in out.glob("*.parquet"))
        return {"s": round(seconds, 1), "processor s of all processes": round(spent, 1),
                "load of the machine before": round(load, 1), "most GiB at once": round(most / 2**30, 2),
                "MB of results": round(size / 1e6, 1), "engine": ", ".join(rows["engine"].unique()),
                **overhead(file)}  # fmt: skip


if __name__ == "__main__":
    main()
