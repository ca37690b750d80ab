"""Training of the small model: rectified flow on labelled images, on one processor, in minutes.

A run is a function of its Recipe: every step draws its batch from (seed, step), so that a run that was killed at any
moment, and resumed from its last file, ends in the same weights to the last bit (on one machine and thread).  The file
knows the loss and the optimiser; it refuses to know what schedules make of the weights.

Suffixes are those of realrun/model.py; L counts layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realrun.digits import Digits
from realrun.model import DiTMoE, MixtureOfExperts
from realrun.parameters import load, random_state
from sim.output import whole_file
from sim.workload import ModelShape

State = dict[str, Tensor]
_FILE = "training.pt"


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, beside the images and the model's shape."""

    steps: int = 6000
    batch: int = 128
    seed: int = 0
    rate: float = 2e-3  # of AdamW, at its highest
    warm_up: int = 100  # steps until it is
    average: float = 0.999  # of the weights that are kept, what stays from step to step
    balance: float = 0.01  # weight of the loss that keeps all experts in use
    unlabelled: float = 0.1  # share of the images shown without their label, for guidance

    def __post_init__(self) -> None:
        for name, least in [("steps", 1), ("batch", 1), ("seed", 0), ("warm_up", 0)]:
            if getattr(self, name) < least:
                raise ValueError(f"recipe: {name}={getattr(self, name)} should be at least {least}")
        for name in ("average", "unlabelled"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"recipe: {name}={getattr(self, name)} should be from 0 to below 1")


@dataclass
class Training:
    """A run between two steps."""

    model: DiTMoE
    optimizer: torch.optim.AdamW
    averaged: State  # exponential moving average of the parameters, fp32
    step: int  # steps done


@dataclass(frozen=True)
class Progress:
    """What a step came to."""

    step: int  # steps done
    loss: float  # mean squared error of the velocity
    used: float  # load of the most loaded expert of any layer over the mean


# ---------------------------------------------------------------------------------------------------- a run


def train(
    shape: ModelShape, data: Digits, recipe: Recipe, folder: Path, every: int = 200, limit: int | None = None
) -> Iterator[Progress]:
    """Trains on, from what `folder` holds of this run, up to recipe.steps (or `limit` steps more); yields each step.

    folder/training.pt is replaced as a whole every `every` steps and at the end.  Raises ValueError if it holds another
    recipe's run."""
    training, path = start(shape, recipe, folder), folder / _FILE
    for half_written in folder.glob(f".{path.stem}.*{path.suffix}"):  # by a run that was killed
        half_written.unlink()
    last = recipe.steps if limit is None else min(recipe.steps, training.step + limit)
    while training.step < last:
        yield _one_step(training, data, recipe)
        if training.step % every == 0 or training.step == last:
            _save(training, recipe, path)


def start(shape: ModelShape, recipe: Recipe, folder: Path) -> Training:
    """The run that `folder` holds, or a new one.

    Raises ValueError if what is there has another shape or recipe."""
    model = DiTMoE(shape, range(shape.experts))
    load(model, _first(shape, recipe.seed))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
    training = Training(model, optimizer, _copied(model.state_dict()), 0)
    path = folder / _FILE
    if path.exists():
        _resume(training, recipe, path)
    return training


def _resume(training: Training, recipe: Recipe, path: Path) -> None:
    held = torch.load(path, weights_only=True)
    theirs, ours = held["about"], _about(training.model.shape, recipe)
    differ = [f"{key}={theirs.get(key)!r}, not {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
    if differ:
        raise ValueError(f"{path} is of another run: {'; '.join(differ)}; name another folder, or remove it")
    training.model.load_state_dict(held["model"])
    training.optimizer.load_state_dict(held["optimizer"])
    training.averaged, training.step = held["averaged"], held["step"]


def held_out_error(training: Training, data: Digits, seed: int) -> float:
    """Mean squared error of the averaged weights' velocity on images that were not trained on, at random noise and
    times."""
    model = DiTMoE(training.model.shape, range(training.model.shape.experts))
    load(model, training.averaged)
    recipe = Recipe(batch=5 * len(data.labels_B), seed=seed, unlabelled=0.0)
    with torch.inference_mode():
        error, _, _ = _losses(model, data, recipe, torch.Generator().manual_seed(seed))
    return error.item()


def _save(training: Training, recipe: Recipe, path: Path) -> None:
    held = {
        "about": _about(training.model.shape, recipe),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "averaged": training.averaged,
        "step": training.step,
    }
    with whole_file(path) as beside:
        torch.save(held, beside)


def _about(shape: ModelShape, recipe: Recipe) -> dict[str, Any]:
    return {**asdict(shape), **asdict(recipe)}


def _copied(state: State) -> State:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _first(shape: ModelShape, seed: int) -> State:
    """Random weights with adaLN-zero: every block, and the velocity, begin as nothing (as in DiT)."""
    state = random_state(shape, seed)
    return {name: torch.zeros_like(x) if _starts_at_zero(name) else x for name, x in state.items()}


def _starts_at_zero(name: str) -> bool:
    return "adaLN" in name or name.startswith("final_layer.linear") or (name.endswith("bias") and "norm" not in name)


# --------------------------------------------------------------------------------------------------- a step


def _one_step(training: Training, data: Digits, recipe: Recipe) -> Progress:
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + training.step)
    for group in training.optimizer.param_groups:
        group["lr"] = recipe.rate * _share_of_rate(training.step, recipe)
    error, balance, used = _losses(training.model, data, recipe, generator)
    training.optimizer.zero_grad(set_to_none=True)
    (error + recipe.balance * balance).backward()  # type: ignore[no-untyped-call]
    training.optimizer.step()
    training.step += 1
    # early on the average would remember the beginning for too long
    keep = min(recipe.average, training.step / (training.step + 10))
    for name, now in training.model.state_dict().items():
        training.averaged[name].lerp_(now, 1 - keep)
    return Progress(training.step, error.item(), used)


def _share_of_rate(step: int, recipe: Recipe) -> float:
    """Of the highest rate: rises over the warm-up, then falls along half a cosine to 0."""
    rising = (step + 1) / (recipe.warm_up + 1)
    done = max(0, step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return min(rising, 0.5 + 0.5 * float(torch.cos(torch.tensor(done * torch.pi))))


def _losses(model: DiTMoE, data: Digits, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """(velocity's mean squared error, balance loss, load of the fullest expert over the mean), of a random batch."""
    pick_B = torch.randint(len(data.labels_B), (recipe.batch,), generator=generator)
    x_BCHW, y_B = data.images_BCHW[pick_B], data.labels_B[pick_B]
    noise_BCHW = torch.randn(x_BCHW.shape, generator=generator)
    t_B = torch.rand(recipe.batch, generator=generator)
    hidden_B = torch.rand(recipe.batch, generator=generator) < recipe.unlabelled
    z_BCHW = torch.lerp(x_BCHW, noise_BCHW, t_B[:, None, None, None])
    y_B = torch.where(hidden_B, model.shape.classes, y_B)
    v_BCHW, share_LE, score_LE = velocity(model, z_BCHW, t_B, y_B)
    error = F.mse_loss(v_BCHW, noise_BCHW - x_BCHW)
    return error, balance_loss(share_LE, score_LE), share_LE.max().item() * model.shape.experts


def balance_loss(share_LE: Tensor, score_LE: Tensor) -> Tensor:
    """1 where every expert of every layer has as many slots as the others, more where those with many also score high.

    Switch Transformers' (arXiv 2101.03961, equation 4), for top-k; its gradient comes through the scores alone."""
    return share_LE.shape[1] * (share_LE * score_LE).sum(dim=1).mean()


def velocity(model: DiTMoE, z_BCHW: Tensor, t_B: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(velocity [B, C, H, W]; share of each layer's slots that chose each expert, and its mean score, [L, E] each)."""
    x_BTD, c_BD = model.embed(z_BCHW, t_B, y_B)
    shares, scores = [], []
    for layer in range(model.shape.layers):
        block = model.block(layer)
        x_BTD, h_BTD, gate_BD = block.attend(x_BTD, c_BD)
        h_ND = h_BTD.flatten(0, 1)
        idx_NK, weight_NK = block.moe.route(h_ND)
        total_ND = block.moe.shared_experts(h_ND) + _routed(block.moe, h_ND, idx_NK, weight_NK)
        x_BTD = x_BTD + gate_BD[:, None] * total_ND.view_as(x_BTD)
        shares.append(idx_NK.flatten().bincount(minlength=model.shape.experts) / idx_NK.numel())
        scores.append(block.moe.gate(h_ND).softmax(dim=-1).mean(dim=0))
    return model.final(x_BTD, c_BD), torch.stack(shares), torch.stack(scores)


def _routed(moe: MixtureOfExperts, h_ND: Tensor, idx_NK: Tensor, weight_NK: Tensor) -> Tensor:
    """[N, D]: what the experts make of the tokens that chose them, weighed and summed."""
    order_R = idx_NK.flatten().argsort(stable=True)
    counts = idx_NK.flatten().bincount(minlength=len(moe.experts)).tolist()
    token_R = order_R // idx_NK.shape[1]
    parts = torch.split(h_ND[token_R], counts)
    out_RD = torch.cat([moe.experts[str(e)](rows_RD) for e, rows_RD in enumerate(parts)])
    return torch.zeros_like(h_ND).index_add(0, token_R, out_RD * weight_NK.flatten()[order_R, None])
