"""A rank's process on this machine: it answers its launcher's requests, and ends when its launcher does.

It knows pipes, signals and the meeting of ranks over gloo; who launches it, and what for, is realrun/ranks.py's."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import queue
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from realrun.backend import Backend, Moves
from realrun.rank import RankContext, end_with_parent, joined
from realrun.turns import at_once

GOODBYE = b""  # from the launcher: end, all is well


class Answer(NamedTuple):
    """What a rank reports of one call."""

    value: Any = None
    error: str = ""  # "" if it went well
    traceback: str = ""
    mistake: str = ""  # the message alone, if the error is a ValueError


class Seat(NamedTuple):
    """What a rank process is told when it begins."""

    rank: int
    world: int
    timeout_s: float
    threads: int
    core: int | None
    folder: str
    backend: Backend
    device: str


def work(seat: Seat, pipe: Connection) -> None:
    """The life of a rank process: answers requests until its launcher says goodbye or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the launcher decides
    end_with_parent()  # multiprocessing's fork server
    if seat.core is not None:
        os.sched_setaffinity(0, {seat.core})  # before any thread is made: threads inherit it
    card = seat.backend.enter(seat.rank, seat.world) if isinstance(seat.backend, Moves) else ""
    torch.set_num_threads(seat.threads)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(pipe, requests, seat.folder), daemon=True).start()
    requests.get()
    pipe.send_bytes(pickle.dumps(Answer()))
    join = functools.cache(functools.partial(_join, seat, card))
    while True:
        pipe.send_bytes(_answer(requests.get(), join))


def _answer(message: bytes, join: Callable[[], RankContext]) -> bytes:
    try:
        function, args = pickle.loads(message)
        return pickle.dumps(Answer(function(join(), *args)))
    except BaseException as error:  # SystemExit too: whatever it is, the launcher wants to know
        return pickle.dumps(failed(error))
    finally:
        sys.stdout.flush()


def _join(seat: Seat, card: str) -> RankContext:
    if card:
        os.environ["GLOO_SOCKET_IFNAME"] = card
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    meeting = Path(seat.folder, "store").as_uri()
    timeout = timedelta(seconds=seat.timeout_s)
    with at_once():
        dist.init_process_group("gloo", meeting, timeout, seat.world, seat.rank)
    return joined(seat.timeout_s, torch.device(seat.device), seat.backend)


def _listen(pipe: Connection, requests: queue.SimpleQueue[bytes], folder: str) -> None:
    """Passes messages on; at the end of them ends the process, whatever its main thread is doing.

    If the launcher died, the ranks go too: also those that are stopped and could not see it.  (A gloo process may
    abort in its destructors after a peer's failure, hence os._exit.)"""
    pids: list[int] = []
    try:
        pids = pickle.loads(first := pipe.recv_bytes())
        requests.put(first)
        while (message := pipe.recv_bytes()) != GOODBYE:
            requests.put(message)
    except (EOFError, OSError):
        shutil.rmtree(Path(folder).parent, ignore_errors=True)  # all that multiprocessing made for the launcher
        for pid in pids:
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    os._exit(0)


def failed(error: BaseException) -> Answer:
    """The answer that says what was raised; call it while that is handled."""
    mistake = str(error) if isinstance(error, ValueError) else ""
    return Answer(None, f"{type(error).__name__}: {error}", traceback.format_exc(), mistake)
