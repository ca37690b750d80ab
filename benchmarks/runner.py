"""The runner against the limit: a synchronous step beside its matrix products, attention and transfers, timed alone.

    python benchmarks/runner.py

Two ranks, one thread each: width 384, depth 8, 8 experts, batch 4, 256 tokens, guidance, loopback without a limit.
What is timed alone has the very shapes of the run, rows of every expert included, on both ranks at once; each round
times the parts, then a run, and ratios are taken within a round.  Writes benchmarks/results/runner.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from calibration.on_ranks import replay_on_rank
from calibration.samples import machine
from realrun.backend import Pool
from realrun.lanes import Device
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.run import DTYPES, Settings, run
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.workload import ModelShape, Workload

ROOT = Path(__file__).parent.parent
SHAPE = ModelShape("S-depth-8", layers=8, hidden=384, heads=6, experts=8)
WORKLOAD = Workload(SHAPE, ranks=2, images=4, wire="float32")
STEPS, ROUNDS, REPEATS = 2, 11, 2
LIMIT = 1.15


@dataclass(frozen=True)
class Round:
    """Seconds a step, of the slower rank."""

    step_s: float
    products_s: float
    transfers_s: float

    @property
    def ratio(self) -> float:
        return self.step_s / (self.products_s + self.transfers_s)


def products(shape: ModelShape, tokens: int, rows: list[list[int]], like: Tensor) -> Iterator[Callable[[], object]]:
    """Every matrix product and attention of one step on one rank; rows [layer][expert] of its own experts.

    like: whose type and device are those of the run."""
    randn = partial(torch.randn, dtype=like.dtype, device=like.device)
    width, images, heads = shape.hidden, tokens // shape.tokens, shape.heads
    inner, shared = shape.expert_inner, shape.shared_inner
    x_ND, c_BD = randn(tokens, width), randn(images, width)
    q_BATG = randn(images, heads, shape.tokens, width // heads)
    weight = {size: randn(size) for size in [(3 * width, width), (width, width), (6 * width, width),
              (shape.experts, width), (shared, width), (width, shared), (inner, width), (width, inner)]}  # fmt: skip
    for layer in rows:
        yield lambda: F.linear(c_BD, weight[6 * width, width])
        yield lambda: F.linear(x_ND, weight[3 * width, width])
        yield lambda: F.scaled_dot_product_attention(q_BATG, q_BATG, q_BATG)
        yield lambda: F.linear(x_ND, weight[width, width])
        yield lambda: F.linear(x_ND, weight[shape.experts, width])
        for count, wide in [(tokens, shared), *((count, inner) for count in layer)]:
            rows_RD, rows_RI = randn(count, width), randn(count, wide)
            for _ in range(2):
                yield lambda rows_RD=rows_RD, wide=wide: F.linear(rows_RD, weight[wide, width])
            yield lambda rows_RI=rows_RI, wide=wide: F.linear(rows_RI, weight[width, wide])


def time_products(
    context: RankContext, shape: ModelShape, tokens: int, rows: list[list[list[int]]], dtype: str = "float32"
) -> float:
    """Seconds of all products of a step, the best of REPEATS each (on a GPU: of REPEATS times all of them, one behind
    the other); rows [rank][layer][expert]."""
    like, total_s = torch.empty(0, dtype=DTYPES[dtype], device=context.device), 0.0
    with torch.inference_mode():
        if like.is_cuda:
            return _time_in_a_row(context.lanes, [*products(shape, tokens, rows[context.rank], like)])
        for product in products(shape, tokens, rows[context.rank], like):
            times = []
            for _ in range(REPEATS + 1):
                began_s = time.perf_counter()
                product()
                times.append(time.perf_counter() - began_s)
            total_s += median(times[1:])
    return total_s


def _time_in_a_row(lanes: Device, work: Sequence[Callable[[], object]]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        lanes.align()
        began = lanes.here()
        for each in work:
            each()
        ended = lanes.here()
        lanes.finish()
        times.append(ended.at_s() - began.at_s())
    return median(times[1:])


def one_round(ranks: Pool, schedule: Schedule, routed: Workload, settings: Settings) -> Round:
    """Parts, then a run; the first step warms up."""
    counts = routed.fits(schedule).routing.counts[-1].sum(axis=(1, 2, 3))  # type: ignore[union-attr]  # [layer, expert]
    rows = [[[int(n) for n in layer[rank :: ranks.world]] for layer in counts] for rank in range(ranks.world)]
    products_s = max(ranks.call(time_products, routed.model, routed.tokens, rows, settings.dtype))
    spans = ranks.call(replay_on_rank, schedule, routed, settings)
    transfers_s = max(end for _, end in spans) - max(start for start, _ in spans)
    step_s = run(schedule, replace(routed, routing=None), ranks, settings).trace.step_s[1:]
    return Round(float(median(step_s)), products_s, transfers_s / schedule.steps)


def main() -> None:
    schedule = load_schedule("sync", STEPS, SHAPE.layers)
    with Ranks(WORKLOAD.ranks) as ranks:
        routed = replace(WORKLOAD, routing=run(schedule, WORKLOAD, ranks, Settings()).routing)
        rounds = [one_round(ranks, schedule, routed, Settings()) for _ in range(ROUNDS)]
    ratio = median(each.ratio for each in rounds)
    step_s = median(each.step_s for each in rounds)
    tokens_per_s = WORKLOAD.ranks * WORKLOAD.tokens / step_s
    made = {"meta": machine(), "limit": LIMIT, "ratio": ratio, "step_s": step_s, "tokens_per_s": tokens_per_s,
            "rounds": [{**asdict(each), "ratio": each.ratio} for each in rounds]}  # fmt: skip
    (ROOT / "benchmarks" / "results" / "runner.json").write_text(json.dumps(made, indent=1) + "\n")
    Console().print(
        f"a step takes {ratio:.3f} times its parts (limit {LIMIT}); {step_s:.2f} s, "
        f"{tokens_per_s:,.0f} tokens a second (both guidance halves, both ranks)"
    )
    for each in rounds:
        Console().print(
            f"  step {each.step_s:.3f} s, products {each.products_s:.3f} s, transfers {each.transfers_s:.3f} s"
        )


if __name__ == "__main__":
    main()
