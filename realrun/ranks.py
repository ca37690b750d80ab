"""Ranks: processes that run one function together, and the pool of them on this machine.

The file knows how processes begin, fail and end, so that none hangs, is forgotten or outlives its launcher (their own
side is realrun/rank_process.py); it refuses to know what they compute or send."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import pickle
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from realrun.backend import Backend, load_backend
from realrun.rank import RankContext
from realrun.rank_process import GOODBYE, Answer, Seat, failed, work

T = TypeVar("T")

_GONE = "gone"
_START_S = 120.0  # for all processes to be up; the first pool of a program also imports torch
_LONGEST_S = 1e6  # of a timeout
_GRACE_S = 2.0  # for a rank to report, after the timeout of a transfer
_LOOK_S = 0.25  # between looks at the ranks that have not answered


class RanksFailed(RuntimeError):
    """Some ranks failed, and all were ended.  The message says, rank by rank, what happened.

    happened: the same, by rank.  tracebacks: by rank, of those that raised something."""

    def __init__(self, happened: Mapping[int, str], tracebacks: Mapping[int, str]) -> None:
        super().__init__("; ".join(f"rank {rank}: {what}" for rank, what in sorted(happened.items())))
        self.happened, self.tracebacks = dict(happened), dict(tracebacks)


class _Member(NamedTuple):
    """A rank process, as its launcher holds it."""

    process: ForkServerProcess
    pipe: Connection


class Ranks:
    """A pool of `world` ranks on this machine's processors, over gloo, that stays for any number of calls.

        with Ranks(2) as ranks:
            left, right = ranks.call(function, 1.5)  # function(rank_context, 1.5) on both

    timeout_s: of one transfer.  threads: of each rank, for matrix products.  pin: keeps rank r on the r-th of
    the cores that this process may use, if there is one for each (Linux): else two ranks that wake at once can share
    a core for a tick while another is idle.  backend: what the ranks' links are, and where they live (one with
    an `enter` moves each process there).  device: where their tensors are.  As with any multiprocessing, a program that
    starts a pool needs its `if __name__ == "__main__":`.  However the launcher ends, be it by SIGKILL, the ranks end
    with it."""

    def __init__(
        self,
        world: int,
        timeout_s: float = 60.0,
        threads: int = 1,
        pin: bool = False,
        backend: Backend | None = None,
        device: str = "cpu",
    ) -> None:
        if world < 1 or threads < 1:
            raise ValueError(f"world={world} and threads={threads} should be at least 1")
        if not 0 < timeout_s <= _LONGEST_S:
            raise ValueError(f"timeout_s={timeout_s} should be above 0 and at most {_LONGEST_S:g}")
        self.world, self.timeout_s, self._threads, self._pin = world, timeout_s, threads, pin
        self._backend, self._device, self._folder = backend or load_backend(), device, ""
        self._members: list[_Member] = []
        self._talks: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            self._start()
            self._ask(pickle.dumps([member.process.pid for member in self._members]), _START_S)
            self.call(_do_nothing, timeout_s=self.timeout_s + _GRACE_S)  # makes the process group
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for member in self._members:
                with contextlib.suppress(OSError):
                    member.pipe.send_bytes(GOODBYE)
            for member in self._members:
                member.process.join(_GRACE_S)
        self._kill()

    @property
    def leads(self) -> bool:
        """The launcher speaks for all its ranks."""
        return True

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float | None = None) -> list[T]:
        """[rank]: what function(rank_context, *args) returned there.  All of it has to be picklable.

        timeout_s: of the whole call.  None: as long as it takes; but when a rank has failed or is stopped, the
        others have the timeout of a transfer to notice.  Raises ValueError if the function did so on all ranks
        alike (a mistake of the user's, and the pool goes on), and RanksFailed, which ends it, after anything else."""
        if not self._members:
            raise RuntimeError("these ranks do not run: they have failed, or it is outside of their `with` block")
        return self._ask(pickle.dumps((function, args)), timeout_s)

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch.distributed", "realrun.rank_process"])
        self._folder = tempfile.mkdtemp(prefix="ranks-", dir=multiprocessing.util.get_temp_dir())
        mine = sorted(os.sched_getaffinity(0)) if self._pin else []
        cores = mine if len(mine) >= self.world else [None] * self.world
        for rank, core in zip(range(self.world), cores, strict=False):
            ours, theirs = context.Pipe()
            seat = Seat(
                rank, self.world, self.timeout_s, self._threads, core, self._folder, self._backend, self._device
            )
            process = context.Process(target=work, args=(seat, theirs), name=f"rank {rank}", daemon=True)
            process.start()
            theirs.close()
            self._members.append(_Member(process, ours))

    def _ask(self, message: bytes, timeout_s: float | None) -> list[Any]:
        began_s = time.monotonic()
        try:
            answers = self._collect(message, timeout_s)
            waited_s = time.monotonic() - began_s
            happened = {rank: self._happened(rank, answers.get(rank), waited_s) for rank in range(self.world)}
        except BaseException:  # Ctrl-C, say
            self._kill()
            raise
        if len(answers) == self.world and not any(answer.error for answer in answers.values()):
            return [answers[rank].value for rank in range(self.world)]
        failure = RanksFailed(happened, {rank: a.traceback for rank, a in answers.items() if a.traceback})
        mistakes = {answer.mistake for answer in answers.values()}
        if len(answers) == self.world and len(mistakes) == 1 and all(mistakes):
            raise ValueError(mistakes.pop()) from failure
        self._kill()
        raise failure

    def _collect(self, message: bytes, timeout_s: float | None) -> dict[int, Answer]:
        """Answers by rank; without those that had not come when patience ended."""
        arrived: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
        answers: dict[int, Answer] = {}
        # a thread each: neither a long message to a stopped rank nor half an answer may block the launcher
        self._talks = [
            threading.Thread(target=_talk, args=(rank, member.pipe, message, arrived), daemon=True)
            for rank, member in enumerate(self._members)
        ]
        for talk in self._talks:
            talk.start()
        began_s, trouble_s = time.monotonic(), None
        while len(answers) < self.world:
            with contextlib.suppress(queue.Empty):
                rank, answer = arrived.get(timeout=_LOOK_S)
                answers[rank] = answer
            now_s, silent = time.monotonic(), [m for r, m in enumerate(self._members) if r not in answers]
            trouble = any(a.error for a in answers.values()) or any(_is_stopped(m.process.pid) for m in silent)
            trouble_s = (trouble_s or now_s) if trouble else None
            if timeout_s is not None and now_s - began_s > timeout_s:
                break
            if trouble_s is not None and now_s - trouble_s > self.timeout_s + _GRACE_S:
                break
        return answers

    def _happened(self, rank: int, answer: Answer | None, waited_s: float) -> str:
        process = self._members[rank].process
        if answer is None:
            return f"no answer within {waited_s:.0f} s" + (" (stopped)" if _is_stopped(process.pid) else "")
        if answer.error != _GONE:
            return answer.error or "finished"
        process.join(_GRACE_S)
        status = process.exitcode
        return f"killed by signal {-status}" if status is not None and status < 0 else f"exited with status {status}"

    def _kill(self) -> None:
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.join()
        for talk in self._talks:  # with their ranks gone, they end
            talk.join()
        for member in self._members:
            member.pipe.close()
            member.process.close()
        self._members, self._talks = [], []
        shutil.rmtree(self._folder, ignore_errors=True)


def _talk(rank: int, pipe: Connection, message: bytes, arrived: queue.SimpleQueue[tuple[int, Answer]]) -> None:
    try:
        pipe.send_bytes(message)
        answer = pickle.loads(pipe.recv_bytes())
    except (EOFError, OSError):
        answer = Answer(error=_GONE)
    except Exception as error:
        answer = failed(error)
    arrived.put((rank, answer))


def _is_stopped(pid: int | None) -> bool:
    """Whether SIGSTOP or a debugger holds the process; False where there is no /proc to tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def _do_nothing(context: RankContext) -> None:
    pass
