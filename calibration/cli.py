"""`python -m calibration`: the main job, and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from calibration.cli_plans import register
from sim.terminal import end_orderly, run_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=__doc__,
)
_Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for samples, clusters, results, picture and trace.")]


@app.callback()
def _commands() -> None:
    """Measure a machine, fit a Cluster to it, and hold predictions against real runs."""


@app.command()
def demo(out: _Out = Path("out/demo")) -> None:
    """Measures this machine, predicts, really runs, and shows how far the prediction was off."""
    from calibration.demo import PLAN
    from calibration.demo import demo as run_demo

    run_demo(PLAN, out, Console())


@app.command()
def readme(
    folder: Annotated[Path, typer.Argument(help="What the demo or a benchmark wrote.")],
    page: Annotated[Path, typer.Option(help="The page whose table is replaced.")] = Path("README.md"),
    picture: Annotated[Path, typer.Option(help="The picture that is replaced.")] = Path("docs/timeline.png"),
) -> None:
    """Puts the results in FOLDER into a page, between its two markers, and draws its picture."""
    from calibration.page import draw, renew

    renew(page, folder)
    draw(picture, folder)


@app.command()
def reproduction(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for page, numbers and picture.")] = Path("docs"),
    links: Annotated[Path | None, typer.Option(help="Only renews the links in this file of the preset.")] = None,
) -> None:
    """Predicts what DICE's publication measured on 8 x RTX 4090, and says what is left over; some minutes."""
    if links is not None:
        from calibration.reproduction.links import renew

        renew(links)
        return
    from calibration.reproduction.write import write

    write(out, Console(stderr=True))


register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits."""
    from realrun.joined import ended_at_once, started_by_torchrun
    from realrun.ranks import RanksFailed

    if not started_by_torchrun():  # which ends ranks that wait in a transfer, and takes no longer than it has to
        end_orderly()
    with ended_at_once():
        run_app(app, arguments, faults=(RanksFailed,))
