"""`python -m realrun classifier | vulnerability`: what is measured once, and then used by other commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from realrun.cli_quality import Fine, Jobs, Model, Steps
from realrun.cli_weights import File, Guidance, choose
from realrun.progress import progress
from sim.output import refuse_unwritable


def classifier(
    save: Annotated[Path, typer.Option(help="Where the weights go (.safetensors).")],
    seed: Annotated[int, typer.Option(help="Of first weights, batches and shifts.")] = 0,
) -> None:
    """Train the classifier of digits by which `quality` judges; ten seconds."""
    import torch

    from realrun.classifier import accuracy, train_classifier
    from realrun.digits import load_digits
    from realrun.machine import machine

    refuse_unwritable(save)
    torch.set_num_threads(1)
    made = train_classifier(load_digits(), seed)
    right = f"{accuracy(made, load_digits(held_out=True)):.4f}"
    command = f"python -m realrun classifier --seed {seed}"
    made.save(save, {**machine(command, ("torch", "scikit-learn")), "accuracy on held-out digits": right})
    print(f"{save}: {right} of the held-out digits are classified as they are labelled")


def vulnerability(
    save: Annotated[Path, typer.Option(help="Where it goes (.json); `sim` reads it.")],
    model: Model = None,
    checkpoint: File = None,
    guidance: Guidance = None,
    steps: Steps = 20,
    periods: Annotated[int, typer.Option(help="Into which the run is cut.")] = 5,
    images: Annotated[int, typer.Option(help="Images that are moved.")] = 256,
    fine: Fine = 100,
    seed: Annotated[int, typer.Option(help="Of noise and labels.")] = 1000,
    jobs: Jobs = 2,
) -> None:
    """Measure what staleness of each period, layer, slot and of the router weights moves images by, one at a time."""
    from realrun.machine import processor
    from realrun.makers import makers
    from realrun.vulnerability import Plan, measure, runs

    chosen = choose(model if model or checkpoint else "digits", checkpoint, guidance)
    plan = Plan(steps, periods, 1, images, fine, chosen.guidance, seed)
    refuse_unwritable(save)
    said = f"--steps {steps} --periods {periods} --images {images} --fine {fine} --seed {seed}"
    with (
        progress("runs", runs(plan, chosen.shape.layers, chosen.shape.top_k)) as tell,
        makers(chosen.shape, chosen.weights, jobs) as make,
    ):
        source = f"model {chosen.shape.name}, guidance {chosen.guidance:g}, `python -m realrun vulnerability {said}`"
        made = measure(make, plan, f"{source}, {processor()}", lambda: tell(1))
    made.save(save)
    for what, values in [("period", made.by_period()), ("layer", made.by_layer()), ("kind", made.by_kind())]:
        print(f"distance if a {what} alone is stale by a tenth of the run: {' '.join(f'{x:.4f}' for x in values)}")
