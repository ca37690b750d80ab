"""Parameters by name: what a model takes of a checkpoint, and random ones.

Names are those of the public checkpoints, plain and flash-attention alike.  The file knows which names and shapes a
model has; it refuses to know files (realrun/checkpoint.py)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from realrun.checkpoint import Checkpoint
from realrun.model import DiTMoE
from sim.workload import MODELS, ModelShape

Weights = Mapping[str, Tensor] | Checkpoint
Shapes = Mapping[str, tuple[int, ...]]

# names in the checkpoints of the flash-attention variant
_ALIASES = {".attn.Wqkv.": ".attn.qkv.", ".attn.out_proj.": ".attn.proj."}


def load(model: DiTMoE, weights: Weights, device: torch.device | str = "cpu") -> None:
    """Copies into `model` what it holds of `weights`, in the model's dtype, on `device`.

    Experts that the model does not hold may be in `weights` or not, and are not read; the flash-attention checkpoints'
    names are understood.  Raises ValueError that lists every missing, unexpected, mis-shaped and doubled name."""
    source = weights if isinstance(weights, Checkpoint) else _InMemory(weights)
    shapes, held = source.shapes(), model.state_dict()
    _refuse_misfit(weights, model.shape.name, _faults(held, _known(model.shape), shapes))
    given = {_canonical(name): name for name in shapes}
    values = {
        _canonical(name): tensor.to(device, held[_canonical(name)].dtype)
        for name, tensor in source.read(given[name] for name in held)
    }
    model.load_state_dict(values, assign=True)


def fitted(checkpoint: Checkpoint, shape: ModelShape | None = None) -> ModelShape:
    """The model that a file is of, by its names and shapes; size of the images and q/k norm are the file's.

    shape: the one that it should be; None: any of MODELS.  Raises ValueError that lists what does not fit, or says that
    no model does."""
    shapes = checkpoint.shapes()
    if shape is not None:
        wanted = _as_in(shapes, shape)
        known = _known(wanted)
        _refuse_misfit(checkpoint, wanted.name, _faults(known, known, shapes))
        return wanted
    for each in (_as_in(shapes, each) for each in MODELS.values()):
        known = _known(each)
        if not any(_faults(known, known, shapes).values()):
            return each
    hidden = shapes.get("pos_embed", ("unknown",))[-1]
    raise ValueError(
        f"{checkpoint.path} is of none of the models {', '.join(MODELS)} (it has {len(shapes)} tensors, hidden "
        f"{hidden}); name one, and what differs is listed"
    )


def _as_in(shapes: Shapes, shape: ModelShape) -> ModelShape:
    """`shape` in the variant that a file has: with q/k norm or without, for small images or large ones."""
    variant = replace(shape, qk_norm=any(".q_norm." in name for name in shapes))
    match shapes.get("pos_embed"):
        case (1, tokens, _) if tokens > 0 and math.isqrt(tokens) ** 2 == tokens:
            return replace(variant, latent=math.isqrt(tokens) * shape.patch)
    return variant


def _refuse_misfit(weights: Weights, model: str, faults: Mapping[str, Iterable[str]]) -> None:
    if any(faults.values()):
        what = str(weights.path) if isinstance(weights, Checkpoint) else "the state"
        raise ValueError(f"{what} does not fit model {model}: " + "; ".join(_listed(faults)))


def _known(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """name -> shape of all parameters of the whole model."""
    return {name: tuple(like.shape) for name, like in DiTMoE(shape, range(shape.experts)).state_dict().items()}


def _faults(needed: Iterable[str], known: Shapes, shapes: Shapes) -> dict[str, set[str]]:
    """What is wrong with names and shapes, for a rank that needs the names in `needed`, of those that are known."""
    found = {_canonical(name): size for name, size in shapes.items()}
    wrong = {name for name in found.keys() & known.keys() if found[name] != known[name]}
    return {
        "missing": {*needed} - found.keys(),
        "unexpected": found.keys() - known.keys(),
        "mis-shaped": {f"{name} {[*found[name]]}, should be {[*known[name]]}" for name in wrong},
        "under two names": {_canonical(name) for name in shapes if name != _canonical(name) in shapes},
    }


class _InMemory(NamedTuple):
    """A state that is in memory already, read as a Checkpoint is."""

    state: Mapping[str, Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.state.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        return ((name, self.state[name].clone()) for name in names)


def random_state(shape: ModelShape, seed: int, local_experts: Iterable[int] | None = None) -> dict[str, Tensor]:
    """Random fp32 parameters by name; of the routed experts only `local_experts` (None: all of them).

    A parameter depends on its name and the seed only, so ranks that hold different experts agree.  The scales
    keep a sampling finite, let every gate open and spread tokens over the experts; nothing was trained."""
    return dict(random_parameters(shape, seed, local_experts))


def random_parameters(
    shape: ModelShape, seed: int, local_experts: Iterable[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The same one by one, for models that are larger than memory."""
    held = range(shape.experts) if local_experts is None else list(local_experts)
    for name, like in DiTMoE(shape, held).state_dict().items():
        yield name, _random(name, like.shape, seed, shape)


def _random(name: str, size: torch.Size, seed: int, shape: ModelShape) -> Tensor:
    if name == "pos_embed":
        return _positions(shape.latent // shape.patch, shape.hidden)
    if "_norm." in name:
        return torch.ones(size) if name.endswith("weight") else torch.zeros(size)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    draw = torch.randn(size, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))
    if "embedding_table" in name:
        return 0.5 * draw
    if "adaLN" in name and name.endswith("bias"):  # gates open and shut around 0
        return 0.4 * draw
    return 0.1 * draw if name.endswith("bias") else draw / math.sqrt(size[1:].numel())


def _positions(side: int, hidden: int) -> Tensor:
    """Fixed 2-D sin-cos positions [1, side * side, hidden], columns in the first half of the width (as in MAE)."""
    frequency = 10000.0 ** -(torch.arange(hidden // 4, dtype=torch.float64) / (hidden // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * frequency
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, hidden / 2]
    both = torch.cat([line.repeat(side, 1), line.repeat_interleave(side, dim=0)], dim=1)
    return both.float()[None]


def _canonical(name: str) -> str:
    for other, ours in _ALIASES.items():
        name = name.replace(other, ours)
    return name


def _listed(faults: Mapping[str, Iterable[str]], at_most: int = 8) -> list[str]:
    texts = []
    for fault, names in faults.items():
        some = sorted(names)
        more = f" and {len(some) - at_most} more" if len(some) > at_most else ""
        texts += [f"{fault}: {', '.join(some[:at_most])}{more}"] if some else []
    return texts
