"""Schedules, workloads and clusters that several tests need: the named, the hand-written, and any at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import numpy as np
from anything import in_any_order
from hypothesis import strategies as st

from sim.cluster import COMPUTE_KINDS, Cluster, Host, Interference, Link, Rate
from sim.load import load_schedule
from sim.routing import Routing
from sim.schedule import Op, Schedule
from sim.schedules import SCHEDULES
from sim.workload import ModelShape, Workload

TWO_MICRO_BATCHES = """
# The second half's experts run while the first half's outputs travel.
halves steps=2 layers=2 top_k=2 micro_batches=2
P0
A0.0a N0.0a! D0.0a A0.0b D0.0b S0.0a E0.0a C0.0a S0.0b E0.0b C0.0b R0.0a<0 R0.0b<0
A0.1a D0.1a A0.1b D0.1b S0.1a E0.1a C0.1a S0.1b E0.1b C0.1b R0.1a<0 R0.1b<0
F0 Z0
P1
A1.0a A1.0b D1.0b S1.0a R1.0a<0 S1.0b E1.0b C1.0b R1.0b<1   # half a reads what it has: feature caching
A1.1a D1.1a A1.1b D1.1b S1.1a E1.1a C1.1a S1.1b E1.1b C1.1b R1.1a<1 R1.1b<1@0
F1 Z1
"""

CONDITIONAL = """
conditional steps=3 layers=2 top_k=2     # the second-best expert travels every second step
P0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0
   A0.1 N0.1 D0.1 S0.1 E0.1 C0.1 R0.1<0 F0 Z0
P1 A1.0 D1.0:0 S1.0 R1.0<0
   A1.1 D1.1:0 S1.1 E1.0 C1.0 R1.1<0@1 F1 Z1
P2 A2.0 S2.0 E1.1 C1.1 R2.0<1,0
   A2.1 S2.1 R2.1<1,0@2 F2 Z2
"""

BY_HAND = [Schedule.parse(TWO_MICRO_BATCHES), Schedule.parse(CONDITIONAL)]


SKIPPING: list[dict[str, Any]] = [
    {},
    {"conditional": "low"},
    {"conditional": "high", "interval": 3},
    {"intervals": "1,3"},
    {"intervals": "2,2"},
    {"cached": 2, "cached_layers": "deep"},
]
DECIDING: list[dict[str, Any]] = [
    {"conditional": "random", "seed": 3},
    {"conditional": "threshold", "threshold": 0.2, "interval": 3},
    {"conditional": "debt", "threshold": 0.4, "always": 1},
]


@st.composite
def named(draw: st.DrawFn, most_steps: int = 7, most_layers: int = 5, deciding: bool = False) -> Schedule:
    """A schedule that has a name, of any size, with any settings; with policies only if `deciding`."""
    name, steps, layers = draw(st.sampled_from([*SCHEDULES])), draw(st.integers(1, most_steps)), draw(
        st.integers(1, most_layers))  # fmt: skip
    stale = name in ("displaced", "interweaved", "dice", "dice_released")
    settings: dict[str, Any] = {}
    if stale:
        settings |= {"warm_up": draw(st.integers(0, steps - 1)), "cool_down": draw(st.integers(0, steps))}
        settings |= draw(st.sampled_from([{}, {"stride": draw(st.integers(1, steps))}, {"forced": f"{steps - 1}"}]))
        settings |= draw(st.sampled_from([{}, {"synchronous": "shallow"}, {"synchronous": "staggered"}]))
        settings |= draw(st.sampled_from([{}, {"weights": "current"}]))
    if name in ("sync", "displaced", "interweaved", "overlap", "data_parallel", "distrifusion"):
        settings |= draw(st.sampled_from([*SKIPPING, *(DECIDING if deciding else [])]))
    if name in ("sync", "displaced", "interweaved", "dice", "cached"):
        settings |= draw(st.sampled_from([{}, {"counts": "ahead"}, {"counts": "blocking"}]))
        settings |= draw(st.sampled_from([{}, {"pieces": 2}, {"micro_batches": 2}, {"patches": "stale"}]))
    elif not settings and name != "cached":
        settings |= {"top_k": draw(st.integers(1 if name in ("overlap", "data_parallel") else 2, 3))}
    return load_schedule(name, steps, layers, **settings)


@st.composite
def anything(draw: st.DrawFn) -> Schedule:
    """Random reads, slots, weights, counts, waits and micro-batches, in any possible order; tests/anything.py draws
    all that the notation can write."""
    random = Random(draw(st.integers(0, 2**32)))
    steps, layers, top_k, halves = (random.randint(1, most) for most in (4, 3, 2, 2))
    empty = Schedule("anything", steps, layers, (), top_k, halves)
    ops = [Op(kind, step) for kind in "PFZ" for step in range(steps)]
    sent: dict[tuple[int, int, str], set[int]] = defaultdict(set)
    for s, l, part in product(range(steps), range(layers), empty.parts):  # noqa: E741
        reads = tuple(random.randint(max(0, s - 2), s) for _ in range(top_k))
        weights = random.choice([None, *range(s + 1)])
        ops += [Op("A", s, l, part), Op("S", s, l, part), Op("R", s, l, part, reads=reads, weights=weights)]
        for slot, step in enumerate(reads):
            sent[step, l, part].add(slot)
    for (s, l, part), slots in sent.items():  # noqa: E741
        carried = tuple(sorted(slots)) if len(slots) < top_k else ()
        ops += [Op("D", s, l, part, slots=carried), Op("E", s, l, part), Op("C", s, l, part)]
        ops += [Op("N", s, l, part)] * random.choice([0, 0, 1])
    waiting = tuple(op._replace(blocks=random.random() < 0.1) for op in ops)
    return in_any_order(replace(empty, ops=waiting), random)


def model(schedule: Schedule, **changes: Any) -> ModelShape:
    """A small network that `schedule` fits."""
    return ModelShape("small", **{"layers": schedule.layers, "top_k": schedule.top_k, "hidden": 16, "heads": 2,
                                  "experts": 8, "latent": 8, **changes})  # fmt: skip


def skewed(schedule: Schedule, workload: Workload, seed: int) -> Routing:
    """Every rank, step, layer and slot likes experts of its own."""
    random, model, parts = np.random.default_rng(seed), workload.model, schedule.micro_batches
    shape = (schedule.steps, model.layers, parts, model.top_k, workload.ranks)
    likes = random.dirichlet(np.full(model.experts, 0.5), size=shape)
    return Routing(random.multinomial(workload.tokens // parts, likes))


def cluster(ranks: int = 2, **changes: Any) -> Cluster:
    """A machine on which every kind of op takes about as long as the others."""
    rates = {kind: Rate(1e-6 * (i + 1), 1e12) for i, kind in enumerate(COMPUTE_KINDS)}
    return replace(Cluster("test", ranks, rates, Link(3e-6, 5e9)), **changes)


@st.composite
def machines(draw: st.DrawFn, ranks: int, bursts: bool = False) -> Cluster:
    """Any machine without interference, and unless asked for without a link that saves up."""
    latency_s, bytes_per_s = draw(st.floats(0, 1e-4)), draw(st.floats(1e6, 1e11))
    scope, buffered = draw(st.sampled_from(["pair", "port"])), draw(st.booleans())
    burst_bytes = draw(st.floats(0, 1e5)) if bursts else 0.0
    return cluster(
        ranks,
        link=Link(latency_s, bytes_per_s, scope, 1e-6, burst_bytes, buffered),
        host=Host(*(draw(st.sampled_from([0.0, 3e-7, 2e-5])) for _ in range(3)), draw(st.booleans())),
    )


def interfering(machine: Cluster, compute: float, communication: float) -> Cluster:
    """The same machine, with one factor for all kinds of compute op."""
    return replace(machine, interference=Interference(dict.fromkeys(COMPUTE_KINDS, compute), communication))
