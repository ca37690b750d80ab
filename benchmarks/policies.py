"""What policies of conditional communication cost in images, at equal rows sent: `python benchmarks/policies.py`.

The images are of random weights (nothing was trained), and their distance is that to the synchronous sample of the same
noise, relative to its size: it tells policies apart, not how much of an image is lost.  Each policy is run at several
settings; what it costs at a given share of rows is interpolated between them, seed by seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from calibration import samples
from realrun.ranks import Ranks
from realrun.run import Run, Settings, run
from sim.load import load_schedule
from sim.output import whole_file
from sim.schedule import Schedule
from sim.workload import ModelShape, Workload

SHAPE = ModelShape("small", layers=6, hidden=128, heads=4, experts=8, latent=16, classes=10)
STEPS, SEEDS = 20, range(5)
FIXED = ("low", "high", "random")  # interval 2: three quarters of the rows
SETTINGS = {
    "threshold": [(t, m) for m in (2, 3, 4, 6) for t in (0.2, 0.25, 0.3, 0.4, 0.5)],
    "debt": [(t, 6) for t in (0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.2)],
}
SHARES = (0.4, 0.5, 0.6, 0.7)
Points = dict[str, dict[int, tuple[float, float]]]  # setting -> seed -> (share of rows sent, distance)
RESULTS = Path(__file__).parent / "results" / "policies.json"


def main() -> None:
    """Runs everything, and writes results with machine and command."""
    specs = {f"{name} threshold={t} interval={m}": name for name, some in SETTINGS.items() for t, m in some}
    specs |= {f"{name} interval=2": name for name in FIXED}
    points: Points = {spec: {} for spec in specs}
    workload = Workload(SHAPE, ranks=1, images=8, wire="float32")
    console = Console(stderr=True)
    with Ranks(1, timeout_s=60) as ranks:
        for seed in track(SEEDS, "running every policy", console=console, disable=not console.is_terminal):
            exact = run(load_schedule("sync", STEPS, SHAPE.layers), workload, ranks, Settings(seed))
            for spec in specs:
                plan = load_schedule(f"interweaved conditional={spec}", STEPS, SHAPE.layers)
                made = run(plan, workload, ranks, Settings(seed))
                points[spec][seed] = share_sent(plan, workload, made), distance(made, exact)
    found = {"meta": samples.machine(), "weights": "random", "points": rounded(points), "at_share": compared(points)}
    with whole_file(RESULTS) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["at_share"], indent=1))


def share_sent(plan: Schedule, workload: Workload, made: Run) -> float:
    """Rows sent, of those that the same schedule without a policy would."""
    heads = [op for op in plan.ops if op.kind == "D"]
    if plan.policy is None:
        return sum(len(plan.slots_sent(op)) for op in heads) / (plan.top_k * len(heads))
    routed = Workload(workload.model, 1, workload.images, workload.wire, made.routing).fits(plan)
    assert routed.routing is not None
    return float(routed.routing.counts.sum()) / (plan.top_k * len(heads) * workload.tokens)


def distance(made: Run, exact: Run) -> float:
    """Root mean square of the difference of latents, over that of the exact ones."""
    return float(((made.final - exact.final) ** 2).mean().sqrt() / (exact.final**2).mean().sqrt())


def compared(points: Points) -> dict[str, dict[str, float]]:
    """Share of rows -> distance by policy (mean over seeds), and debt over threshold with its 95 % interval."""
    table = {}
    for share in SHARES:
        at = {name: np.array([best_at(points, name, seed, share) for seed in SEEDS]) for name in SETTINGS}
        ratio = at["debt"] / at["threshold"]
        drawn = np.random.default_rng(0).choice(ratio, size=(10_000, len(ratio))).mean(axis=1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        means = {name: round(float(far.mean()), 4) for name, far in at.items()}
        ratios = {"ratio": ratio.mean(), "ratio_low": low, "ratio_high": high}
        table[f"{share}"] = means | {key: round(float(value), 3) for key, value in ratios.items()}
    return table | {name: fixed(points, name) for name in FIXED}


def best_at(points: Points, name: str, seed: int, share: float) -> float:
    """The least distance of a policy at `share` of the rows, of all its intervals, between the thresholds tried."""
    best = float("inf")
    for interval in {m for _, m in SETTINGS[name]}:
        mine = [points[f"{name} threshold={t} interval={m}"][seed] for t, m in SETTINGS[name] if m == interval]
        shares, distances = zip(*sorted(mine), strict=True)
        if shares[0] <= share <= shares[-1]:
            best = min(best, float(np.interp(share, shares, distances)))
    return best


def fixed(points: Points, name: str) -> dict[str, float]:
    """Share and distance of a choice of slots that has no threshold, mean over seeds."""
    share, far = np.mean([*points[f"{name} interval=2"].values()], axis=0)
    return {"share": round(float(share), 3), "distance": round(float(far), 4)}


def rounded(points: Points) -> dict[str, list[list[float]]]:
    """[seed] [share, distance] of every setting."""
    return {
        spec: [[round(value, 5) for value in pair] for pair in by_seed.values()] for spec, by_seed in points.items()
    }


if __name__ == "__main__":
    main()
