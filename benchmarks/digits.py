"""The digits model: which guidance is best, how near samples are to what was learnt: `python benchmarks/digits.py`.

Synchronous samples of 20 steps, eight seeds of 250; Frechet distance to all digits, by the features of the classifier
that ships.  For scale: the same distance of held-out digits to those learnt from, 359 on each side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from calibration import samples
from realrun.classifier import Classifier
from realrun.digits import load_digits
from realrun.frechet import Moments, frechet
from realrun.intervals import interval
from realrun.makers import Task, makers
from realrun.run import Settings, inputs
from realrun.trained import trained
from sim.load import load_schedule
from sim.output import whole_file
from sim.workload import MODELS

SHAPE, STEPS, SEEDS, IMAGES = MODELS["digits"], 20, range(8), 250
GUIDANCES = (1.0, 1.25, 1.5, 2.0)
RESULTS = Path(__file__).parent / "results" / "digits.json"


def main() -> None:
    """Makes the images, and writes results with machine and command."""
    torch.set_num_threads(1)
    learnt, held_out = load_digits(), load_digits(held_out=True)
    everything = torch.cat([learnt.images_BCHW, held_out.images_BCHW])
    drawn = torch.randperm(len(learnt.labels_B), generator=torch.Generator().manual_seed(0))[: len(held_out.labels_B)]
    rows: list[dict[str, Any]] = [
        {
            "images": "held-out digits, to as many learnt ones",
            "frechet": round(apart(held_out.images_BCHW, learnt.images_BCHW[drawn]), 3),
            "nearest learnt": round(nearest(held_out.images_BCHW, learnt.images_BCHW), 3),
        }
    ]
    console = Console(stderr=True)
    for guidance in track(GUIDANCES, "sampling", console=console, disable=not console.is_terminal):
        rows.append({"images": f"guidance {guidance:g}", **judged(guidance, everything, learnt.images_BCHW)})
        print(json.dumps(rows[-1]), flush=True)
    found = {"meta": samples.machine(), "rows": rows}
    with whole_file(RESULTS) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """What docs/checkpoints.md shows of the results."""
    columns = ("images", "frechet", "right class", "nearest learnt")
    lines = [[_cell(row.get(column, "")) for column in columns] for row in found["rows"]]
    meta = found["meta"]
    text = "".join(f"| {' | '.join(line)} |\n" for line in [columns, ["---"] * len(columns), *lines])
    return text + f"\n({meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`)\n"


def _cell(value: str | float | list[float]) -> str:
    if not isinstance(value, list):
        return str(value)
    mean, low, high = value
    return f"{mean:.3g} ({low:.3g} to {high:.3g})"


def judged(guidance: float, everything: Tensor, learnt: Tensor) -> dict[str, Any]:
    """Means over seeds with their 95 % intervals: Frechet distance, right class, distance to the nearest learnt one."""
    schedule, values = load_schedule("sync", STEPS, SHAPE.layers), []
    with makers(SHAPE, trained(SHAPE.name), 1) as make:
        for seed in SEEDS:
            settings = Settings(seed=seed, guidance=guidance)
            made = make(Task(schedule, settings, range(IMAGES))).final_BCHW
            _, labels = inputs(SHAPE, range(IMAGES), settings)
            right = (Classifier.load().see(made).classes == labels).float().mean().item()
            values.append((apart(made, everything), right, nearest(made, learnt)))
    names = ("frechet", "right class", "nearest learnt")
    return {
        name: [round(v, 4) for v in interval(each)] for name, each in zip(names, zip(*values, strict=True), strict=True)
    }


def apart(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two sets of images."""
    classifier = Classifier.load()
    return frechet(*(Moments.of(classifier.see(images).features.numpy()) for images in (one, other)))


def nearest(images: Tensor, learnt: Tensor) -> float:
    """Mean distance to the nearest learnt image: root of the squares' sum over 64 pixels of -1 to 1."""
    return torch.cdist(images.flatten(1), learnt.flatten(1)).min(dim=1).values.mean().item()


if __name__ == "__main__":
    main()
