"""Equality: real ranks compute what one process computes, add what the schedule says, and do it in its order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from realrun.ranks import Ranks
from realrun.reference import reference
from realrun.run import Run, Settings, build_model, inputs, run
from sim.cluster import COMPUTE_KINDS, Cluster, Link, Rate
from sim.engine import simulate
from sim.schedule import Schedule
from sim.schedules import SCHEDULES, load_schedule
from sim.trace import STREAMS
from sim.workload import ModelShape, Workload

SHAPE = ModelShape("tiny", layers=3, hidden=16, heads=2, experts=8, classes=10, latent=8)
SETTINGS = Settings(seed=3, dtype="float64", keep_velocity=True)

MICRO_BATCHES = """overlap steps=2 layers=2 top_k=2 micro_batches=2
P0
A0.0a D0.0a A0.0b D0.0b S0.0a E0.0a C0.0a S0.0b E0.0b C0.0b R0.0a<0 A0.1a D0.1a R0.0b<0 A0.1b D0.1b
S0.1a E0.1a C0.1a S0.1b E0.1b C0.1b R0.1a<0 R0.1b<0 F0 Z0
P1
A1.0a D1.0a S1.0a E1.0a C1.0a R1.0a<0 A1.0b D1.0b S1.0b E1.0b C1.0b R1.0b<1 A1.1a S1.1a R1.1a<0 A1.1b D1.1b S1.1b E1.1b
C1.1b R1.1b<1 F1 Z1
""".replace("A1.0a D1.0a S1.0a E1.0a C1.0a R1.0a<0", "A1.0a S1.0a R1.0a<0")
SLOTS = """slots steps=3 layers=2 top_k=2
P0 A0.0 N0.0! D0.0 S0.0 E0.0 C0.0 R0.0<0 A0.1 D0.1 S0.1 E0.1 C0.1 R0.1<0 F0 Z0
P1 A1.0 D1.0:0 S1.0 E1.0 C1.0 R1.0<1,0 A1.1 N1.1 D1.1:1 S1.1 E1.1 C1.1 R1.1<0,1 F1 Z1
P2 A2.0 S2.0 R2.0<1,0@2 A2.1 S2.1 R2.1<0,1@0 F2 Z2
"""


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(request.param, timeout_s=20) as pool:
        yield pool


def schedules() -> list[Schedule]:
    named = [load_schedule(name, steps=5, layers=3) for name in SCHEDULES]
    warm = [load_schedule(name, steps=6, layers=3, warm_up=2) for name in ("displaced", "interweaved")]
    return [*named, *warm, Schedule.parse(MICRO_BATCHES).check(), Schedule.parse(SLOTS).check()]


def shape_for(schedule: Schedule) -> ModelShape:
    return ModelShape("tiny", schedule.layers, hidden=16, heads=2, experts=8, classes=10, latent=8)


def one_run(schedule: Schedule, ranks: Ranks) -> tuple[Run, Workload]:
    workload = Workload(shape_for(schedule), ranks.world, images=2, wire_bytes=8)
    return run(schedule, workload, ranks, SETTINGS), workload


@pytest.mark.parametrize("schedule", schedules(), ids=lambda s: f"{s.name}-{s.steps}")
def test_real_ranks_equal_one_process_without_communication(schedule: Schedule, ranks: Ranks) -> None:
    made, workload = one_run(schedule, ranks)
    model = build_model(workload.model, range(8), SETTINGS)
    for rank in range(ranks.world):
        noise, labels = inputs(workload.model, range(2 * rank, 2 * rank + 2), SETTINGS)
        final, velocity = reference(schedule, model, noise, labels)
        assert made.velocity is not None
        torch.testing.assert_close(made.final[rank], final, rtol=0, atol=1e-10)
        torch.testing.assert_close(made.velocity[rank], torch.stack(velocity), rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", schedules(), ids=lambda s: f"{s.name}-{s.steps}")
def test_measured_staleness_and_order_are_the_schedules(schedule: Schedule, ranks: Ranks) -> None:
    made, workload = one_run(schedule, ranks)
    cluster = Cluster("any", ranks.world, {k: Rate(1e-3, 1e10) for k in COMPUTE_KINDS}, Link(1e-4, 1e7))
    simulated = simulate(schedule, workload, cluster)
    np.testing.assert_array_equal(made.trace.staleness, np.array(schedule.staleness()))
    for rank in range(ranks.world):
        for stream in STREAMS:
            assert made.trace.order(rank, stream) == simulated.order(rank, stream)
    assert (made.trace.end_s >= made.trace.start_s).all()


def test_different_schedules_give_different_images(ranks: Ranks) -> None:
    finals = [one_run(load_schedule(name, 5, 3), ranks)[0].final for name in SCHEDULES]
    assert (finals[0] - finals[1]).abs().max() > 1e-3
    assert (finals[1] - finals[2]).abs().max() > 1e-3


def test_recorded_routing_counts_every_token_of_every_slot(ranks: Ranks) -> None:
    made, workload = one_run(load_schedule("interweaved", 5, 3), ranks)
    assert (made.routing.counts.sum(axis=-1) == workload.tokens).all()
    assert made.routing.counts.std() > 0, "a router that spreads tokens evenly was not asked"
