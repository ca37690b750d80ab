"""Our runs against the outputs of the DICE authors' own code (golden/README.md), on real ranks and on one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realrun.execute import RankRun, execute
from realrun.model import DiTMoE
from realrun.parameters import load
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.reference import reference
from realrun.transport import open_streams
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.workload import ModelShape

GOLDEN = Path(__file__).parent / "golden"
SHAPE = ModelShape("golden", layers=6, hidden=48, heads=4, experts=8, classes=10, latent=8)
STEPS, RANKS = 12, 2
RUNS = {
    "ep_sync": "sync",
    "displaced_w0": "displaced",
    "interweaved_w0": "interweaved",
    "interweaved_deep_w2": "interweaved synchronous=shallow warm_up=2",
    "displaced_low2_w0": "displaced conditional=low",
    "sp_sync": "patch_parallel",
    "sp_async_mngr_w0": "distrifusion",
}


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def images(schedule: Schedule, rank: int) -> tuple[Tensor, Tensor]:
    """Noise and labels of what a rank works on: 2 images of its own, or with sharded patches all 4."""
    given, mine = arrays("inputs.npz"), slice(4) if schedule.sharded_patches else slice(2 * rank, 2 * rank + 2)
    return given["z"][mine].double(), given["y"][mine]


def golden_model(schedule: Schedule, rank: int = 0, ranks: int = 1) -> DiTMoE:
    model = DiTMoE(SHAPE, range(rank, 8, ranks) if schedule.sharded_experts else range(8), torch.float64)
    load(model, arrays("state.npz"))
    return model


def schedule_of(run: str) -> Schedule:
    return load_schedule(RUNS[run], STEPS, SHAPE.layers)


def on_rank(context: RankContext, schedule: Schedule) -> RankRun:
    model = golden_model(schedule, context.rank, context.world)
    with open_streams(context, schedule.streams) as streams:
        return execute(schedule, model, streams, *images(schedule, context.rank), guidance=1.5, keep_velocity=True)


def assert_golden(run: str, at: int, final: Tensor, velocity: Tensor) -> None:
    outputs = arrays("outputs_2_ranks_f64.npz")
    torch.testing.assert_close(final, outputs[f"{run}/final"][at], rtol=0, atol=1e-10)
    torch.testing.assert_close(velocity, outputs[f"{run}/velocity"][at], rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(RANKS, timeout_s=20) as pool:
        yield pool


@pytest.mark.parametrize("run", RUNS)
def test_two_real_ranks_give_the_authors_outputs(run: str, ranks: Ranks) -> None:
    schedule = schedule_of(run)
    reports = ranks.call(on_rank, schedule)
    finals, velocities = [r.final_BCHW for r in reports], [torch.stack(r.velocity) for r in reports]
    if schedule.sharded_patches:  # each rank has a band of every image
        finals, velocities = [torch.cat(finals, dim=2)], [torch.cat(velocities, dim=3)]
    for at, (final, velocity) in enumerate(zip(finals, velocities, strict=True)):
        assert_golden(run, at, final, velocity)


@pytest.mark.parametrize("run", RUNS)
def test_the_reference_gives_the_authors_outputs(run: str) -> None:
    schedule = schedule_of(run)
    model = golden_model(replace(schedule, experts="replicated"))
    for at in range(1 if schedule.sharded_patches else RANKS):
        meant = reference(schedule, model, *images(schedule, at), ranks=RANKS)
        assert_golden(run, at, meant.final_BCHW, torch.stack(meant.velocity))
