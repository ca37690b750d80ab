"""How well microbenchmarks predict whole runs, and whether interweaved hides what it can: 2 ranks, real compute.

    python benchmarks/prediction.py

The demo's workload at three link rates, in five rounds of measuring, predicting and running; no run is used for a fit.
Writes samples, clusters and results to calibration/data/cpu-2-ranks (`make readme` puts them into the README), and to
benchmarks/results/overlap.json makespans against the longer of compute and communication, each timed alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from calibration.cells import record_routing, speed_up
from calibration.demo import Plan, demo
from calibration.measure import time_alone
from calibration.samples import machine
from realrun.ranks import Ranks

ROOT = Path(__file__).parent.parent
PLAN = Plan(steps=20, rates=(15e6, 30e6, 80e6), rounds=5)


def overlap(console: Console, cells: list) -> list[dict[str, object]]:  # type: ignore[type-arg]
    rows = []
    with Ranks(PLAN.workload.ranks, PLAN.timeout_s) as ranks:
        for cell in (c for c in cells if c.schedule.name == "interweaved"):
            settings = replace(PLAN.settings, link_bytes_per_s=cell.link_bytes_per_s)
            routed = replace(PLAN.workload, routing=record_routing(ranks, PLAN.workload, settings, cell.schedule))
            compute_s, communication_s = time_alone(ranks, cell.schedule, routed, settings)
            row = {
                "schedule": cell.schedule.name, "link_bytes_per_s": cell.link_bytes_per_s, "compute_alone_s": compute_s,
                "communication_alone_s": communication_s, "makespan_s": cell.measured_s,
                "over_bound": cell.measured_s / max(compute_s, communication_s),
                "speed_up_over_sync": speed_up(cells, cell)[1],
            }  # fmt: skip
            rows.append(row)
            console.print({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()})
    return rows


def main() -> None:
    console = Console()
    cells = demo(PLAN, ROOT / "calibration" / "data" / "cpu-2-ranks", console)
    rows = overlap(console, cells)
    target = ROOT / "benchmarks" / "results" / "overlap.json"
    target.write_text(json.dumps({"meta": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
