"""What the command line does with weights: which model, which file, which guidance, and the picture of the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.output import refuse_unwritable
from sim.workload import MODELS, ModelShape

if TYPE_CHECKING:
    from realrun.checkpoint import Checkpoint
    from realrun.run import Run, Settings

Model = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(MODELS)}; without it, the checkpoint's, or tiny. Only digits is trained."),
]
File = Annotated[Path | None, typer.Option("--checkpoint", help="Weights: a .safetensors or .pt file of DiT-MoE.")]
Guidance = Annotated[float | None, typer.Option(help="v = u + guidance (c - u); 1.5, digits 1, without.")]
Picture = Annotated[Path | None, typer.Option(help="Draw the images here (.png, .svg, .pdf).")]
Vae = Annotated[Path | None, typer.Option(help="Folder of the VAE that makes pixels of latents (sd-vae-ft-mse).")]


@dataclass(frozen=True)
class Chosen:
    """A model and its weights; None: random ones."""

    shape: ModelShape
    weights: Checkpoint | None
    guidance: float


def choose(model: str | None, file: Path | None, guidance: float | None) -> Chosen:
    """What --model, --checkpoint and --guidance come to.

    Raises ValueError if they are unknown or do not fit each other."""
    from realrun.checkpoint import Checkpoint
    from realrun.parameters import fitted
    from realrun.run import Settings
    from realrun.trained import GUIDANCE, trained

    if model is not None and model not in MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(MODELS)}")
    if file is None:
        shape = MODELS[model or "tiny"]
        weights = trained(shape.name)
    else:
        weights = Checkpoint(file)
        shape = fitted(weights, None if model is None else MODELS[model])
    usual = GUIDANCE.get(shape.name, Settings.guidance)
    return Chosen(shape, weights, usual if guidance is None else guidance)


def refuse_undrawable(shape: ModelShape, picture: Path | None, vae: Path | None) -> None:
    """Raises ValueError or OSError, before long work, if the images of `shape` cannot be drawn as asked."""
    if picture is None:
        if vae is not None:
            raise ValueError(f"--vae {vae} has no effect without --picture")
        return
    refuse_unwritable(picture)
    if picture.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{picture} should end in .png, .svg or .pdf")
    if shape.channels in (1, 3) and vae is not None:
        raise ValueError(f"--vae {vae} has no effect: model {shape.name} makes pixels itself")
    if shape.channels not in (1, 3) and vae is None:
        raise ValueError(f"model {shape.name} makes latents of {shape.channels} channels: say --vae FOLDER to see them")


def paint(made: Run, shape: ModelShape, settings: Settings, picture: Path, vae: Path | None) -> None:
    """Draws the images of a run, labelled by their classes."""
    from realrun.gallery import draw_gallery
    from realrun.run import inputs
    from realrun.vae import decode

    images = made.final.flatten(0, 1)
    _, labels = inputs(shape, range(len(images)), settings)
    pixels = images if vae is None else decode(images, vae)
    draw_gallery({made.trace.schedule.name: pixels}, [str(label) for label in labels.tolist()], picture)


def about(file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors or .pt file.")]) -> None:
    """Say what a checkpoint is: its model, its size, and what it says of itself."""
    from realrun.checkpoint import Checkpoint
    from realrun.parameters import fitted

    checkpoint = Checkpoint(file)
    shape = fitted(checkpoint, None)
    print(f"model {shape.name}{', with q/k norm' if shape.qk_norm else ''}: {shape.layers} layers, hidden "
          f"{shape.hidden}, {shape.experts} experts, {len(checkpoint.shapes())} tensors")  # fmt: skip
    for key, value in sorted(checkpoint.about().items()):
        print(f"{key}: {value}")
