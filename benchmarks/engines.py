"""How fast the vectorised engines are, and how far from the simulation: DiT-MoE-XL, 8 ranks, 50 steps, 1,024
configurations at once.

    python benchmarks/engines.py

Speed: all 1,024 configurations differ, in rates of compute, launches and links (first-in first-out), or in batch,
launches, links and interference (machines of sim/clusters).  Finding their costs counts; what follows from the schedule
alone does not, since a sweep finds it once.  Uneven ranks have one of 32 routings, the same in every step: to draw one,
or to find the costs of one that changes from step to step, takes longer than anything else.  Distance: drawn schedules,
settings, machines, batches and (uneven ranks) routings, each simulated as well.  Writes
benchmarks/results/engines.json."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from calibration.samples import machine
from sim import MODELS, Cluster, Routing, Schedule, Workload, load_schedule, simulate
from sim.cluster import COMPUTE_KINDS, Host, Interference, Link, Rate
from sim.transfers.network import Network
from sim.vectorised.evaluate import FEW, Evaluator

REPEATS, AT_ONCE, DRAWN = 3, 1024, {"uneven ranks, with interference": 200}  # 40 of the other kinds
MODEL, RANKS, STEPS = MODELS["XL"], 8, 50
PRESETS = ("8x-rtx4090", "8x-l40s", "8x-a100", "8x-h100", "8x-b200")
SETTINGS = ("sync", "displaced", "interweaved", "dice", "overlap", "cached", "interweaved stride=5",
            "displaced warm_up=4", "interweaved conditional=low", "sync counts=ahead", "sync counts=blocking",
            "dice synchronous=staggered", "interweaved pieces=1 warm_up=2 cool_down=3")  # fmt: skip


def first_in_first_out(random: Random) -> tuple[Workload, Cluster]:
    """Invented GPUs, no two alike."""
    compute = {kind: Rate(random.uniform(5e-6, 2e-5), random.uniform(1e14, 4e14)) for kind in COMPUTE_KINDS}
    host = Host(random.uniform(1e-6, 8e-6), random.uniform(5e-6, 3e-5))
    link = Link(random.uniform(1e-5, 3e-5), 10 ** random.uniform(10, 11.5))
    return Workload(MODEL, RANKS, 16), Cluster("invented", RANKS, compute, link, host)


def slowed(random: Random) -> tuple[Workload, Cluster]:
    """A machine by name, its links, host and interference varied."""
    base = Cluster.load(random.choice(PRESETS))
    assert isinstance(base.link, Network)
    wider = random.choice([0.25, 0.5, 1.0, 2.0, 4.0])
    rates = {name: replace(r, bytes_per_s=r.bytes_per_s * wider) for name, r in base.link.resources.items()}
    factors = Interference(dict.fromkeys(COMPUTE_KINDS, random.uniform(0.05, 0.5)), random.uniform(0.05, 0.5))
    host = replace(base.host, launch_s=random.uniform(1e-6, 1e-5), priority=random.random() < 0.3)
    link = replace(base.link, resources=rates)
    return Workload(MODEL, RANKS, random.choice([1, 4, 16, 32])), replace(
        base, link=link, host=host, interference=factors
    )


def uneven(random: Random) -> tuple[Workload, Cluster]:
    """The same machines, where some experts are liked more than others, by some ranks more than by others."""
    work, cluster = slowed(random)
    steps, imbalance = random.choice([1, STEPS]), random.choice([1.1, 1.3, 1.6, 2.5])
    seed, keep = random.randrange(100), random.choice([0.8, 0.9, 1.0]) if steps > 1 else 1.0
    routing = Routing.skewed(MODEL, RANKS, work.tokens, steps, imbalance=imbalance, keep=keep, seed=seed)
    return replace(work, routing=routing), cluster


def routed(random: Random, known: dict[tuple[int, int], Routing]) -> tuple[Workload, Cluster]:
    """The same machines, one of eight routings for every batch."""
    work, cluster = slowed(random)
    key = work.images, random.randrange(8)
    if key not in known:
        imbalance = [1.1, 1.3, 1.6, 2.5][key[1] % 4]
        known[key] = Routing.skewed(MODEL, RANKS, work.tokens, 1, imbalance=imbalance, seed=key[1])
    return replace(work, routing=known[key]), cluster


def schedule_of(source: str) -> Schedule:
    name, *settings = source.split()
    return load_schedule(name, STEPS, MODEL.layers, **dict(setting.split("=") for setting in settings))


def shared(configs: list[tuple[Workload, Cluster]]) -> tuple[list[Workload], list[Cluster]]:
    """Equal workloads, computes and links are the same objects, as in any sweep."""
    known: dict[object, object] = {}
    works = [known.setdefault((work.images, id(work.routing)), work) for work, _ in configs]
    links = [known.setdefault(repr(c.link), c.link) for _, c in configs]
    computes = [known.setdefault(repr(c.compute), c.compute) for _, c in configs]
    clusters = [replace(c, link=k, compute=g) for (_, c), k, g in zip(configs, links, computes, strict=True)]
    return works, clusters  # type: ignore[return-value]


def speed(kind: str, draw: Callable[[Random], tuple[Workload, Cluster]], source: str) -> dict[str, object]:
    """Configurations a second, best of REPEATS."""
    random, evaluator = Random(0), Evaluator(schedule_of(source))
    works, clusters = shared([draw(random) for _ in range(AT_ONCE)])
    evaluator.evaluate(works[:8], clusters[:8])
    seconds, cpu = [], []
    for _ in range(REPEATS):
        began, used = time.perf_counter(), time.process_time()
        found = evaluator.evaluate(works, clusters)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    return {"schedule": source, "configurations": kind, "engine": sorted({*found.engine}),
            "ops": len(evaluator.schedule.ops), "per_s": AT_ONCE / min(seconds),
            "per_cpu_s": AT_ONCE / min(cpu)}  # fmt: skip


def distance(draw: Callable[[Random], tuple[Workload, Cluster]], seed: int) -> tuple[str, float, float]:
    """(case, relative error of the makespan, seconds that the simulation took)."""
    random = Random(seed)
    source = random.choice(SETTINGS)
    schedule, (work, cluster) = schedule_of(source), draw(random)
    found = Evaluator(schedule).evaluate([work] * FEW, [cluster] * FEW)
    began = time.perf_counter()
    simulated = simulate(schedule, work, cluster).makespan_s
    took = time.perf_counter() - began
    return (
        f"{source}, {cluster.name}, {work.images} images: {found.engine[0]}",
        found.makespan_s[0] / simulated - 1,
        took,
    )


def main() -> None:
    kinds = {"first-in first-out": first_in_first_out, "with interference": slowed}
    drawn_of = {**kinds, "uneven ranks, with interference": uneven}
    kinds["uneven ranks, with interference"] = partial(routed, known={})
    rows = [
        speed(kind, draw, source)
        for kind, draw in kinds.items()
        for source in ("sync", "displaced", "interweaved", "dice")
    ]
    for row in rows:
        print("{configurations:32} {schedule:12} {per_s:8.0f} a second, {per_cpu_s:8.0f} a CPU second".format(**row))
    distances = {}
    for kind, draw in drawn_of.items():
        drawn = [distance(draw, seed) for seed in range(DRAWN.get(kind, 40))]
        off = np.abs([error for _, error, _ in drawn])
        distances[kind] = {"drawn": len(drawn), "equal": int((off == 0).sum()), "mean": off.mean(), "worst": off.max(),
                           "worst_case": drawn[int(off.argmax())][0],
                           "simulation_median_s": float(np.median([took for *_, took in drawn]))}  # fmt: skip
        print(kind, distances[kind])
    target = Path(__file__).parent / "results" / "engines.json"
    target.write_text(json.dumps({"meta": machine(), "speed": rows, "distance": distances}, indent=1) + "\n")


if __name__ == "__main__":
    main()
