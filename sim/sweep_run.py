"""Running a sweep: chunks of points to workers, parts of results to a folder, until every point has its row.

Workers are processes of this machine, of a dask scheduler, or of Slurm; all get a chunk and hand back a part, so that
they share no files.  A worker that dies loses nothing: dask gives its chunk to another.  A chunk whose workers keep
dying is halved until the point that kills them is found, run alone once more, and noted.  It knows who works on what;
it refuses to know what a point means."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sim.point import Sources
from sim.sweep_points import Chunk, Points
from sim.sweep_rows import refused, rows_of
from sim.sweep_store import Store, part_bytes

CHUNK_S = 5.0  # what a chunk should take: little is lost with a worker, and little time goes to handing out
MOST_POINTS = 8192  # of a chunk
_FIRST_POINTS = 16
_STARTS = 5
PATIENCE = "20s"  # for a scheduler to answer
Tell = Callable[[int], None]
Part = tuple[bytes, float]


@dataclass(frozen=True)
class Workers:
    """Who runs chunks: so many processes here (0: this one; None: one a core), or those of a scheduler or of Slurm."""

    processes: int | None = None
    scheduler: str | None = None
    slurm_jobs: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("processes", "scheduler", "slurm_jobs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"--workers, --scheduler and --slurm all say who works: give one, not {len(given)}")


def chunk_part(chunk: Chunk, sources: Sources) -> Part:
    """Rows of a chunk as a Parquet file, and the seconds that it took: what a worker does."""
    began = time.perf_counter()
    return part_bytes(rows_of(chunk, sources)), time.perf_counter() - began


def run_sweep(points: Points, store: Store, workers: Workers, tell: Tell = lambda done: None) -> None:
    """Fills `store` with a row for each of `points` that has none; `tell` is called with how many came in."""
    ahead = _Ahead(points, store)
    if not ahead.left:
        return
    if workers.processes == 0:
        while (chunk := ahead.next()) is not None:
            ahead.finish(chunk, *chunk_part(chunk, points.sweep.sources), tell)
        return
    with _client(workers) as client:
        _distribute(client, ahead, points.sweep.sources, tell)


class _Ahead:
    """What is still to be done, and how many points the next chunk should have."""

    def __init__(self, points: Points, store: Store) -> None:
        self.points, self.store = points, store
        borders = points.borders
        missing = store.missing(len(points))
        self.left = deque(_cut(missing, borders))
        self.size = _FIRST_POINTS

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

    def finish(self, chunk: Chunk, part: bytes, seconds: float, tell: Tell) -> None:
        """Keeps a part, and learns from it how long points take."""
        self.store.write(chunk.first, chunk.last, part)
        fitting = int(len(chunk) * CHUNK_S / max(seconds, 1e-3))
        self.size = max(1, min(MOST_POINTS, fitting, 4 * max(self.size, _FIRST_POINTS)))
        tell(len(chunk))


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


def _distribute(client: Any, ahead: _Ahead, sources: Sources, tell: Tell) -> None:
    """Keeps every worker supplied.  Suspects, points whose worker died, are run again when nothing else is."""
    wait = distributed().wait
    _await_workers(client)
    shared = client.submit(_same, sources, pure=False)  # a task, so that it is made again if its worker dies
    flying: dict[Any, Chunk] = {}
    suspects: deque[Chunk] = deque()
    while ahead.left or flying or suspects:
        while ahead.left and len(flying) < 2 * max(1, len(client.scheduler_info(n_workers=-1)["workers"])):
            _send(client, ahead.next(), shared, flying)
        if not flying:
            _send(client, suspects.popleft(), shared, flying)
            alone = True
        else:
            alone = False
        done, _ = wait([*flying], return_when="FIRST_COMPLETED")
        for future in done:
            _take(future, flying.pop(future), ahead, suspects, alone, tell)


def _await_workers(client: Any) -> None:
    """Waits for a first worker; says so if there is none yet, since nothing else would be seen."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        print("waiting for a first worker ...", file=sys.stderr, flush=True)
        client.wait_for_workers(1)


def _send(client: Any, chunk: Chunk | None, shared: Any, flying: dict[Any, Chunk]) -> None:
    assert chunk is not None
    flying[client.submit(chunk_part, chunk, shared, pure=False)] = chunk


def _take(future: Any, chunk: Chunk, ahead: _Ahead, suspects: deque[Chunk], alone: bool, tell: Tell) -> None:
    """What came back for a chunk: its part, or that its workers died, or a fault."""
    KilledWorker = distributed().KilledWorker
    try:
        part, seconds = future.result()
    except KilledWorker as killed:
        if len(chunk) > 1:
            ahead.again(chunk)
        elif not alone:
            suspects.append(chunk)
        else:
            ahead.finish(
                chunk,
                part_bytes(refused(chunk, f"killed its worker, also alone: {killed}", ahead.points.sweep.sources)),
                0.0,
                tell,
            )
        return
    except Exception as fault:  # of ours: told in the row, so that the rest goes on
        if len(chunk) > 1:
            ahead.again(chunk)
        else:
            told = f"fault: {type(fault).__name__}: {fault}"
            ahead.finish(chunk, part_bytes(refused(chunk, told, ahead.points.sweep.sources)), 0.0, tell)
        return
    ahead.finish(chunk, part, seconds, tell)


def distributed() -> Any:
    """dask.distributed.  Raises ValueError that says how to install it."""
    try:
        return import_module("distributed")
    except ModuleNotFoundError:
        raise ValueError("a sweep on several processes needs dask: pip install 'dice-sim[sweep]'") from None


def _same(sources: Sources) -> Sources:
    return sources


@contextmanager
def _client(workers: Workers) -> Iterator[Any]:
    dask, there = import_module("dask"), distributed()
    if workers.scheduler is not None:
        with _connected(workers.scheduler) as client:
            yield client
        return
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.scheduler.worker-saturation": 1.0,
    }
    with dask.config.set(settings):
        if workers.slurm_jobs is not None:
            machine = _slurm(workers.slurm_jobs)
        else:
            machine = _local(workers.processes or len(os.sched_getaffinity(0)))
        with machine, there.Client(machine) as client:
            yield client


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        client = distributed().Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"--scheduler {address}: no scheduler answers: {error}") from None
    with client:
        yield client


def _local(processes: int) -> Any:
    """Processes here; begun again if one is killed while they start."""
    for attempt in range(_STARTS):
        try:
            return distributed().LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address=":0")
        except RuntimeError:
            if attempt == _STARTS - 1:
                raise
    raise AssertionError("it returns or raises")


def _slurm(jobs: int) -> Any:
    """Slurm jobs as dask-jobqueue starts them; its own configuration says cores, memory, queue and account."""
    try:
        machine = import_module("dask_jobqueue").SLURMCluster()
    except ModuleNotFoundError:
        raise ValueError("--slurm needs dask-jobqueue: pip install dask-jobqueue") from None
    machine.scale(jobs=jobs)
    return machine
