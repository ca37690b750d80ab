"""One GPU, several logical ranks, bf16: what a run takes beside its parts, and what interweaved hides.

    python benchmarks/gpu.py            # some eight minutes on an H200; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --tiny     # a minute anywhere: only shows that it runs, and writes nothing

A synchronous step against its matrix products, attention and transfers alone (limit 1.15), with tokens a second;
interweaved against the longer of compute and communication alone (limit 1.05), and against sync where links decide
(at least 1.3 times as fast).  Each row is written as soon as it is there.  How well runs are predicted, cell by cell:
`python -m calibration compare calibration/plans/gpu-2-ranks.yaml --out out/gpu-2-ranks`, likewise 4 and 8; some
minutes each, and what was interrupted goes on.  (Written without a GPU: not run on one.)"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from prediction import overlap
from rich.console import Console
from runner import one_round

from calibration.samples import gpu_state, machine
from realrun.backend import load_backend
from realrun.run import Settings, run
from sim.load import load_schedule
from sim.models import load_model
from sim.workload import Workload

TARGET = Path(__file__).parent / "results" / "gpu.json"
DTYPE, STEPS, ROUNDS = "bfloat16", 5, 3


@dataclass(frozen=True)
class Case:
    """rates: of links, in bytes a second, from where they decide to where compute does."""

    model: str
    ranks: int
    images: int
    rates: tuple[float, ...]

    @property
    def workload(self) -> Workload:
        return Workload(load_model(self.model), self.ranks, self.images, DTYPE)


CASES = (
    Case("XL", 8, 8, (1.5e9, 6e9)),
    Case("XL", 2, 16, (3e9, 24e9)),
    Case("B", 4, 16, (3e9, 12e9)),
    Case("S", 2, 32, (5e9, 20e9)),
)
TINY = (Case("digits", 2, 1, (2e6,)),)


def rows(case: Case) -> Iterator[dict[str, Any]]:
    """The step beside its parts, then one row a rate."""
    workload, settings = case.workload, Settings(dtype=DTYPE)
    about = {"model": case.model, "ranks": case.ranks, "images": case.images}
    with load_backend("logical").start(case.ranks) as ranks:
        sync = load_schedule("sync", STEPS, workload.model.layers)
        routed = replace(workload, routing=run(sync, workload, ranks, settings).routing)
        rounds = [one_round(ranks, sync, routed, settings) for _ in range(ROUNDS)]
        step_s = median(each.step_s for each in rounds)
        yield {"what": "step", **about, "step_s": step_s, "ratio": median(each.ratio for each in rounds),
               "tokens_per_s": case.ranks * workload.tokens / step_s, "rounds": [asdict(each) for each in rounds],
               "clock_hz_and_temperature_c": gpu_state()}  # fmt: skip
        for rate in case.rates:
            found = overlap(ranks, rate, workload, DTYPE, STEPS, ROUNDS)
            yield {"what": "overlap", **about, **found, "clock_hz_and_temperature_c": gpu_state()}


def main(tiny: bool) -> None:
    console, made, meta = Console(), list[dict[str, Any]](), machine()
    for case in TINY if tiny else CASES:
        for row in rows(case):
            console.print({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items() if key != "rounds"})
            made.append(row)
            if not tiny:
                TARGET.write_text(json.dumps({"meta": meta, "rows": made}, indent=1) + "\n")
        torch.cuda.empty_cache()  # of the ranks before; nothing where there is no GPU


if __name__ == "__main__":
    if "--tiny" in sys.argv or torch.cuda.is_available():
        main("--tiny" in sys.argv)
    else:
        print("benchmarks/gpu.py: there is no GPU here, and nothing was measured (--tiny shows that it runs)")
