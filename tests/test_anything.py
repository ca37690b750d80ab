"""Any schedule that the notation can write: read back, described, run for real, and replayed by a simulation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from anything import any_schedule, anything
from cases import cluster, model
from hypothesis import given, settings
from hypothesis import strategies as st

from realrun.ranks import Ranks
from realrun.run import Settings, run
from realrun.verify import difference
from sim.describe import describe
from sim.engine import simulate
from sim.memory import buffer_bytes, memory
from sim.schedule import Schedule
from sim.workload import Workload

SETTINGS = Settings(seed=3, dtype="float64")
SEEDS = range(40)


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(request.param, timeout_s=30) as pool:
        yield pool


def any_of(seed: int) -> Schedule:
    return any_schedule(Random(seed), deciding=True).check()


@pytest.mark.parametrize("seed", SEEDS)
def test_it_reads_back_and_what_describes_it_is_itself(seed: int) -> None:
    schedule = any_of(seed)
    assert Schedule.parse(str(schedule)) == schedule
    assert Schedule.parse(describe(schedule)) == schedule
    assert all(0 <= b.born <= b.dies < len(schedule.ops) for b in schedule.buffers)


def test_all_that_the_notation_has_is_drawn() -> None:
    drawn = [any_of(seed) for seed in SEEDS]
    ops = [op for schedule in drawn for op in schedule.ops]
    assert {op.kind for op in ops} == {*"PQKANDSECRFZ"}
    for has in ("asked", "newest", "unused", "communicator", "blocks", "piece", "part", "weights", "last", "slots"):
        assert any(getattr(op, has) for op in ops), has
    assert {s.policy.name for s in drawn if s.policy} == {"random", "threshold", "debt"}
    assert {(s.experts, s.patches) for s in drawn} == {
        (experts, patches) for experts in ("sharded", "replicated") for patches in ("whole", "sharded")
    }


@settings(max_examples=40)
@given(schedule=anything(deciding=True), wire=st.sampled_from(["float64", "float32", "int8", "float8"]))
def test_real_ranks_compute_what_it_means_and_a_simulation_knows_its_ages(
    schedule: Schedule, wire: str, ranks: Ranks
) -> None:
    schedule.check()
    wire = wire if schedule.sharded_experts or schedule.sharded_patches else "float64"
    workload = Workload(model(schedule, classes=10), ranks.world, images=2, wire=wire)
    made = run(schedule, workload, ranks, SETTINGS)
    far, misaged = difference(made, schedule, workload, SETTINGS)
    assert far < 1e-10
    assert misaged == 0
    simulated = simulate(schedule, replace(workload, routing=made.routing), cluster(ranks.world))
    assert np.array_equal(simulated.staleness, made.trace.staleness)
    assert (simulated.ages is None and made.trace.ages is None) or np.array_equal(simulated.ages, made.trace.ages)
    for one, other in [(simulated.attention_staleness, made.trace.attention_staleness)]:
        assert (one is None and other is None) or np.array_equal(one, other)
    for rank in range(ranks.world):
        for stream in schedule.streams:
            assert simulated.order(rank, stream) == made.trace.order(rank, stream)
    assert memory(schedule, workload).peak_bytes > 0
    routed = replace(workload, routing=made.routing).fits(schedule)
    for sent, op in zip(made.sent_bytes, schedule.ops, strict=True):
        if op.kind in "DCK":
            np.testing.assert_array_equal(sent, routed.sent_bytes(schedule, op), err_msg=op.name)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_kept_from_step_to_step_is_what_was_predicted_to_the_byte(seed: int, ranks: Ranks) -> None:
    schedule = any_of(seed)
    workload = Workload(model(schedule, classes=10), ranks.world, images=2, wire="float64")
    made = run(schedule, workload, ranks, SETTINGS)
    routed = replace(workload, routing=made.routing).fits(schedule)
    for step in range(schedule.steps - 1):
        border = schedule.position[f"P{step + 1}"]
        predicted = buffer_bytes(schedule.persistent(step), schedule, routed, element_bytes=8)
        for rank, held in enumerate(made.held):
            measured: dict[str, int] = {}
            for one in held:
                if one.born < border <= one.dies:
                    measured[one.what] = measured.get(one.what, 0) + one.bytes
            mine = {what: size[rank] for what, size in predicted.items() if size[rank]}
            assert {what: size for what, size in measured.items() if size} == mine, f"step {step}, rank {rank}"
