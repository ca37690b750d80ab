"""`python -m sim search`: find the settings, the layers or the order that are best."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sim.search.file import SettingsSearch

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
    from sim.search.run import search_layers, search_order

    asked = read_search(file, changes or [])
    folder = out or Path("out") / file.stem
    made = {"command": _command(file, changes or [], folder), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    with opened(folder, digest(asked), made), Console(stderr=True).status("searching") as status:
        if isinstance(asked, SettingsSearch):
            rows, instead = _settings(asked, folder, status.update)
        elif isinstance(asked, LayersSearch):
            rows, instead = search_layers(asked, folder, status.update), []
        else:
            rows, instead = search_order(asked, folder, status.update), []
    print(*(_table(rows) if rows else instead), sep="\n")
    if not rows:
        raise typer.Exit(1)


def _command(file: Path, changes: Sequence[str], folder: Path) -> str:
    return shlex.join(["python", "-m", "sim", "search", str(file), *changes, "--out", str(folder)])


def _settings(asked: SettingsSearch, folder: Path, tell: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """What was found; where that is nothing, why."""
    from sim.search.settings import found_rows, go_on, opened, why_nothing

    study = opened(asked, folder / "journal.log")
    go_on(asked, study, lambda done: tell(f"{done} of {asked.trials} trials"))
    rows = found_rows(asked, study)
    return rows, [] if rows else why_nothing(asked, study)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a row; what is a list, or too long, is in the folder's files."""
    from sim.show import grid

    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
    return grid(columns, ([_cell(row[key]) for key in columns] for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items()) or "-"
    return f"{value:.5g}" if isinstance(value, float) else "-" if value is None else str(value)
