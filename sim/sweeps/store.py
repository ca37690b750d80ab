"""A folder of results: Parquet parts, each written whole or not at all, and what made them.

    part-0000000000-0000004096.parquet      rows of points 0 to 4095 of the sweep; its metadata say what made it
    _sweep.json                             the sweep's digest, and of every run of it: version, command, date
    _sweep.yaml                             the file

`pandas.read_parquet(folder)` reads it at any moment, also while a sweep runs.  A folder belongs to one sweep and one
version of the program; one process at a time writes to it.  It knows files; it refuses to know what is in a row."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.output import owned_folder

if TYPE_CHECKING:
    import pyarrow as pa

_PART = re.compile(r"part-(\d{10})-(\d{10})\.parquet")
_MANIFEST, FILE = "_sweep.json", "_sweep.yaml"
ORIGIN = "dice-sim"  # key of a part's metadata: what made it, as JSON
_SAME = ("digest", "version", "points")


@dataclass(frozen=True)
class Store:
    """The results of one sweep.  Raises ValueError where the folder holds anything else.

    made: what parts that are written to it should say of their origin; damaged: parts that were, and were taken away
    when it was opened."""

    folder: Path
    made: Mapping[str, str] = field(default_factory=dict)
    damaged: tuple[Path, ...] = ()

    def done(self) -> list[tuple[int, int]]:
        """(first, last + 1) of the points that have rows, in order."""
        found = [_PART.fullmatch(name) for name in os.listdir(self.folder)]
        return sorted((int(each[1]), int(each[2])) for each in found if each)

    def missing(self, points: int) -> list[tuple[int, int]]:
        """(first, last + 1) of the stretches of points that have no rows.  Raises ValueError if some have two."""
        stretches, at = [], 0
        for first, last in self.done():
            if first < at or last > points:
                raise ValueError(f"{self.folder}: points {first} to {last - 1} stand there twice, or are too many")
            if first > at:
                stretches.append((at, first))
            at = last
        return [*stretches, *([(at, points)] if at < points else [])]

    def write(self, first: int, last: int, part: bytes) -> None:
        """Puts rows of points first to last - 1 there, whole or not at all."""
        path = self.path(first, last)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def path(self, first: int, last: int) -> Path:
        """Where rows of points first to last - 1 stand."""
        return self.folder / f"part-{first:010d}-{last:010d}.parquet"

    def broken(self) -> Iterator[Path]:
        """Parts that are no Parquet files, or have not a row for each of their points."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for first, last in self.done():
            try:
                whole = pq.read_metadata(self.path(first, last)).num_rows == last - first
            except (OSError, pa.ArrowInvalid):
                whole = False
            if not whole:
                yield self.path(first, last)

    def manifest(self) -> dict[str, Any]:
        """What made these results.  Raises ValueError if it is not there."""
        try:
            found: dict[str, Any] = json.loads((self.folder / _MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder}: no results of a sweep: {error}") from None
        if not isinstance(found, dict) or (lacks := [key for key in (*_SAME, "runs") if key not in found]):
            told = f"lacks {', '.join(lacks)}" if isinstance(found, dict) else "holds no table"
            raise ValueError(f"{self.folder}: no results of a sweep: {_MANIFEST} {told}")
        return found


def part_bytes(rows: pa.Table, made: Mapping[str, str] | None = None) -> bytes:
    """A table as a Parquet file, whose metadata say what `made` it."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    rows = rows.replace_schema_metadata({ORIGIN: json.dumps(made)} if made else None)
    words = [name for name, kind in zip(rows.schema.names, rows.schema.types, strict=True) if str(kind) != "double"]
    pq.write_table(rows, buffer, compression="zstd", use_dictionary=[name for name in words if name != "key"])
    return buffer.getvalue()


@contextmanager
def opened(folder: Path, sweep_text: str, made: dict[str, Any], run: dict[str, Any]) -> Iterator[Store]:
    """The store of a sweep, new or begun earlier, for this process alone.

    made: digest, version and points, which must be those of what is there; run: what is noted of this run.  Raises
    ValueError, and changes nothing, where the folder belongs to something else or to another process."""
    with owned_folder(folder, _MANIFEST, "results of a sweep", keeps=lambda: bool(Store(folder).done())):
        runs = _earlier_runs(Store(folder), made)
        for left in folder.glob(".part-*"):  # of a process that was killed while it wrote
            left.unlink()
        damaged = (*Store(folder).broken(),)
        for part in damaged:
            part.unlink()
        _replace(folder / FILE, sweep_text)
        _replace(folder / _MANIFEST, json.dumps({**made, "runs": [*runs, run]}, indent=1) + "\n")
        yield Store(folder, {**{key: str(made[key]) for key in ("digest", "version")}, **run}, damaged)


def _earlier_runs(store: Store, made: dict[str, Any]) -> Sequence[Any]:
    if not (store.folder / _MANIFEST).exists():
        return []
    found = store.manifest()
    for key in _SAME:
        if found.get(key) != made[key]:
            what = "another version" if key == "version" else "another sweep"
            told = f"{key} {found.get(key)}, not {made[key]}"
            raise ValueError(f"{store.folder} holds results of {what} ({told}); say another --out: nothing was changed")
    return list(found["runs"])


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
