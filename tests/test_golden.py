"""Our runs against the outputs of the DICE authors' own code (golden/README.md), on real ranks and on one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from realrun.execute import RankRun, execute
from realrun.model import DiTMoE, load
from realrun.ranks import RankContext, Ranks
from realrun.reference import reference
from realrun.transport import open_streams
from sim.load import load_schedule
from sim.workload import ModelShape

GOLDEN = Path(__file__).parent / "golden"
SHAPE = ModelShape("golden", layers=6, hidden=48, heads=4, experts=8, classes=10, latent=8)
STEPS = 12
RUNS = {"sync": "ep_sync", "displaced": "displaced_w0", "interweaved": "interweaved_w0"}


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


def rank_inputs(rank: int) -> tuple[Tensor, Tensor]:
    """Noise [2, C, H, W] and labels [2] of a rank."""
    given = arrays("inputs.npz")
    return given["z"][2 * rank : 2 * rank + 2].double(), given["y"][2 * rank : 2 * rank + 2]


def golden_model(local_experts: range) -> DiTMoE:
    model = DiTMoE(SHAPE, local_experts, torch.float64)
    load(model, arrays("state.npz"))
    return model


def run_on_rank(context: RankContext, name: str) -> RankRun:
    model = golden_model(range(context.rank, 8, context.world))
    schedule = load_schedule(name, STEPS, SHAPE.layers)
    with open_streams(context, schedule.streams) as streams:
        return execute(schedule, model, streams, *rank_inputs(context.rank), guidance=1.5, keep_velocity=True)


def assert_golden(name: str, rank: int, final: Tensor, velocity: list[Tensor]) -> None:
    outputs = arrays("outputs_2_ranks_f64.npz")
    torch.testing.assert_close(final, outputs[f"{RUNS[name]}/final"][rank], rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.stack(velocity), outputs[f"{RUNS[name]}/velocity"][rank], rtol=0, atol=1e-10)


def test_two_real_ranks_give_the_authors_outputs() -> None:
    with Ranks(2, timeout_s=20) as ranks:
        for name in RUNS:
            for rank, report in enumerate(ranks.call(run_on_rank, name)):
                assert_golden(name, rank, report.final_BCHW, report.velocity)


@pytest.mark.parametrize("name", RUNS)
def test_the_reference_gives_the_authors_outputs(name: str) -> None:
    schedule, model = load_schedule(name, STEPS, SHAPE.layers), golden_model(range(8))
    for rank in (0, 1):
        meant = reference(schedule, model, *rank_inputs(rank))
        assert_golden(name, rank, meant.final_BCHW, meant.velocity)
