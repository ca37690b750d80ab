"""The command on profiles of real runs: `python -m sim profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.load import load_schedule, only, sources


def read_back(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where `python -m realrun --profile DIR` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Write the trace here.")],
    schedule: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCHEDULE [SETTING=VALUE]...]", help="What ran, if the profiles do not say so."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps of that schedule.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of that schedule.")] = None,
) -> None:
    """Read the torch.profiler traces of a real run's ranks back into one trace."""
    from sim.kineto import profile_files, read_profiles
    from sim.output import refuse_unwritable
    from sim.show import comparison_table

    refuse_unwritable(output)
    if schedule is None and (steps is not None or layers is not None):
        raise ValueError("--steps and --layers have no effect without a schedule")
    plan = None if schedule is None else load_schedule(only(sources(schedule)), steps, layers)
    trace = read_profiles(profile_files(folder), plan)
    trace.save(output)
    print(*comparison_table([trace], [trace.schedule.name]), sep="\n")
