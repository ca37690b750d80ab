"""`python -m realrun train`: trains the digits model, or goes on where a run was killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.output import refuse_unwritable
from sim.workload import MODELS

if TYPE_CHECKING:
    from realrun.train import Progress, Recipe

_MODEL = "digits"
_TOLD = 500  # steps between lines, where there is no terminal


def train(
    steps: Annotated[int, typer.Option(help="Of the optimiser; 6000 take a quarter of an hour on one core.")] = 6000,
    seed: Annotated[int, typer.Option(help="Of first weights and batches.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where the run is kept: the same command goes on from there.")] = Path(
        "out/train"
    ),
    save: Annotated[Path | None, typer.Option(help="Weights (.safetensors); in the folder without.")] = None,
) -> None:
    """Train the digits model; run again after a kill, it goes on."""
    import torch

    from realrun.digits import load_digits
    from realrun.machine import machine
    from realrun.train import Recipe
    from realrun.train import train as steps_of

    recipe = Recipe(steps=steps, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    target = save or folder / f"{_MODEL}.safetensors"
    if target.suffix != ".safetensors":
        raise ValueError(f"{target} should end in .safetensors")
    refuse_unwritable(target)
    torch.set_num_threads(1)  # to the last bit the same, and on a model this small no slower
    _show(steps_of(MODELS[_MODEL], load_digits(), recipe, folder), recipe)
    command = f"python -m realrun train --steps {steps} --seed {seed}"
    _write(recipe, folder, target, machine(command, ("torch", "numpy", "scikit-learn", "safetensors")))


def _write(recipe: Recipe, folder: Path, target: Path, about: dict[str, str]) -> None:
    from realrun.digits import load_digits
    from realrun.train import held_out_error, start
    from realrun.trained import save_weights

    training = start(MODELS[_MODEL], recipe, folder)
    error = held_out_error(training, load_digits(held_out=True), seed=0)
    learnt = {"model": _MODEL, "recipe": json.dumps(asdict(recipe)), "held-out error of the velocity": f"{error:.4f}"}
    save_weights(training.averaged, {**about, **learnt}, target)
    print(f"{target}: averaged weights; mean squared error of the velocity on held-out digits {error:.4f}")


def _show(steps: Iterator[Progress], recipe: Recipe) -> None:
    """Goes through the steps, telling of them: in a bar on a terminal, else in a line now and then."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    loss, console = None, Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=recipe.steps)
        for each in steps:
            loss = each.loss if loss is None else 0.99 * loss + 0.01 * each.loss
            text = f"loss {loss:.4f}, fullest expert {each.used:.2f} x the mean"
            bar.update(task, completed=each.step, description=text)
            if not console.is_terminal and each.step % _TOLD == 0:
                print(f"step {each.step} of {recipe.steps}: {text}", file=sys.stderr, flush=True)
