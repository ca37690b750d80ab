"""`python -m sim results`: ask the results of a sweep, also while it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="What `sweep` wrote to.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="CONDITION", help="As \"makespan_s < 2 and schedule != 'sync'\"; repeat for more."),
]
Sort = Annotated[list[str] | None, typer.Option("--sort", metavar="COLUMN", help="Rising; -COLUMN: falling.")]
Head = Annotated[int | None, typer.Option(min=1, help="The first so many rows.")]
Columns = Annotated[str | None, typer.Option(help="Which, as key,makespan_s; otherwise those that tell rows apart.")]
Pareto = Annotated[
    str | None, typer.Option(help="Only rows that none beats in these columns, as makespan_s,mean_age_steps,-images.")
]
Against = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Compare with another sweep, point by point.")]
Export = Annotated[Path | None, typer.Option(help="Write the rows: .csv, .json or .parquet.")]
Rerun = Annotated[str | None, typer.Option(metavar="KEY", help="Simulate the point of this key again, by SimPy.")]
Save = Annotated[Path | None, typer.Option(help="Where the trace of --rerun goes.")]


def results(
    folder: Folder,
    where: Where = None,
    sort: Sort = None,
    head: Head = None,
    columns: Columns = None,
    pareto: Pareto = None,
    against: Against = None,
    export: Export = None,
    rerun: Rerun = None,
    save: Save = None,
) -> None:
    """Filter, sort and export results; Pareto fronts; compare two sweeps; run one point again with a trace."""
    from sim.sweeps import results as asked
    from sim.sweeps.store import Store

    asks = {"--where": where, "--sort": sort, "--head": head, "--columns": columns, "--pareto": pareto,
            "--against": against, "--export": export}  # fmt: skip
    _check([name for name, said in asks.items() if said is not None], rerun, save)
    _refuse_searches(folder)
    if export is not None:
        _refuse_export(export, folder)
    table = asked.read_results(folder)
    if rerun is not None:
        print(*_again(folder, rerun, save), sep="\n")
        return
    rows = asked.chosen(table, where or [], [], None)
    if pareto is not None:
        for line in asked.lacking_lines(rows, pareto.split(",")):
            print(line, file=sys.stderr)
        rows = asked.pareto(rows, pareto.split(","))
    rows = asked.chosen(rows, [], sort or [], head)
    if export is not None:
        asked.export(rows, export)
        print(f"{export}: {len(rows)} rows")
    elif against is not None:
        print(*(f"{where}: version {Store(where).manifest()['version']}" for where in (folder, against)), sep="\n")
        theirs = asked.chosen(asked.read_results(against), where or [], [], None)
        print(*asked.comparison_lines(rows, theirs), sep="\n")
    elif any(asks[name] is not None for name in ("--where", "--sort", "--head", "--columns", "--pareto")):
        print(*asked.rows_table(rows, () if columns is None else columns.split(",")), sep="\n")
    else:
        print(*asked.summary_lines(table, Store(folder).manifest()), sep="\n")


def _check(given: list[str], rerun: str | None, save: Path | None) -> None:
    """Raises ValueError for options that would do nothing beside others."""
    if save is not None and rerun is None:
        raise ValueError("--save has no effect without --rerun")
    if rerun is not None and given:
        raise ValueError(f"{', '.join(given)} has no effect beside --rerun, which names its point")
    for first, others in (
        ("--export", ("--against", "--columns")),
        ("--against", ("--columns", "--sort", "--head", "--pareto")),
    ):
        if first in given and (idle := [name for name in others if name in given]):
            raise ValueError(f"{idle[0]} has no effect beside {first}")


def _refuse_searches(folder: Path) -> None:
    """Raises ValueError that says how to see what a search has found, where the folder is a search's."""
    from sim.search.folder import command_there

    if command := command_there(folder):
        raise ValueError(f"{folder}: holds a search, and no results of a sweep; what it found says: {command}")


def _refuse_export(path: Path, folder: Path) -> None:
    """Raises ValueError where a file would replace one, or be taken for rows of the sweep."""
    from sim.output import refuse_existing

    refuse_existing(path)
    if path.resolve().parent == folder.resolve():
        raise ValueError(f"--export {path}: all files of {folder} are read as rows of the sweep; say another folder")


def _again(folder: Path, key: str, save: Path | None) -> list[str]:
    """What SimPy says of one point, beside what stands in the results."""
    from sim.show import comparison_table
    from sim.sweeps.again import again
    from sim.sweeps.results import read_results

    table = read_results(folder)
    found = table[table["key"] == key]
    if found.empty:
        raise ValueError(f"{folder}: no row has the key {key}")
    trace = again(folder, key)
    if save is not None:
        trace.save(save)
    row = found.iloc[0]
    return [*comparison_table([trace], [key]), f"in the results: {float(row['makespan_s'])!r} s by {row['engine']}; "
            f"now {trace.makespan_s!r} s"]  # fmt: skip
