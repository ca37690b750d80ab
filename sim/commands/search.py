"""`python -m sim search`: find the settings, the layers or the order that are best."""

from __future__ import annotations

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

    Stopped at any moment, the same command goes on."""
    from rich.console import Console

    from sim.search.file import LayersSearch, SettingsSearch, read_search
    from sim.search.run import search_layers, search_order

    asked = read_search(file, changes or [])
    folder = out or Path("out") / file.stem
    folder.mkdir(parents=True, exist_ok=True)
    with Console(stderr=True).status("searching") as status:
        if isinstance(asked, SettingsSearch):
            rows = _settings(asked, folder, status.update)
        elif isinstance(asked, LayersSearch):
            rows = search_layers(asked, folder, status.update)
        else:
            rows = search_order(asked, folder, status.update)
    print(*_table(rows), sep="\n")


def _settings(asked: SettingsSearch, folder: Path, tell: Any) -> list[dict[str, Any]]:
    from sim.search.settings import go_on, opened, unbeaten_trials

    study = opened(asked, folder / "journal.log")
    go_on(asked, study, lambda done: tell(f"{done} of {asked.trials} trials"))
    keys = [axis.key for axis in asked.sweep.axes]
    return [
        {"trial": trial.number, **{key: trial.params[key] for key in keys},
         **dict(zip(asked.minimize, trial.values, strict=True))}
        for trial in unbeaten_trials(study)
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """A line a row; what is a list, or too long, is in the folder's files."""
    from sim.show import grid

    if not rows:
        return ["nothing is within the limits"]
    columns = [key for key, value in rows[0].items() if not isinstance(value, list)]
    return grid(columns, ([_cell(row[key]) for key in columns] for row in rows))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={each}" for key, each in value.items()) or "-"
    return f"{value:.5g}" if isinstance(value, float) else "-" if value is None else str(value)
