"""Who runs the chunks of a sweep: processes of this machine, the workers of a dask scheduler, or Slurm jobs.

It knows how to get at them; it refuses to know what they are given to do."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import resource_tracker
from typing import Any

PATIENCE = "20s"  # for a scheduler to answer
GONE = "the scheduler is gone; the same command goes on where this ended"
_STARTS = 5


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


def distributed() -> Any:
    """dask.distributed.  Raises ValueError that says how to install it."""
    try:
        return import_module("distributed")
    except ModuleNotFoundError:
        raise ValueError("a sweep on several processes needs dask: pip install 'dice-sim[sweep]'") from None


@contextmanager
def client_of(workers: Workers) -> Iterator[Any]:
    """A dask client to them, as long as the block lasts."""
    dask, there = import_module("dask"), distributed()
    if workers.scheduler is not None:
        with _connected(workers.scheduler) as client:
            _await_workers(client)
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
            _await_workers(client)
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
            with _unheard():
                return distributed().LocalCluster(
                    n_workers=processes, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
                )
        except RuntimeError as error:
            if attempt == _STARTS - 1:
                raise ConnectionError(f"{processes} workers could not be started: {error}") from error
    raise AssertionError("it returns or raises")


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes begun inside never hear Ctrl-C, which a terminal sends to all of them: who began them ends them, and
    hears it afterwards."""
    resource_tracker.ensure_running()  # which lets the thread hear it that begins it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _slurm(jobs: int) -> Any:
    """Slurm jobs as dask-jobqueue starts them; its own configuration says cores, memory, queue and account."""
    try:
        machine = import_module("dask_jobqueue").SLURMCluster
    except ModuleNotFoundError:
        raise ValueError("--slurm needs dask-jobqueue: pip install 'dice-sim[slurm]'") from None
    try:
        cluster = machine()
    except ValueError as error:
        told = "say cores and memory of a job in ~/.config/dask/jobqueue.yaml, under jobqueue: slurm:"
        raise ValueError(f"--slurm: {error}; {told}") from None
    cluster.scale(jobs=jobs)
    return cluster


def workers_of(client: Any) -> int:
    """How many there are now, 1 at least.  Raises ConnectionError if there is no scheduler any more."""
    if client.status != "running":
        raise ConnectionError(f"{GONE} (client {client.status})")
    return max(1, len(client.scheduler_info(n_workers=-1).get("workers", ())))


def _await_workers(client: Any) -> None:
    """Waits for a first worker; says so if there is none yet, since nothing else would be seen."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        print("waiting for a first worker ...", file=sys.stderr, flush=True)
        client.wait_for_workers(1)
