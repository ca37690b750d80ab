"""Where staleness pays: latency beside what needs none, and how far images move: `python benchmarks/staleness.py`.

Latency is simulated on machines by name (of which some are inferred: sim/clusters).  Distance is that of real runs with
random weights, on one rank, to the synchronous sample of the same noise, relative to its size, over five seeds: it
orders methods, and does not say how much of a trained model's image is lost.  Writes results and docs/staleness.md's
tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from calibration import samples
from realrun.ranks import Ranks
from realrun.run import Settings, run
from sim.cluster import Cluster
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.output import whole_file
from sim.rivals import Rival, rivals
from sim.workload import MODELS, ModelShape, Workload

ASKED = ("displaced", "interweaved", "dice", "examples/turns.py")
CASES = [("XL", 16, "8x-rtx4090"), ("G", 8, "8x-rtx4090"), ("XL", 16, "8x-l40s"), ("XL", 16, "8x-h100")]
STEPS = 50
SHAPE = ModelShape("small", layers=6, hidden=128, heads=4, experts=8, latent=16, classes=10)
SEEDS, SMALL_STEPS = range(5), 20
MOVED = ("displaced", "interweaved", "interweaved synchronous=deep", "dice", "sync conditional=low", "cached",
         "cached cached=3", "examples/turns.py", "overlap")  # fmt: skip
ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "staleness.json", ROOT / "docs" / "staleness.md"


def main() -> None:
    """Simulates, runs, and writes results and page."""
    found: dict[str, Any] = {"meta": samples.machine(), "latency": latency(), "distance": distance()}
    with whole_file(RESULTS) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    renew(found)


def latency() -> list[dict[str, Any]]:
    """A table for each case: a row a rival."""
    console = Console(stderr=True)
    tables = []
    for model, images, name in track(CASES, "simulating", console=console, disable=not console.is_terminal):
        machine = Cluster.load(name)
        workload = Workload(MODELS[model], machine.ranks, images)
        assert isinstance(machine.compute, Gpu)
        limit = machine.compute.memory_bytes
        rows = [row(rival, limit) for rival in rivals(ASKED, STEPS, workload, machine)]
        tables.append({"model": model, "images": images, "cluster": name, "rows": rows})
    return tables


def row(rival: Rival, memory_bytes: float) -> dict[str, Any]:
    """What the page says of a rival."""
    return {"name": rival.name.replace("examples/", ""), "sort": rival.why.replace("examples/", ""),
            "steps": rival.trace.schedule.steps,
            "makespan_s": round(rival.trace.makespan_s, 4), "mean_age": round(rival.mean_age, 2),
            "memory_GB": round(rival.memory.peak_bytes / 1e9, 2), "fits": rival.memory.fits(memory_bytes)}  # fmt: skip


def distance() -> list[dict[str, Any]]:
    """A row a schedule: mean distance to the synchronous sample over seeds, and its 95 % interval (bootstrap)."""
    workload, console = Workload(SHAPE, 1, 8, "float32"), Console(stderr=True)
    far: dict[str, list[float]] = {}
    with Ranks(1, timeout_s=60) as ranks:
        for seed in track(SEEDS, "running", console=console, disable=not console.is_terminal):
            exact = run(load_schedule("sync", SMALL_STEPS, SHAPE.layers), workload, ranks, Settings(seed)).final
            fewer = [("sync", steps) for steps in (15, 10)]
            for source, steps in [*((source, SMALL_STEPS) for source in MOVED), *fewer]:
                made = run(load_schedule(source, steps, SHAPE.layers), workload, ranks, Settings(seed)).final
                moved = float(((made - exact) ** 2).mean().sqrt() / (exact**2).mean().sqrt())
                name = source if steps == SMALL_STEPS else f"{source}, {steps} of {SMALL_STEPS} steps"
                far.setdefault(name.replace("examples/", ""), []).append(moved)
    return [{"name": name, **interval(each), "seeds": [round(x, 5) for x in each]} for name, each in far.items()]


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % interval."""
    drawn = np.random.default_rng(0).choice(values, size=(10_000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": round(float(np.mean(values)), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def renew(found: dict[str, Any]) -> None:
    """Puts the tables between the markers of the page."""
    text = PAGE.read_text()
    for name, table in tables(found).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert marked.search(text), f"{PAGE} has no <!-- {name} -->"
        text = marked.sub(lambda m, table=table: m[1] + table + m[2], text)  # type: ignore[misc]
    with whole_file(PAGE) as part:
        part.write_text(text)


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Marker -> markdown."""
    parts = []
    for case in found["latency"]:
        base = case["rows"][0]["makespan_s"]
        head = f"\n**{case['model']}, {case['images']} images a rank, {case['cluster']}**\n\n"
        rows = [[r["name"], r["sort"], f"{r['makespan_s']:.2f}", f"{base / r['makespan_s']:.2f}", str(r["mean_age"]),
                 f"{r['memory_GB']}" + ("" if r["fits"] else " (does not fit)")] for r in case["rows"]]  # fmt: skip
        parts.append(head + markdown(["schedule", "sort", "seconds", "speed-up", "mean age", "GB"], rows))
    meta = found["meta"]
    made = f"\n({meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`)\n"
    far = [[r["name"], f"{r['mean']:.4f}", f"{r['low']:.4f} to {r['high']:.4f}"] for r in found["distance"]]
    return {"latency": "".join(parts), "distance": "\n" + markdown(["schedule", "distance", "95 %"], far) + made}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows]) + "\n"


if __name__ == "__main__":
    main()
