"""`python -m calibration`: the main job, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sim.terminal import run_app

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for samples, clusters, results, picture and trace.")]


@app.callback()
def _commands() -> None:
    """Measure a machine, fit a Cluster to it, and hold predictions against real runs."""


@app.command()
def demo(out: _Out = Path("out/demo")) -> None:
    """Measures this machine, predicts, really runs, and shows how far the prediction was off."""
    from calibration.demo import Plan
    from calibration.demo import demo as run_demo

    run_demo(Plan(), out, Console())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits."""
    run_app(app, arguments)
