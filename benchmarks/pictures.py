"""How long it takes until `import sim` is done, a large timeline is drawn, and a large trace is written.

    python benchmarks/pictures.py

Timeline: 90,744 spans (57 steps of 28 layers with counts, 8 ranks), drawn and saved.  Trace: a run of DiT-MoE-XL with
50 steps on 8 ranks, as one JSON file for ui.perfetto.dev, without and with counters in bytes.  Seconds of processor
time (one thread works, so that an idle machine takes as long), best of several, since others use the machine.  Writes
benchmarks/results/pictures.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from calibration.samples import machine
from sim import MODELS, Cluster, Schedule, Workload, load_schedule, simulate
from sim.perfetto import write_perfetto
from sim.timeline import draw_timeline, save_figure
from sim.trace import Trace

REPEATS = 5
LIMITS_S = {"import sim": 0.3, "timeline": 5.0, "trace": 3.0}
WORK = Workload(MODELS["XL"], ranks=8, images=16)
IMPORT = "import time; t = time.process_time(); import sim; print(time.process_time() - t)"


def imported_s() -> float:
    """Processor seconds of `import sim` in a process of its own."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout)


def with_counts(schedule: Schedule) -> Schedule:
    """The same with a count exchange before every dispatch, as benchmarks/engine.py has it."""
    return Schedule.parse(re.sub(r"D(\d+\.\d+)", r"N\1 D\1", str(schedule))).check()


def seconds_of(work: Callable[..., object], *args: object) -> list[float]:
    """Processor seconds that `work` takes, each time."""
    took = []
    for _ in range(REPEATS):
        began = time.process_time()
        work(*args)
        took.append(time.process_time() - began)
    return took


def draw(trace: Trace, path: Path) -> None:
    """From trace to file."""
    save_figure(draw_timeline([trace]), path)


def measured(folder: Path) -> Iterator[tuple[str, str, int, list[float]]]:
    """(limit that holds, what, spans, seconds of each repeat)"""
    cluster = Cluster.load("8x-h100")
    yield "import sim", "in a new process", 0, [imported_s() for _ in range(REPEATS)]
    large = simulate(with_counts(load_schedule("sync", steps=57, layers=28)), WORK, cluster)
    for ending in ("png", "svg", "pdf"):
        yield "timeline", f"as {ending}", large.start_s.size, seconds_of(draw, large, folder / f"a.{ending}")
    for name in ("interweaved", "overlap"):
        run = simulate(load_schedule(name, steps=50, layers=28), WORK, cluster)
        for what, work in (("without bytes", None), ("with bytes", [WORK])):
            took = seconds_of(write_perfetto, [run], folder / "a.json", None, work)
            yield "trace", f"{name}, {what}", run.start_s.size, took


def main() -> None:
    rows = []
    with TemporaryDirectory() as folder:
        for kind, case, spans, took in measured(Path(folder)):
            rows.append({"what": kind, "case": case, "spans": spans, "best_s": min(took), "worst_s": max(took),
                         "limit_s": LIMITS_S[kind]})  # fmt: skip
            print(
                "{what}, {case} ({spans} spans): {best_s:.3f} to {worst_s:.3f} s, limit {limit_s} s".format(**rows[-1])
            )
    target = Path(__file__).parent / "results" / "pictures.json"
    target.write_text(json.dumps({"meta": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
