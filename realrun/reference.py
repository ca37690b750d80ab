"""What a schedule means, computed by one process without communication: the truth that real runs must equal.

Only the R ops are read: whose outputs are added where, weighed by whom.  Order, streams, ranks, dispatches and
combines do not exist here, so nothing of the runner is trusted.

Suffixes: B images in the forward, T tokens of an image, N = B * T tokens, D hidden, K slots."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from realrun.model import DiTMoE, MixtureOfExperts
from sim.schedule import Op, Schedule

Chain = tuple[int, int | None, str]  # step, layer, micro-batch


class Routed(NamedTuple):
    """The experts' input of one layer at one step, and where it goes."""

    h_ND: Tensor
    idx_NK: Tensor
    weight_NK: Tensor


def reference(
    schedule: Schedule, model: DiTMoE, z_BCHW: Tensor, y_B: Tensor, guidance: float = 1.5
) -> tuple[Tensor, list[Tensor]]:
    """(final z [B, C, H, W], velocity [step] [2B, C, H, W] before guidance) of `schedule`; `model` holds all experts.

    Rectified flow, Euler: z <- z - v / steps with v = u + guidance (c - u), as DICE's released sampler does."""
    schedule.check()
    adds = {(op.step, op.layer, op.part): op for op in schedule.ops if op.kind == "R"}
    left: Counter[Chain] = Counter(
        (step, op.layer, op.part) for op in adds.values() for step in _steps_used(schedule, op)
    )
    past: dict[Chain, Routed] = {}
    y_2B = torch.cat([y_B, torch.full_like(y_B, model.shape.classes)])
    velocities = []
    with torch.inference_mode():
        for step in range(schedule.steps):
            t = (schedule.steps - step) / schedule.steps
            x_BTD, c_BD = model.embed(z_BCHW.repeat(2, 1, 1, 1), t, y_2B)
            halves = []
            for part, x, c in zip(
                schedule.parts, *(a.chunk(schedule.micro_batches) for a in (x_BTD, c_BD)), strict=True
            ):
                for layer, block in enumerate(map(model.block, range(schedule.layers))):
                    x, h, gate = block.attend(x, c)
                    past[step, layer, part] = Routed(h.flatten(0, 1), *block.moe.route(h.flatten(0, 1)))
                    add = adds[step, layer, part]
                    total_ND = block.moe.shared_experts(h.flatten(0, 1)) + _routed(schedule, add, past, block.moe)
                    x = x + gate[:, None] * total_ND.view_as(x)
                    left.subtract((used, layer, part) for used in _steps_used(schedule, add))
                    past = {key: routed for key, routed in past.items() if left[key] > 0}
                halves.append(x)
            velocities.append(model.final(torch.cat(halves), c_BD))
            v_BCHW, free_BCHW = velocities[-1].chunk(2)
            z_BCHW = z_BCHW - (free_BCHW + guidance * (v_BCHW - free_BCHW)) / schedule.steps
    return z_BCHW, velocities


def _steps_used(schedule: Schedule, add: Op) -> set[int]:
    """The steps whose tokens an R uses: for their outputs, or for their router weights."""
    return {*schedule.steps_read(add), schedule.weights_step(add)}


def _routed(schedule: Schedule, add: Op, past: dict[Chain, Routed], moe: MixtureOfExperts) -> Tensor:
    """Routed outputs [N, D] that an R adds: slot by slot, each of the step that it reads, weighed."""
    weight_NK = past[schedule.weights_step(add), add.layer, add.part].weight_NK
    total_ND = torch.zeros(())
    for slot, step in enumerate(schedule.steps_read(add)):
        routed = past[step, add.layer, add.part]
        out_ND = torch.empty_like(routed.h_ND)
        for number, expert in moe.experts.items():
            mine = routed.idx_NK[:, slot] == int(number)
            out_ND[mine] = expert(routed.h_ND[mine])
        total_ND = total_ND + weight_NK[:, slot, None] * out_ND
    return total_ND
