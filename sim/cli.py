"""The command line: `python -m sim schedules | show | check | simulate | ...`, also called `dice-sim`.

Every command loads what it was given, calls one function of the package and prints or writes what comes back.  What
the user can mend (ValueError, OSError) ends in one message on stderr and exit code 2, before anything is written.
SimPy, NumPy and matplotlib are imported by the commands that use them (sim/commands)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from sim.commands.advise import advise
from sim.commands.cluster import cluster
from sim.commands.memory import memory
from sim.commands.model import model
from sim.commands.profile import read_back
from sim.commands.reference import reference
from sim.commands.results import results
from sim.commands.rivals import rivals
from sim.commands.schedules import check, schedules, show
from sim.commands.search import search
from sim.commands.sensitivity import sensitivity
from sim.commands.similarity import similarity
from sim.commands.simulate import simulate
from sim.commands.sweep import sweep
from sim.commands.traces import convert, critical_saved, draw, report_saved
from sim.terminal import run_app

app = typer.Typer(
    help="How long a schedule of mixture-of-experts diffusion takes, how stale it gets, and how much memory it needs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "schedules": schedules,
    "show": show,
    "check": check,
    "simulate": simulate,
    "rivals": rivals,
    "memory": memory,
    "model": model,
    "cluster": cluster,
    "sweep": sweep,
    "results": results,
    "search": search,
    "advise": advise,
    "sensitivity": sensitivity,
    "trace": convert,
    "picture": draw,
    "report": report_saved,
    "critical": critical_saved,
    "profile": read_back,
    "similarity": similarity,
    "reference": reference,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits."""
    run_app(app, arguments)
