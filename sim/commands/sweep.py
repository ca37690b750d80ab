"""`python -m sim sweep`: run a sweep, or go on with one, or say what it would be."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sim.sweeps.points import Points
    from sim.sweeps.workers import Workers

File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file; sim/sweeps/file.py says what is in it.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the file, as plan.points=100.")
]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the results; out/ and the file's name if not given.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how many points, how long, how large; run nothing.")]
Processes = Annotated[int | None, typer.Option("--workers", min=0, help="Processes here; one a core. 0: this one.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a dask scheduler, whose workers run it.")]
Slurm = Annotated[int | None, typer.Option(min=1, help="So many Slurm jobs run it (dask-jobqueue, as configured).")]


def sweep(
    file: File,
    changes: Changes = None,
    out: Out = None,
    dry_run: DryRun = False,
    workers: Processes = None,
    scheduler: Scheduler = None,
    slurm: Slurm = None,
) -> None:
    """Evaluate every point of a sweep on all cores; stopped at any moment, the same command goes on."""
    from sim.sweeps.file import read_sweep
    from sim.sweeps.points import Points
    from sim.sweeps.provenance import version
    from sim.sweeps.workers import Workers

    hands = Workers(workers, scheduler, slurm)
    points = Points(read_sweep(file, changes or []))
    folder = out or Path("out") / file.stem
    if dry_run:
        print(*_told(points, hands), sep="\n")
        return
    made = {"digest": points.sweep.digest, "version": version(), "points": len(points), "changes": changes or []}
    _run(points, hands, folder, file, made)


def _run(points: Points, hands: Workers, folder: Path, file: Path, made: dict[str, Any]) -> None:
    from rich import progress as bars
    from rich.console import Console

    from sim.sweeps.provenance import this_run
    from sim.sweeps.run import again_killed, run_sweep
    from sim.sweeps.store import opened

    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
               bars.TimeElapsedColumn(), bars.TimeRemainingColumn())  # fmt: skip
    began = time.perf_counter()
    with opened(folder, file.read_text(), made, this_run(" ".join(sys.argv))) as store:
        for part in store.damaged:
            print(f"{part} is damaged: its points are run again", file=sys.stderr)
        again_killed(store)
        earlier = sum(last - first for first, last in store.done())
        with bars.Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(file.stem, total=len(points), completed=earlier)
            run_sweep(points, store, hands, lambda done: progress.advance(task, done))
    seconds, fresh = time.perf_counter() - began, len(points) - earlier
    print(f"{folder}: {len(points)} points, {fresh} of them now, in {seconds:.1f} s; python -m sim results {folder}")
    _tell_failures(folder)


def _tell_failures(folder: Path) -> None:
    """Says which points have no results.  Exits with 1 if some should have: a refusal is a result."""
    from sim.sweeps.failures import REFUSED, failure_lines, kind_of
    from sim.sweeps.results import read_results

    errors = read_results(folder, ["error"])["error"]
    for line in failure_lines(errors):
        print(line)
    if any(kind_of(error) != REFUSED for error in errors.dropna().unique()):
        raise typer.Exit(1)


def _told(points: Points, hands: Workers) -> list[str]:
    """How many, how long, how large: from a few points that are tried here."""
    from sim.sweeps.trial import Trial

    trial = Trial.of(points, hands.processes)
    left_out = f", {points.before_filters - len(points)} more left out by filters or drawn twice"
    return [
        f"{len(points)} points{left_out if points.before_filters != len(points) else ''}",
        f"{len(points.borders) - 1} stretches of one list of ops each",
        f"about {trial.duration_text} on {trial.workers} processes here, and some to start them (tried: {trial.tried} "
        f"points, {trial.engines})",
        f"about {trial.size_text} of results",
        *(f"refused, of those tried: {error}" for error in trial.errors),
    ]
