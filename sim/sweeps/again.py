"""One point of a sweep again, by SimPy, with a trace.

It knows how a key leads back to a point: through the sweep's file, which lies beside its results."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from sim.engine import simulate
from sim.sweeps.file import read_sweep
from sim.sweeps.point import build
from sim.sweeps.points import Points, row_keys
from sim.sweeps.store import FILE, Store
from sim.trace import Trace


def again(folder: Path, key: str) -> Trace:
    """The trace of the point that has this key.

    Raises ValueError if the sweep's file, or what it names, is no longer what the results came from, or if none of
    its points has the key."""
    manifest = Store(folder).manifest()
    points = Points(read_sweep(folder / FILE, manifest["changes"]))
    if points.sweep.digest != manifest["digest"]:
        raise ValueError(f"{folder}: the files that its sweep names have changed since")
    borders = points.borders
    for first, last in pairwise(borders):
        chunk = points.chunk(first, last)
        keys = row_keys(chunk, points.sweep.sources)
        if key in keys:
            point = chunk.point(keys.index(key))
            return simulate(*build(point, points.sweep.sources), point.get("seed"))
    raise ValueError(f"{folder}: no point has the key {key}")
