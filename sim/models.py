"""Models by name, or as a file: any network of experts, by its shapes.

    name: LingBot-Video MoE 30B
    layers: 48
    hidden: 2048        # and so on: the fields of ModelShape, in YAML or JSON

It knows how a ModelShape is written down; what its fields mean stands in sim/workload.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sim.faults import faults_told
from sim.tables import read_table
from sim.workload import MODELS, ModelShape

_PIXELS = 8  # of an image, a side, to one of a latent (the VAE of DiT and DiT-MoE)


def load_model(name: str, pixels: int | None = None) -> ModelShape:
    """The model of this name, or in this file; for square images of so many pixels a side, if given.

    Raises ValueError with every key that is unknown, missing or of the wrong type; OSError if a file can't be read."""
    if not Path(name).suffix and name not in MODELS:
        raise ValueError(f"unknown model {name!r}; the models are {', '.join(MODELS)}, or a .yaml or .json file")
    model = MODELS[name] if name in MODELS else _from_file(Path(name))
    if pixels is None:
        return model
    if pixels < 1 or pixels % (_PIXELS * model.patch):
        raise ValueError(f"pixels={pixels} should be a multiple of {_PIXELS * model.patch}, above 0")
    return replace(model, latent=pixels // _PIXELS)


def _from_file(path: Path) -> ModelShape:
    from pydantic import TypeAdapter

    with faults_told(path, ModelShape):
        model: ModelShape = TypeAdapter(ModelShape).validate_python(read_table(path))
    return model
