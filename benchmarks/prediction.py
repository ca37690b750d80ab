"""Whether interweaved hides what it can: makespans against the longer of compute and communication, each timed alone.

    python benchmarks/prediction.py

Two ranks with real compute, three link rates.  Writes benchmarks/results/overlap.json.  (How well whole runs are
predicted: `python -m calibration compare calibration/plans/cpu-2-ranks.yaml`.)"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console

from calibration.measure import time_alone
from calibration.samples import machine
from realrun.backend import Pool
from realrun.ranks import Ranks
from realrun.run import Settings, run
from sim.load import load_schedule
from sim.workload import MODELS, Workload

ROOT = Path(__file__).parent.parent
WORKLOAD = Workload(MODELS["tiny"], ranks=2, images=4, wire="float32")
RATES, STEPS, ROUNDS = (15e6, 30e6, 80e6), 20, 5


def overlap(
    ranks: Pool, rate: float, workload: Workload = WORKLOAD, dtype: str = "float32", steps: int = STEPS,
    repeats: int = ROUNDS,
) -> dict[str, object]:  # fmt: skip
    """Medians of some runs of sync and interweaved, and of the two bounds, at one rate."""
    settings = Settings(dtype=dtype, link_bytes_per_s=rate)
    sync, interweaved = (load_schedule(name, steps, workload.model.layers) for name in ("sync", "interweaved"))
    routed = replace(workload, routing=run(interweaved, workload, ranks, Settings(dtype=dtype)).routing)
    rounds = []
    for _ in range(repeats):
        alone = time_alone(ranks, interweaved, routed, settings)
        made = [run(schedule, workload, ranks, settings).trace.makespan_s for schedule in (sync, interweaved)]
        rounds.append((*alone, *made))
    return {
        "schedule": "interweaved", "link_bytes_per_s": rate, "rounds": repeats,
        "compute_alone_s": median(c for c, *_ in rounds), "communication_alone_s": median(t for _, t, *_ in rounds),
        "makespan_s": median(m for *_, m in rounds), "over_bound": median(m / max(c, t) for c, t, _, m in rounds),
        "speed_up_over_sync": median(s / m for *_, s, m in rounds),
    }  # fmt: skip


def main() -> None:
    console, rows = Console(), []
    with Ranks(WORKLOAD.ranks) as ranks:
        for rate in RATES:
            rows.append(overlap(ranks, rate))
            console.print({key: round(v, 3) if isinstance(v, float) else v for key, v in rows[-1].items()})
    target = ROOT / "benchmarks" / "results" / "overlap.json"
    target.write_text(json.dumps({"meta": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
