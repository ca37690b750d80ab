"""Whether a real run computed what its schedule means: against one process without communication."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from realrun.model import DiTMoE
from realrun.parameters import Weights
from realrun.reference import Meaning, reference
from realrun.run import Run, Settings, build_model, inputs
from sim.schedule import Schedule
from sim.workload import Workload


class Expected(NamedTuple):
    """What a Run should hold, of the same shapes."""

    final: Tensor  # [rank, image, C, H, W]
    velocity: Tensor  # [rank, step, 2 x image, C, H, W]
    ages: Tensor  # [step, layer, slot, age]: tokens of all ranks


def expected(schedule: Schedule, workload: Workload, settings: Settings, weights: Weights | None = None) -> Expected:
    """What the reference makes of every rank's images; of all at once where each is made by all ranks."""
    model = build_model(workload.model, range(workload.model.experts), settings, weights)
    together = workload.ranks if schedule.sharded_patches else 1
    meant = [
        _meaning(schedule, model, workload, settings, range(first, first + together * workload.images))
        for first in range(0, workload.ranks * workload.images, together * workload.images)
    ]
    final = torch.cat([m.final_BCHW for m in meant])
    whole = torch.stack([torch.stack(m.velocity) for m in meant])  # [group, step, 2 x image, C, H, W]
    # [group, step, half, rank in the group, image, C, H, W]
    velocity = whole.view(*whole.shape[:2], 2, together, -1, *whole.shape[3:])
    by_rank = velocity.permute(0, 3, 1, 2, 4, 5, 6, 7).flatten(0, 1).flatten(2, 3)
    return Expected(
        final.view(workload.ranks, -1, *final.shape[1:]), by_rank, torch.stack([m.ages for m in meant]).sum(dim=0)
    )


def _meaning(schedule: Schedule, model: DiTMoE, workload: Workload, settings: Settings, images: range) -> Meaning:
    return reference(
        schedule, model, *inputs(workload.model, images, settings), settings.guidance,
        ranks=workload.ranks, first_image=images.start, wire=workload.wire,
    )  # fmt: skip


def difference(
    made: Run, schedule: Schedule, workload: Workload, settings: Settings, weights: Weights | None = None
) -> tuple[float, int]:
    """(largest difference of a latent's element, outputs that were not as old as they should be), to the reference."""
    right = expected(schedule, workload, settings, weights)
    ages = made.trace.ages
    wrong = 0 if ages is None else int((right.ages - torch.from_numpy(ages)).abs().sum()) // 2
    return float((made.final - right.final).abs().max()), wrong
