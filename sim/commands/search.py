"""`python -m sim search`: find the settings, the layers or the order that are best."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file; sim/search/file.py says what is in it.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the file, as trials=100.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the results; out/ and the file's name without it.")]


def search(file: File, changes: Changes = None, out: Out = None) -> None:
    """Search for the settings, modes of layers, or order of ops that are fastest for what they cost.

    Stopped at any moment, the same command goes on, and finds what it would have found; so does one with more trials.
    Ends with 1 if nothing is within the limits."""
    from rich.console import Console

    from sim.search.file import LayersSearch, SettingsSearch, read_search
    from sim.search.folder import digest, opened
    from sim.search.journal import mended
    from sim.search.run import JOURNAL, anything_found, search_layers, search_order, search_settings
    from sim.search.show import answer_lines
    from sim.sweeps.provenance import version

    asked = read_search(file, changes or [])
    folder = out or Path("out") / file.stem
    made = {"search": digest(asked), "version": version()}
    with (
        opened(folder, made, _run(file, changes or [], folder), lambda: anything_found(folder)),
        Console(stderr=True).status("searching") as status,
    ):
        if isinstance(asked, SettingsSearch):
            if told := mended(folder / JOURNAL):
                print(told, file=sys.stderr)
            answer = search_settings(asked, folder, status.update)
        elif isinstance(asked, LayersSearch):
            answer = search_layers(asked, folder, status.update)
        else:
            answer = search_order(asked, folder, status.update)
    print(*answer_lines(answer), sep="\n")
    if not answer.rows:
        raise typer.Exit(1)


def _run(file: Path, changes: Sequence[str], folder: Path) -> dict[str, str]:
    """What is noted of a run, with a command that goes on with it."""
    from sim.sweeps.provenance import this_run

    command = shlex.join(["python", "-m", "sim", "search", str(file), *changes, "--out", str(folder)])
    return this_run(command, "optuna")
