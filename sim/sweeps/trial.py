"""What a sweep will take, from a few of its points tried here: seconds, bytes, and reasons for refusals.

It extrapolates in proportion: caches that a longer run fills, and points unlike those tried, it does not know."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import pairwise

from sim.sweeps.points import Points
from sim.sweeps.provenance import here
from sim.sweeps.rows import rows_of
from sim.sweeps.run import CHUNK_S, FIRST_POINTS, MOST_POINTS
from sim.sweeps.store import part_bytes
from sim.units import readable

_STRETCHES = 3
_TRY_S, _GROWS = 3.0, 8  # of a stretch; as many times more points a try


@dataclass(frozen=True)
class Trial:
    """workers: processes; tried: points; seconds: of the whole sweep; bytes: of its results."""

    workers: int
    tried: int
    seconds: float
    size_bytes: float
    engines: str
    errors: tuple[str, ...]

    @property
    def duration_text(self) -> str:
        """How long, as one says it."""
        for unit, size in (("h", 3600.0), ("min", 60.0)):
            if self.seconds >= 3 * size:
                return f"{self.seconds / size:.0f} {unit}"
        return f"{self.seconds:.0f} s"

    @property
    def size_text(self) -> str:
        """How large, as one says it."""
        return readable("size_bytes", self.size_bytes)

    @staticmethod
    def of(points: Points, processes: int | None) -> Trial:
        """Tries the beginnings of the first, the middle and the last stretch of one list of ops."""
        import pyarrow as pa

        borders = points.borders
        stretches = [*pairwise(borders)]
        chosen = {*(stretches[i * (len(stretches) - 1) // (_STRETCHES - 1)] for i in range(_STRETCHES))}
        tables, seconds = [], 0.0
        for first, last in sorted(chosen):
            size, took = 1, 0.0
            while took * _GROWS < _TRY_S and size <= last - first:
                began = time.perf_counter()
                rows = rows_of(points.chunk(first, first + size), points.sweep.sources)
                took = time.perf_counter() - began
                size *= _GROWS
            tables.append(rows)
            seconds += took * (last - first) / rows.num_rows
        table = pa.concat_tables(tables)
        whole = seconds * len(points) / sum(last - first for first, last in chosen)
        workers = max(1, len(os.sched_getaffinity(0)) if processes is None else processes)
        frame = table.select(["engine", "error"]).to_pydict()
        errors = tuple(dict.fromkeys(error for error in frame["error"] if error))
        engines = ", ".join(sorted({engine for engine in frame["engine"] if engine}))
        most, least = (len(part_bytes(rows, here())) for rows in (table, table[:1]))
        per_row = (most - least) / max(1, table.num_rows - 1)
        parts = _parts([last - first for first, last in stretches], whole / len(points), workers)
        size = per_row * len(points) + parts * (least - per_row)
        return Trial(workers, table.num_rows, whole / workers, size, engines, errors[:5])


def _parts(stretches: list[int], point_s: float, workers: int) -> int:
    """Into how many parts stretches of so many points fall, as chunks grow (sim/sweeps/run.py)."""
    most, size, parts = max(1, min(MOST_POINTS, int(CHUNK_S / max(point_s, 1e-9)))), FIRST_POINTS, 0
    for points in stretches:
        while points > 0:
            points -= size
            parts += 1
            if parts % (2 * workers) == 0:  # all that are under way have come back
                size = min(most, 4 * size)
    return parts
