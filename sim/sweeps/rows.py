"""Rows: what becomes of the points of a chunk, as a table of their settings and results.

A point that cannot be run has the reason as its `error` and no results.  The columns:

    key                                 hash of the configuration (sim/sweeps/points.py)
    schedule, steps, ..., cluster.*     all settings (sim/sweeps/settings.py)
    makespan_s, images_per_s            images of all ranks
    computing_alone_s                   of all compute ops, and of all dispatches and combines, if each had the machine
    communicating_alone_s               for itself: means of ranks
    stalled_s                           in which nothing is computed: mean of ranks
    exposed_s                           of that, while communication is under way or waited for
    communication_share                 of the makespan in which a dispatch or combine was under way: mean of ranks;
                                        these three as far as the engine says them (the recurrence: not exposed_s)
    mean_age_steps, oldest_age_steps, oldest_attention_steps, sent_bytes, memory_bytes      see sim/sweeps/facts.py
    quality                             estimated distance to the images of many synchronous steps, of `vulnerability`
    memory_fits                         whether the cluster's GPU has that; none where it has no GPU
    engine, error                       who ran it (sim/vectorised/engines.py); why nobody did

It knows which columns there are; it refuses to know where tables are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.cost import computes_in
from sim.gpu import DTYPES
from sim.memory import channels
from sim.schedule import Schedule
from sim.sweeps.facts import FactBook, Facts
from sim.sweeps.point import Sources, build_model, build_schedule, build_workload, machine_tables
from sim.sweeps.points import Chunk, Column, row_keys
from sim.sweeps.settings import DEFAULTS
from sim.vectorised.engines import Case, Evaluation, Outcomes
from sim.vectorised.machines import may_differ
from sim.workload import Workload

if TYPE_CHECKING:
    import pyarrow as pa

_FLOATS = (
    "makespan_s", "images_per_s", "computing_alone_s", "communicating_alone_s", "stalled_s", "exposed_s",
    "communication_share", *Facts._fields, "quality",
)  # fmt: skip
SAID_BY_ENGINES = ("stalled_s", "exposed_s", "communication_share")  # by some of them
RESULTS = (*_FLOATS, "memory_fits", "engine", "error")
_KINDS = {**dict.fromkeys(_FLOATS, "double"), "memory_fits": "bool", "engine": "string", "error": "string"}
_KINDS |= dict.fromkeys(("oldest_age_steps", "oldest_attention_steps"), "int64")
Found = dict[str, npt.NDArray[Any]]


def rows_of(chunk: Chunk, sources: Sources) -> pa.Table:
    """A row a point, in their order."""
    found = _nothing(chunk)
    try:
        model = build_model(chunk.constant, sources)
        book = _book(build_schedule(chunk.constant, model, sources))
    except (ValueError, OSError) as reason:
        found["error"][:] = str(reason)
    else:
        several = Evaluation(chunk.stretch)
        asked = [_ask(found, at, shape, changes, book, several, sources) for at, shape, changes in _shapes(chunk)]
        several.finish()
        for each in asked:
            if each is not None:
                _note(found, each, book, sources)
    return _as_table(chunk, sources, found)


@lru_cache(maxsize=16)  # follows from the schedule, and serves all chunks of it
def _book(schedule: Schedule) -> FactBook:
    return FactBook(schedule)


def refused(chunk: Chunk, error: str, sources: Sources) -> pa.Table:
    """Rows of points that nobody ran, and why."""
    found = _nothing(chunk)
    found["error"][:] = error
    return _as_table(chunk, sources, found)


def _nothing(chunk: Chunk) -> Found:
    size = len(chunk)
    return {name: np.full(size, np.nan) if name in _FLOATS else np.full(size, None, object) for name in RESULTS}


def _as_table(chunk: Chunk, sources: Sources, found: Found) -> pa.Table:
    import pyarrow as pa

    columns = {"key": pa.array(row_keys(chunk, sources)), **_settings_columns(chunk)}
    for name in RESULTS:
        columns[name] = pa.array(found[name], _KINDS[name], from_pandas=True)
    return pa.table(columns)


@dataclass(frozen=True)
class _Asked:
    """Points `at` that share all settings of `shape`, as a case, and what becomes of it once all are evaluated."""

    at: npt.NDArray[Any]
    shape: Mapping[str, Any]
    case: Case
    facts: Facts
    outcomes: Outcomes


def _ask(
    found: Found, at: npt.NDArray[Any], shape: Mapping[str, Any], changes: Mapping[str, npt.NDArray[Any]],
    book: FactBook, several: Evaluation, sources: Sources,
) -> _Asked | None:  # fmt: skip
    """Adds the points `at` to `several`; writes why into `found`, and gives None, if they cannot be run."""
    try:
        tables = machine_tables(shape, sources)
        model = build_model(shape, sources)
        workload = build_workload(shape, model, book.schedule, tables["ranks"], sources)
        facts = book.facts(workload, *_of_machine(tables, workload, changes, len(at)))
        seeds = changes["seed"].astype(np.int64) if "seed" in changes else None
        numbers = {key: values for key, values in changes.items() if key != "seed"}
        case = Case(book.schedule, workload, tables, len(at), numbers, seeds)
        return _Asked(at, shape, case, facts, several.add(case))
    except (ValueError, OSError, MemoryError) as reason:
        found["error"][at] = str(reason) or "out of memory"
        return None


def _note(found: Found, asked: _Asked, book: FactBook, sources: Sources) -> None:
    """Writes what has become of a case into `found`."""
    at, facts, outcomes, workload = asked.at, asked.facts, asked.outcomes, asked.case.workload
    shape, compute = asked.shape, asked.case.tables["compute"]
    ran = outcomes.error == None  # noqa: E711
    for name, values in zip(Facts._fields, facts, strict=True):
        found[name][at[ran]] = np.broadcast_to(values, len(at))[ran]
    for name, column in outcomes._asdict().items():
        found[name][at] = column
    found["images_per_s"][at] = workload.images_in_all / outcomes.makespan_s
    if shape.get("vulnerability") is not None:
        found["quality"][at] = book.quality(workload, sources.vulnerabilities[shape["vulnerability"]])
    if "peak" in compute:
        limit = _number(compute["memory_bytes"], "compute.memory_bytes", asked.case.changes, len(at))
        found["memory_fits"][at[ran]] = (facts.memory_bytes <= limit)[ran]


def _of_machine(
    tables: Any, workload: Workload, changes: Mapping[str, npt.NDArray[Any]], size: int
) -> tuple[int, npt.NDArray[np.float64]]:
    """Bytes of an element; and channels of a communicator to each peer, of each of `size` machines."""
    compute, key = tables["compute"], "interference.multiprocessors"
    share = _number(tables.get("interference", {}).get("multiprocessors", 0.0), key, changes, size)
    on_gpu = "peak" in compute
    each = _number(compute["multiprocessors"], "compute.multiprocessors", changes, size) if on_gpu else 0
    return DTYPES[computes_in(workload, on_gpu)], channels(share, each)


def _number(value: float, key: str, changes: Mapping[str, npt.NDArray[Any]], size: int) -> npt.NDArray[np.float64]:
    """A number of the cluster's file in each of `size` configurations."""
    values = changes.get(f"cluster.{key}", np.full(size, value))
    return np.asarray(values * changes.get(f"times.cluster.{key}", 1.0))


def _shapes(chunk: Chunk) -> Iterator[tuple[npt.NDArray[Any], dict[str, Any], dict[str, npt.NDArray[Any]]]]:
    """(points, the settings that they share, numbers of the machine in which they differ) of every workload."""
    numeric = {key: column for key, column in chunk.varying.items() if _numeric(key, column)}
    others = {key: column for key, column in chunk.varying.items() if key not in numeric}
    for at in _alike([column.codes for column in others.values()], len(chunk)):
        point = chunk.point(int(at[0]))
        shape = {key: value for key, value in point.items() if key not in numeric}
        changes = {key: column[at].cells for key, column in numeric.items()}
        if "seed" in shape:
            seed = shape.pop("seed")
            changes |= {} if seed is None else {"seed": np.full(len(at), seed)}
        yield at, shape, changes


def _numeric(key: str, column: Column) -> bool:
    """Whether a setting is a number that may differ in points which share a workload."""
    if key != "seed" and not may_differ(key):
        return False
    cells = column.cells
    return cells.dtype != object and not np.isnan(cells).any()


def _alike(codes: Sequence[npt.NDArray[Any]], size: int) -> list[npt.NDArray[Any]]:
    """Numbers of the rows in which all codes are equal, by group."""
    if not codes:
        return [np.arange(size)]
    order = np.lexsort(codes)
    changed = np.any([np.diff(each[order]) != 0 for each in codes], axis=0)
    return np.split(order, np.flatnonzero(changed) + 1)


# ------------------------------------------------------------------------------------------------- columns


def _settings_columns(chunk: Chunk) -> dict[str, pa.Array]:
    import pyarrow as pa

    said = {**DEFAULTS, **chunk.constant}
    columns = {}
    for key in chunk.kinds:
        column = chunk.varying.get(key) or Column(np.zeros(len(chunk), np.int64), (said.get(key),))
        kind = chunk.kinds[key]
        values = [kind_of(value, kind) for value in column.values]
        columns[key] = pa.array(values, kind).take(pa.array(column.codes)) if values else pa.array(column.codes, kind)
    return columns


def kind_of(value: Any, kind: str) -> Any:
    """`value` as a cell of that kind."""
    return None if value is None else str(value) if kind == "string" else value
