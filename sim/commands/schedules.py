"""`python -m sim schedules`, `show` and `check`: schedules as text, before anything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.options import Sources, Steps
from sim.load import load_schedule, only, sources


def schedules() -> None:
    """List the schedules that have names, and the settings that any schedule can have."""
    from sim.describe import schedules_table, settings_table

    print(*schedules_table(), "", *settings_table(), sep="\n")


def show(
    schedule: Sources,
    steps: Steps = None,
    layers: Annotated[int | None, typer.Option(help="Layers; a text file says its own.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The text only, without tables.")] = False,
) -> None:
    """Print a schedule, its staleness and its buffers.

    All of it is a schedule file (the tables are comments): redirect it, change it, hand it back."""
    from sim.describe import describe

    loaded = load_schedule(only(sources(schedule)), steps, layers)
    print(loaded if text else describe(loaded), end="")


def check(
    schedule: Sources,
    steps: Steps = None,
    layers: Annotated[int | None, typer.Option(help="Layers; a text file says its own.")] = None,
) -> None:
    """Say whether a schedule can be run; if it cannot, draw the place and exit with 2."""
    source = only(sources(schedule))
    loaded = load_schedule(source, steps, layers)
    oldest = max(age for layers in loaded.staleness() for slots in layers for age in slots)
    print(f"{source}: {loaded.header}: {len(loaded.ops)} ops, in order; oldest age {oldest}")
