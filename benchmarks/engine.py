"""How fast the SimPy engine is: about 90,000 op executions of DiT-MoE-XL on 8 ranks, the Trace included.

    python benchmarks/engine.py

57 steps of 28 layers with 7 ops each (A N D S E C R) and 3 ops a step: 11,343 ops on each of 8 ranks.  "with flows":
interference, and dispatch, combine and counts on communicators of their own over shared host links, even traffic;
"skewed": experts with a load of up to 1.5 times the mean, so that every flow of a transfer ends by itself; "drifting":
and a fifth of the tokens change their best expert from step to step, so that no transfer comes twice.  Writes
benchmarks/results/engine.json."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from calibration.samples import machine
from sim import MODELS, Cluster, Schedule, Workload, load_schedule, simulate
from sim.cluster import COMPUTE_KINDS, Host, Interference, Link, Rate
from sim.passes import on_communicators
from sim.router import modelled
from sim.routing import Routing
from sim.transfers.network import Network, Resource, Route

REPEATS = 7
STEPS = 57
LIMITS_S = {"first-in first-out": 0.35, "with interference": 0.6, "with flows": 2.0, "skewed flows": 2.0,
            "drifting flows": 2.0}  # fmt: skip


def with_counts(schedule: Schedule) -> Schedule:
    """The same with a count exchange before every dispatch."""
    return Schedule.parse(re.sub(r"D(\d+\.\d+)", r"N\1 D\1", str(schedule))).check()


def shared_host() -> Network:
    """Ports, bridges, hosts and sockets that only communicators in flight together make a difference to."""
    rates = {"port": Resource(22e9), "bridge": Resource(25e9, 2), "host": Resource(12e9, 4, duplex=False),
             "sockets": Resource(3e9, 4)}  # fmt: skip
    return Network(rates, (Route(2, ("port",)), Route(4, ("port", "bridge", "host")), Route(8, (*rates,))))


def cluster(factor: float) -> Cluster:
    """Eight invented GPUs; only the number of events matters here."""
    compute = {kind: Rate(1e-5, 200e12) for kind in COMPUTE_KINDS}
    slow = Interference(dict.fromkeys(COMPUTE_KINDS, factor), factor)
    return Cluster("8 invented GPUs", 8, compute, Link(2e-5, 100e9), Host(5e-6), slow)


def routed(workload: Workload, kind: str) -> Workload:
    """`workload` with the router that a kind of case asks for."""
    if kind not in ("skewed flows", "drifting flows"):
        return workload
    keep = 1.0 if kind == "skewed flows" else 0.8
    records = modelled(workload.model, workload.ranks, workload.tokens, STEPS, imbalance=1.5, keep=keep)
    return replace(workload, routing=Routing.of(records))


def main() -> None:
    workloads = {kind: routed(Workload(MODELS["XL"], ranks=8, images=16), kind) for kind in LIMITS_S}
    cases = {(name, kind): [] for name in ("sync", "displaced", "interweaved") for kind in LIMITS_S}
    schedules = {name: with_counts(load_schedule(name, steps=STEPS, layers=28)) for name, _ in cases}
    for _ in range(REPEATS):
        for (name, kind), seconds in cases.items():  # in turn, so that drift of the machine falls on all alike
            machine_, schedule = cluster(0.0 if kind == "first-in first-out" else 0.15), schedules[name]
            if kind.endswith("flows"):
                machine_, schedule = replace(machine_, link=shared_host()), on_communicators(schedule, ("N", "D", "C"))
            began = time.perf_counter()
            simulate(schedule, workloads[kind], machine_)
            seconds.append(time.perf_counter() - began)
    rows = [
        {"schedule": name, "engine": kind, "op_executions": 8 * len(schedules[name].ops), "median_s": median(seconds),
         "min_s": min(seconds), "max_s": max(seconds), "limit_s": LIMITS_S[kind]}
        for (name, kind), seconds in cases.items()
    ]  # fmt: skip
    for row in rows:
        print("{schedule:12} {engine:20} {op_executions} op executions: median {median_s:.3f} s "
              "({min_s:.3f} to {max_s:.3f}), limit {limit_s} s".format(**row))  # fmt: skip
    target = Path(__file__).parent / "results" / "engine.json"
    target.write_text(json.dumps({"meta": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
