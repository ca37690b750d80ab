"""Running a sweep: chunks of points to workers, parts of results to a folder, until every point has its row.

Workers are processes of this machine, of a dask scheduler, or of Slurm; all get a chunk and hand back a part, so that
they share no files.  A worker that dies loses nothing: dask gives its chunk to another.  A chunk whose workers keep
dying is halved until the point that kills them is found, run alone once more, and noted.  It knows who works on what;
it refuses to know what a point means."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sim.sweeps.failures import FAULT, KILLED
from sim.sweeps.point import Sources
from sim.sweeps.points import Chunk, Points
from sim.sweeps.provenance import here
from sim.sweeps.rows import refused, rows_of
from sim.sweeps.store import Store, part_bytes
from sim.sweeps.workers import GONE, Workers, client_of, distributed, workers_of

CHUNK_S = 5.0  # what a chunk should take: little is lost with a worker, and little time goes to handing out
MOST_POINTS = 8192  # of a chunk
FIRST_POINTS = 16
Tell = Callable[[int], None]


class Part(NamedTuple):
    """What a worker hands back: rows as a Parquet file, the seconds that they took; or the fault that there was."""

    rows: bytes
    seconds: float
    fault: str = ""


def chunk_part(chunk: Chunk, sources: Sources, made: Mapping[str, str]) -> Part:
    """The rows of a chunk: what a worker does.  No fault of ours may stop a sweep, so that it is handed back, too."""
    began = time.perf_counter()
    try:
        return Part(part_bytes(rows_of(chunk, sources), {**made, **here()}), time.perf_counter() - began)
    except Exception as fault:
        return Part(b"", time.perf_counter() - began, f"{FAULT}{type(fault).__name__}: {fault}")


def again_killed(store: Store) -> None:
    """Takes away the rows of points that killed their workers, so that they are tried again: another machine, or a
    quieter one, may have what they lacked."""
    import pyarrow.parquet as pq

    alone = [store.path(first, last) for first, last in store.done() if last - first == 1]
    for path in alone:
        if pq.read_table(path, columns=["error"])["error"][0].as_py() == KILLED:
            path.unlink()


def run_sweep(points: Points, store: Store, workers: Workers, tell: Tell = lambda done: None) -> None:
    """Fills `store` with a row for each of `points` that has none; `tell` is called with how many came in."""
    ahead = _Ahead(points, store, tell)
    if not ahead.left:
        return
    if workers.processes == 0:
        while (chunk := ahead.next()) is not None:
            ahead.take(chunk, chunk_part(chunk, points.sweep.sources, store.made))
        return
    with client_of(workers) as client:
        _distribute(client, ahead, points.sweep.sources)


class _Ahead:
    """What is still to be done, and how many points the next chunk should have."""

    def __init__(self, points: Points, store: Store, tell: Tell) -> None:
        self.points, self.store, self.tell = points, store, tell
        borders = points.borders
        missing = store.missing(len(points))
        self.left = deque(_cut(missing, borders))
        self.size = FIRST_POINTS

    def next(self) -> Chunk | None:
        """The next chunk, all of one list of ops; None if there is none."""
        if not self.left:
            return None
        first, last = self.left.popleft()
        if last - first > self.size:
            self.left.appendleft((first + self.size, last))
            last = first + self.size
        return self.points.chunk(first, last)

    def again(self, chunk: Chunk) -> None:
        """Puts both halves of a chunk in front."""
        middle = chunk.first + len(chunk) // 2
        self.left.extendleft([(middle, chunk.last), (chunk.first, middle)])

    def take(self, chunk: Chunk, part: Part) -> None:
        """Keeps a part, and learns from it how long points take; halves a chunk with a fault, and notes that of one."""
        if part.fault:
            self.give_up(chunk, part.fault)
            return
        self.store.write(chunk.first, chunk.last, part.rows)
        fitting = int(len(chunk) * CHUNK_S / max(part.seconds, 1e-3))
        self.size = max(1, min(MOST_POINTS, fitting, 4 * max(self.size, FIRST_POINTS)))
        self.tell(len(chunk))

    def give_up(self, chunk: Chunk, why: str) -> None:
        """Puts both halves in front; of a single point, writes why it has no results."""
        if len(chunk) > 1:
            self.again(chunk)
            return
        rows = refused(chunk, why, self.points.sweep.sources)
        self.store.write(chunk.first, chunk.last, part_bytes(rows, {**self.store.made, **here()}))
        self.tell(1)


def _cut(stretches: list[tuple[int, int]], borders: list[int]) -> Iterator[tuple[int, int]]:
    """`stretches`, cut where a border lies inside; one pass over both, which rise."""
    at = 0
    for first, last in stretches:
        while at < len(borders) and borders[at] <= first:
            at += 1
        inner = at
        while inner < len(borders) and borders[inner] < last:
            yield first, borders[inner]
            first = borders[inner]
            inner += 1
        yield first, last


def _distribute(client: Any, ahead: _Ahead, sources: Sources) -> None:
    """Keeps every worker supplied.  Suspects, points whose worker died, are run again when nothing else is."""
    wait = distributed().wait
    shared = client.submit(_same, sources, pure=False)  # a task, so that it is made again if its worker dies
    flying: dict[Any, Chunk] = {}
    suspects: deque[Chunk] = deque()
    while ahead.left or flying or suspects:
        while ahead.left and len(flying) < 2 * workers_of(client):
            _send(client, ahead.next(), shared, ahead.store.made, flying)
        alone = not flying
        if alone:
            _send(client, suspects.popleft(), shared, ahead.store.made, flying)
        done, _ = wait([*flying], return_when="FIRST_COMPLETED")
        for future in done:
            _take(future, flying.pop(future), ahead, None if alone else suspects)


def _send(client: Any, chunk: Chunk | None, shared: Any, made: Mapping[str, str], flying: dict[Any, Chunk]) -> None:
    assert chunk is not None
    flying[client.submit(chunk_part, chunk, shared, made, pure=False)] = chunk


def _take(future: Any, chunk: Chunk, ahead: _Ahead, suspects: deque[Chunk] | None) -> None:
    """What came back for a chunk: its part, or that its workers died (suspects: None if nothing else was running).

    Raises ConnectionError if nothing came back because there is no scheduler any more."""
    try:
        part = future.result()
    except distributed().KilledWorker:
        if len(chunk) == 1 and suspects is not None:
            suspects.append(chunk)
        else:
            ahead.give_up(chunk, KILLED)
    except Exception as gone:  # chunk_part hands its own faults back: this is the way there, or the way back
        raise ConnectionError(f"{GONE} ({type(gone).__name__}: {gone})") from gone
    else:
        ahead.take(chunk, part)


def _same(sources: Sources) -> Sources:
    return sources
