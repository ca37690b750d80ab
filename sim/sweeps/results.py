"""Questions to the results of sweeps: filter, sort, Pareto fronts, comparison, export.

Results are a pandas table, a row a point (sim/sweeps/rows.py says the columns): `pandas.read_parquet(folder)` is all it
takes to go on by oneself.  It knows tables; it refuses to know how the numbers came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.output import whole_file
from sim.show import grid
from sim.sweeps.failures import failure_lines
from sim.sweeps.formula import Formula
from sim.sweeps.rows import RESULTS, SAID_BY_ENGINES
from sim.sweeps.store import Store
from sim.units import readable, units_of

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".json", ".parquet")
_MANY, _FEW = 10_000, 1_000
_NEVER_SHOWN = (
    "key", "oldest_attention_steps", "images_per_s", "computing_alone_s", "stalled_s", "exposed_s",
    "communication_share", "engine", "error",
)  # fmt: skip


def read_results(folder: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All rows that are there, also while a sweep runs.  Raises ValueError if there are none, or a part is damaged."""
    import pandas as pd
    import pyarrow as pa

    store = Store(folder)
    store.manifest()
    if not store.done():
        raise ValueError(f"{folder}: no point has a row yet")
    try:
        return pd.read_parquet(folder, columns=None if columns is None else [*columns])
    except (OSError, pa.ArrowInvalid) as error:
        if not (broken := next(store.broken(), None)):
            raise
        raise ValueError(f"{broken} is damaged; the sweep's command runs its points again") from error


def columns_of(table: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Columns as formulas read them."""
    return {str(name): table[name].to_numpy() for name in table.columns}


def chosen(table: pd.DataFrame, conditions: Sequence[str], order: Sequence[str], most: int | None) -> pd.DataFrame:
    """The rows for which all conditions hold, sorted (a leading - : falling), the first of them.

    Raises ValueError for a column that there is not."""
    for text in conditions:
        table = table[Formula(text).mask(columns_of(table))]
    if order:
        names = [_known(table, name) for name in order]
        table = table.sort_values(names, ascending=[not name.startswith("-") for name in order], kind="stable")
    return table if most is None else table.head(most)


def _known(table: pd.DataFrame, name: str) -> str:
    bare = name.removeprefix("-")
    if bare not in table.columns:
        raise ValueError(f"there is no column {bare}; there are {', '.join(map(str, table.columns))}")
    return bare


def pareto(table: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    """The rows that no other row beats: as good in every objective, and better in one.  Less is better; with a leading
    - : more.  Of rows equal in all objectives, all stay.  Rows that lack one, or that were refused, are left out.

    Raises ValueError for a column that there is not, or is no number."""
    names = [_known(table, name) for name in objectives]
    if wrong := [name for name in names if table[name].dtype.kind not in "iufb"]:
        raise ValueError(f"column {wrong[0]} has no numbers to be compared")
    costs = table[names].to_numpy(dtype=float) * [-1 if name.startswith("-") else 1 for name in objectives]
    whole = np.flatnonzero(~np.isnan(costs).any(axis=1))
    return table.iloc[np.sort(whole[front(costs[whole])])]


def lacking_lines(table: pd.DataFrame, objectives: Sequence[str]) -> list[str]:
    """Which rows with results a Pareto front leaves out, because their engine does not say all objectives."""
    names = [_known(table, name) for name in objectives]
    ran = table[table["error"].isna()]
    lacks = {name: ran[ran[name].isna()] for name in names}
    told = {name: f" (engine {', '.join(sorted({*rows['engine']}))})" if name in SAID_BY_ENGINES else ""
            for name, rows in lacks.items()}  # fmt: skip
    return [f"{len(rows)} rows are left out, which have no {name}{told[name]}"
            for name, rows in lacks.items() if len(rows)]  # fmt: skip


def front(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Numbers of the rows of costs [row, objective] that no other row dominates."""
    left = np.arange(len(costs))
    if len(costs) > _MANY:  # most of many are dominated by the front of a few
        for best in costs[:: len(costs) // _FEW][front(costs[:: len(costs) // _FEW])]:
            worse = (costs[left] >= best).all(axis=1) & (costs[left] > best).any(axis=1)
            left = left[~worse]
    return left[_front(costs[left])]


def _front(costs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    order = np.lexsort(costs.T[::-1])
    kept: list[int] = []
    best = np.empty((0, costs.shape[1]))
    for at in order:  # what dominates a row comes before it
        mine = costs[at]
        below = (best <= mine).all(axis=1)
        if not (below & (best < mine).any(axis=1)).any():
            kept.append(int(at))
            if not below.any():
                best = np.vstack([best, mine])
    return np.array(kept, np.int64)


def export(table: pd.DataFrame, path: Path) -> None:
    """Writes rows as .csv, .json (a list of objects) or .parquet.  Raises ValueError for another suffix."""
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: should end in one of {', '.join(FORMATS)}")
    with whole_file(path) as part:
        if path.suffix == ".csv":
            table.to_csv(part, index=False)
        elif path.suffix == ".json":
            table.to_json(part, orient="records", indent=1, double_precision=15)
        else:
            table.to_parquet(part, index=False)


# ------------------------------------------------------------------------------------------------- tables


def rows_table(table: pd.DataFrame, columns: Sequence[str] = ()) -> list[str]:
    """A line a row: these columns, or the settings in which rows differ, and results."""
    names = [_known(table, name.strip()) for name in columns] or _telling(table)
    if table.empty:
        return ["no row is left"]
    return grid(names, [[_cell(name, row[name]) for name in names] for _, row in table.iterrows()])


def _telling(table: pd.DataFrame) -> list[str]:
    differ = [name for name in table.columns if name not in RESULTS and name != "key" and table[name].nunique() > 1]
    refused = ["error"] if table["error"].notna().any() else []
    told = [name for name in RESULTS if name not in _NEVER_SHOWN and table[name].notna().any()]
    return ["key", *differ, *told, *refused]


def _cell(name: str, value: Any) -> str:
    if value is None or value != value:
        return "-"
    if units_of(name) and not name.startswith("times.") and isinstance(value, float):
        return readable(name, value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def summary_lines(table: pd.DataFrame, manifest: Mapping[str, Any]) -> list[str]:
    """How many points have rows, who ran them, and why some were refused."""
    engines = table["engine"].value_counts()
    lines = [f"{len(table)} of {manifest['points']} points, by version {manifest['version']}"]
    lines += [f"{count} by {engine}" for engine, count in engines.items()]
    rows = "rows: --sort makespan_s --head 10; the best: --pareto makespan_s,mean_age_steps"
    return [*lines, *failure_lines(table["error"]), rows]


def _apart(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[str]:
    """Why two sweeps have no point in common: a point is known by all of its settings."""
    for name in [name for name in {**ours, **theirs} if name not in RESULTS and name != "key"]:
        here, there = ({*map(str, table[name])} if name in table else {"nothing"} for table in (ours, theirs))
        if here.isdisjoint(there):
            yield f"{name} differs in all: {_few(here)} here, {_few(there)} there"


def _few(values: set[str]) -> str:
    return ", ".join([*sorted(values)[:3], *(["..."] if len(values) > 3 else [])])


def comparison_lines(ours: pd.DataFrame, theirs: pd.DataFrame, most: int = 10) -> list[str]:
    """Points that both sweeps have: by how much results differ, and the points that differ most in makespan."""
    both = ours.merge(theirs, on="key", suffixes=("", " (other)"))
    only = f"{len(both)} points in both, {len(ours) - len(both)} only here, {len(theirs) - len(both)} only there"
    if both.empty:
        return [only, *_apart(ours, theirs)]
    numeric = [name for name in RESULTS if f"{name} (other)" in both and both[name].dtype.kind in "iuf"]
    change = {name: (both[name] / both[f"{name} (other)"] - 1).where(both[name] != both[f"{name} (other)"], 0.0)
              for name in numeric}  # fmt: skip
    rows = [[name, f"{(each == 0).sum()}", f"{each.median():+.3%}", f"{each.min():+.3%}", f"{each.max():+.3%}"]
            for name, each in change.items() if each.notna().any()]  # fmt: skip
    lines = [only, "", *grid(["result, here over there", "equal", "median", "least", "most"], rows)]
    worst = change["makespan_s"].abs().sort_values(ascending=False).head(most)
    worst = worst[worst > 0]
    if worst.empty:
        return lines
    told = [[str(both["key"][i]), _cell("_s", both["makespan_s"][i]), _cell("_s", both["makespan_s (other)"][i]),
             f"{change['makespan_s'][i]:+.3%}"] for i in worst.index]  # fmt: skip
    return [*lines, "", *grid(["key", "makespan here", "there", "change"], told)]
