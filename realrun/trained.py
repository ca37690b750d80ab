"""Weights that ship with the package, by their model's name, and how such a file is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from realrun.checkpoint import Checkpoint
from sim.output import whole_file

_FOLDER = Path(__file__).parent / "weights"
GUIDANCE = {"digits": 1.0}  # at which samples are best, where that is not the published 1.5 (docs/checkpoints.md)


def trained(model: str) -> Checkpoint | None:
    """The weights of the model of this name; None if none ship."""
    path = _FOLDER / f"{model}.safetensors"
    return Checkpoint(path) if path.is_file() else None


def save_weights(state: Mapping[str, Tensor], about: Mapping[str, str], path: Path) -> None:
    """Writes a .safetensors file of float16, with `about` in its header; whole or not at all.

    Raises ValueError if a weight is not finite in float16."""
    from safetensors.torch import save_file

    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in state.items()}
    lost = [name for name, tensor in halves.items() if not tensor.isfinite().all()]
    if lost:
        raise ValueError(f"{lost[0]} is not finite in float16: the training went astray")
    with whole_file(path) as beside:
        save_file(halves, beside, dict(about))
