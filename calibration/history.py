"""A small comparison on every change, and its history: one line of JSON for each time.

Predictions that are off are reported, and fail nothing: a machine that builds software is no place to judge them.  What
fails is a run whose images, or whose staleness, are not what its schedule means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from calibration import results
from calibration.bundle import Bundle
from calibration.cells import Cell
from calibration.plan import Plan
from calibration.predict import cells
from calibration.session import Patience, carry_out
from realrun.backend import load_backend
from realrun.run import run
from realrun.verify import difference
from sim.output import whole_file

PLAN = Plan(
    "digits", images=8, rates=(4e6,), schedules=("sync", "displaced", "interweaved"), steps=4, rounds=2,
    other_images=(4,), calibration_steps=4, repeats=3, loads=(1.0,), about="the same small comparison every time",
)  # fmt: skip
TOLERANCE = 1e-4  # of a latent's element, in float32
BACKENDS = ("paced", "logical")


def record(folder: Path, console: Console, plan: Plan = PLAN) -> dict[str, Any]:
    """Measures, runs and predicts in `folder`; what there is to remember of it.

    Raises ValueError if some run was not what its schedule means."""
    wrong = unequal(plan)
    bundle = carry_out(plan, folder, console, patience=Patience(tries=1, seconds=0.0))
    found = cells(bundle, plan)
    wrong += [f"{cell.text}: staleness is not the schedule's" for cell in found if not cell.same_staleness()]
    if wrong:
        raise ValueError("\n".join(wrong))
    return line(bundle, found)


def unequal(plan: Plan) -> list[str]:
    """Runs, on several backends, whose images are not those of one process, in words."""
    told = []
    for name in BACKENDS:
        with load_backend(name).start(plan.ranks) as pool:
            for text in plan.schedules:
                schedule = plan.schedule(text)
                made = run(schedule, plan.workload, pool, plan.settings)
                furthest, aged = difference(made, schedule, plan.workload, plan.settings)
                if furthest > TOLERANCE or aged:
                    told.append(f"{text} on {name}: {furthest:.3g} from one process, {aged} outputs of another age")
    return told


def line(bundle: Bundle, found: Sequence[Cell]) -> dict[str, Any]:
    """What is remembered: when, where, at which commit, and how far predictions were off."""
    summary, here = results.summarise(found, bundle.machine), bundle.machine
    kept: dict[str, Any] = {key: here[key] for key in ("date", "commit", "processor", "cores", "torch") if key in here}
    levels = {name: round(level.median, 4) for name, level in summary.levels.items()}
    errors = {cell.schedule: round(cell.error, 4) for cell in summary.cells}
    return {**kept, "errors": errors, "levels": levels, "runs_covered": summary.runs_covered}


def append(path: Path, entry: dict[str, Any]) -> None:
    """Adds a line to the history, whole or not at all."""
    before = path.read_text() if path.exists() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text(before + json.dumps(entry) + "\n")


def load(path: Path) -> list[dict[str, Any]]:
    """All lines, oldest first.  Raises ValueError with the number of one that is none."""
    entries = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            entries.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return entries
