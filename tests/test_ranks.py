"""Pools of rank processes: what they answer, how they fail, and that nothing is left of them."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from threading import Thread

import pytest
import torch
import torch.distributed as dist

from realrun.rank import RankContext, rank_from_environment
from realrun.ranks import Ranks, RanksFailed

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 1.0  # of a transfer, in the tests that let one time out
PROMPT_S = 10.0  # for what should happen at once, on a machine that may be busy


def describe(context: RankContext, word: str) -> tuple[int, int, str, int, int]:
    total = torch.tensor([context.rank + 1])
    dist.all_reduce(total, group=context.group)
    return context.rank, context.world, word, torch.get_num_threads(), int(total)


def pid(context: RankContext) -> int:
    return os.getpid()


def cores(context: RankContext) -> set[int]:
    return os.sched_getaffinity(0)


def twice(context: RankContext, rows: torch.Tensor) -> torch.Tensor:
    return 2 * rows


def dislike(context: RankContext, what: str) -> None:
    raise ValueError(f"cannot read {what!r}")


def fail_on_one(context: RankContext, how: str) -> str:
    """Rank 1 fails; the others wait for it in a collective."""
    if context.rank == 1:
        if how == "raise":
            raise ValueError("rank 1 dislikes this")
        if how == "leave":
            os._exit(3)
        os.kill(os.getpid(), signal.Signals[how])
    dist.barrier(group=context.group)
    return "unreachable"


def stop_late(context: RankContext) -> None:
    """Rank 1 stops when nobody needs it any more."""
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)


def sleep(context: RankContext, seconds: float) -> None:
    time.sleep(seconds)


def left(pids: list[int], gone: Collection[str] = ("",)) -> list[int]:
    """Which of these processes are still there after PROMPT_S, or in none of the states called `gone`."""
    deadline_s = time.monotonic() + PROMPT_S
    while (still := [pid for pid in pids if state(pid) not in gone]) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return still


def state(pid: int) -> str:
    """R, S, T, Z, ... as /proc has it; "" for a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def folders() -> list[Path]:
    """What pools of this process have left in the file system."""
    return list(Path(multiprocessing.util.get_temp_dir()).glob("ranks-*"))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_answer_in_order_and_stay_for_the_next_call(world: int) -> None:
    with Ranks(world) as ranks:
        total = world * (world + 1) // 2
        assert ranks.call(describe, "word") == [(rank, world, "word", 1, total) for rank in range(world)]
        pids = ranks.call(pid)
        assert ranks.call(pid) == pids
        assert len(set(pids)) == world
    assert not left(pids)
    assert not folders()
    with pytest.raises(RuntimeError, match="these ranks do not run"):
        ranks.call(pid)


def test_threads_pinning_and_long_messages() -> None:
    available = sorted(os.sched_getaffinity(0))
    rows = torch.randn(1 << 18)
    with Ranks(2, threads=2, pin=True) as ranks:
        assert [answer[3] for answer in ranks.call(describe, "")] == [2, 2]
        assert ranks.call(cores) == [{available[0]}, {available[1 % len(available)]}]
        assert all(torch.equal(back, 2 * rows) for back in ranks.call(twice, rows))


def test_a_mistake_that_all_ranks_see_is_a_value_error_and_the_pool_goes_on() -> None:
    with Ranks(2) as ranks:
        with pytest.raises(ValueError, match=r"^cannot read 'X3\.1'$") as error:
            ranks.call(dislike, "X3.1")
        assert isinstance(error.value.__cause__, RanksFailed)
        assert "in dislike" in error.value.__cause__.tracebacks[1]
        assert len(ranks.call(pid)) == 2


@pytest.mark.parametrize(
    ("how", "happened"),
    [
        ("raise", "ValueError: rank 1 dislikes this"),
        ("leave", "exited with status 3"),
        ("SIGKILL", "killed by signal 9"),
        ("SIGSTOP", r"no answer within \d+ s \(stopped\)"),
    ],
)
def test_a_rank_that_fails_ends_all(how: str, happened: str) -> None:
    with Ranks(3, TIMEOUT_S) as ranks:
        pids, began_s = ranks.call(pid), time.monotonic()
        with pytest.raises(
            RanksFailed, match=f"rank 0: RuntimeError: .*; rank 1: {happened}; rank 2: Runtime"
        ) as error:
            ranks.call(fail_on_one, how)
        assert time.monotonic() - began_s < 2 * TIMEOUT_S + 2 + PROMPT_S
        assert sorted(error.value.happened) == [0, 1, 2]
        assert "in fail_on_one" in error.value.tracebacks[0]
        assert not left(pids)
        assert not folders()
        with pytest.raises(RuntimeError, match="they have failed"):
            ranks.call(pid)


def test_a_rank_that_stops_when_nobody_waits_for_it_is_noticed() -> None:
    with Ranks(2, timeout_s=0.5) as ranks, pytest.raises(RanksFailed, match=r"rank 0: finished; rank 1: .*\(stopped\)"):
        ranks.call(stop_late)


def test_a_call_has_a_timeout_of_its_own() -> None:
    with Ranks(1) as ranks, pytest.raises(RanksFailed, match=r"rank 0: no answer within 1 s$"):
        ranks.call(sleep, 60, timeout_s=0.5)


def test_ctrl_c_ends_the_ranks_at_once() -> None:
    with Ranks(2) as ranks:
        pids, launcher = ranks.call(pid), os.getpid()

        def interrupt() -> None:
            time.sleep(0.3)
            for process in [*pids, launcher]:  # as a terminal does
                os.kill(process, signal.SIGINT)

        Thread(target=interrupt).start()
        began_s = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ranks.call(sleep, 60)
        assert time.monotonic() - began_s < 0.3 + PROMPT_S
    assert not left(pids)
    assert not folders()


LAUNCHER = """
import sys, time
from tests.test_ranks import Ranks, pid, sleep
if __name__ == "__main__":
    with Ranks(2) as ranks:
        print(*ranks.call(pid), flush=True)
        ranks.call(sleep, 60)
"""


def test_ranks_die_with_a_launcher_that_is_killed_even_when_stopped(tmp_path: Path) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    (folder := tmp_path / "temporary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, str(tmp_path / "launcher.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        ranks = [int(word) for word in launcher.stdout.readline().split()]
        processes = [int(path.name) for path in Path("/proc").glob("[0-9]*") if has_folder(path, folder)]
        assert {launcher.pid, *ranks} < set(processes), "and the fork server"
        os.kill(ranks[1], signal.SIGSTOP)
        launcher.kill()
    assert not left(processes, gone=("", "Z")), "init buries orphans when it likes"
    assert not list(folder.iterdir())


def has_folder(process: Path, folder: Path) -> bool:
    """Whether the process has `folder` for its temporary files, as the launcher above and its children do."""
    try:
        return f"TMPDIR={folder}\0".encode() in (process / "environ").read_bytes()
    except OSError:
        return False


BY_TORCHRUN = """
from realrun.rank import rank_from_environment
from tests.test_ranks import describe
print(describe(rank_from_environment(timeout_s=20), "run"))
"""


def test_ranks_of_torchrun_find_each_other() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BY_TORCHRUN], env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [line.split(", ")[:3] for line in said] == [["(0", "2", "'run'"], ["(1", "2", "'run'"]]


def test_settings_and_environments_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="world=0"):
        Ranks(0)
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="not started by torchrun: WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"):
        rank_from_environment()
