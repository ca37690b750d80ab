"""Whether a rank's experts run faster as one grouped matrix product than one after the other, on a processor.

    python benchmarks/grouped.py

One product of every expert, its rows already in their order, one thread, processor time, the best of several; the loop
has to put its outputs together.  Writes benchmarks/results/grouped.json.  The runner keeps the loop on a processor
unless this says otherwise."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

from calibration.samples import machine

ROOT = Path(__file__).parent.parent
CASES = [
    (256, 1024, 4, 2048),
    (384, 1536, 4, 4096),
    (64, 256, 4, 512),
    (64, 256, 8, 64),
]  # hidden, inner, experts, rows
REPEATS = 25


def least_s(*works: Callable[[], object]) -> list[float]:
    """Processor time of each, the least of REPEATS in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(REPEATS + 1):
        for mine, work in zip(times, works, strict=True):
            began_s = time.thread_time()
            work()
            mine.append(time.thread_time() - began_s)
    return [min(mine[1:]) for mine in times]


def compare(hidden: int, inner: int, experts: int, rows: int, dtype: torch.dtype) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    rows_RD = torch.randn(rows, hidden, generator=generator).to(dtype)
    weight_EDI = torch.randn(experts, hidden, inner, generator=generator).to(dtype)
    share = torch.rand(experts, generator=generator) + 0.3
    counts = torch.multinomial(share, rows, replacement=True, generator=generator).bincount(minlength=experts)
    ends, groups = counts.cumsum(0).int(), torch.split(rows_RD, counts.tolist())
    single = [weight.T.contiguous() for weight in weight_EDI]
    loop_s, grouped_s = least_s(
        lambda: torch.cat([F.linear(*pair) for pair in zip(groups, single, strict=True)]),
        lambda: F.grouped_mm(rows_RD, weight_EDI, offs=ends),
    )
    about = {"hidden": hidden, "inner": inner, "experts": experts, "rows": rows, "dtype": str(dtype)}
    return {**about, "loop_s": loop_s, "grouped_s": grouped_s, "grouped_over_loop": grouped_s / loop_s}


def main() -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = [compare(*case, dtype) for case in CASES for dtype in (torch.float32, torch.bfloat16)]
    for row in found:
        Console().print({key: round(v, 6) if isinstance(v, float) else v for key, v in row.items()})
    target = ROOT / "benchmarks" / "results" / "grouped.json"
    target.write_text(json.dumps({"meta": machine(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
