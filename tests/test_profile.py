"""Real runs under torch.profiler, read back: the same ops in the same order, at the same times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realrun.ranks import Ranks
from realrun.run import Settings, run
from sim.cli import main
from sim.kineto import profile_files, read_profiles
from sim.labels import LABEL
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import MODELS, Workload

TINY = Workload(MODELS["tiny"], 2, 2, "float32")
PLAN = load_schedule("interweaved", 3, 4)
DECIDING = load_schedule("interweaved conditional=threshold threshold=0.2", 3, 4)
Made = dict[str, tuple[Path, Trace]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Schedule -> folder of its profiles, and the trace that the runner made of itself."""
    found = {}
    with Ranks(2) as ranks:
        for name, plan in [("plain", PLAN), ("deciding", DECIDING)]:
            folder = tmp_path_factory.mktemp(name)
            found[name] = (folder, run(plan, TINY, ranks, Settings(profile=str(folder))).trace)
    return found


@pytest.mark.parametrize("name", ["plain", "deciding"])
def test_the_trace_of_a_profile_is_that_of_the_run(made: Made, name: str) -> None:
    folder, own = made[name]
    trace = read_profiles(profile_files(folder))
    assert trace.schedule == own.schedule
    assert trace.origin == "measured"
    assert {key: value for key, value in trace.about.items() if key != "read from"} == own.about
    for rank in range(2):
        for stream in own.schedule.streams:
            assert trace.order(rank, stream) == own.order(rank, stream)
    assert (trace.staleness == own.staleness).all()
    assert (trace.ages is None) == (name == "plain")
    assert trace.ages is None or (trace.ages == own.ages).all()
    lasted, due = trace.end_s - trace.start_s, own.end_s - own.start_s
    assert np.median(np.abs(lasted - due)) < 2e-4
    assert trace.makespan_s == pytest.approx(own.makespan_s, rel=0.05)
    assert lasted.sum() == pytest.approx(due.sum(), rel=0.05)


def test_a_run_without_a_profiler_writes_nothing(tmp_path: Path) -> None:
    assert Settings().profile is None
    with pytest.raises(ValueError, match=r"has no profiles: files rank0\.json"):
        profile_files(tmp_path)


def spoil(folder: Path, into: Path, change: Callable[[dict[str, Any]], object], rank: int = 1) -> list[Path]:
    """The profiles in `folder`, that of `rank` changed."""
    for path in profile_files(folder):
        data = json.loads(path.read_text())
        if path.stem == f"rank{rank}":
            change(data)
        (into / path.name).write_text(json.dumps(data))
    return profile_files(into)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["traceEvents"] = [e for e in data["traceEvents"] if e.get("name") != f"{LABEL}{name}"]

    return change


@pytest.mark.parametrize(("change", "message"), [
    (without("E1.2"), r"rank1.json has 0 ranges EP:E1\.2 \(1 of 69 ops have not one\)"),
    (lambda data: data["traceEvents"].extend([e for e in data["traceEvents"] if e.get("name") == "EP:D0.1"]),
     r"rank1.json has 2 ranges EP:D0\.1"),
    (lambda data: data.pop("traceEvents"), "rank1.json is no profile of torch.profiler"),
    (lambda data: data.pop("dice_sim"), "not one run: 2 schedules"),
])  # fmt: skip
def test_a_profile_that_lacks_something_is_refused(
    made: Made, change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_profiles(spoil(made["plain"][0], tmp_path, change))


def test_ranks_that_are_missing_are_missed(made: Made) -> None:
    files = profile_files(made["plain"][0])
    with pytest.raises(ValueError, match="profiles of ranks 1 of a run with 2"):
        read_profiles(files[1:])
    with pytest.raises(ValueError, match="profiles of ranks 1, 0 of a run with 2"):
        read_profiles(files[::-1])


def anonymous(data: dict[str, Any]) -> None:
    """As another program's profile, whose ranges are labelled alike."""
    del data["dice_sim"]


def test_a_profile_that_does_not_know_its_schedule_is_told(made: Made, tmp_path: Path) -> None:
    folder, own = made["plain"]
    (tmp_path / "a").mkdir()
    spoil(folder, tmp_path, anonymous, rank=0)
    spoil(tmp_path, tmp_path / "a", anonymous, rank=1)
    files = profile_files(tmp_path / "a")
    with pytest.raises(ValueError, match=r"rank0\.json does not say which schedule ran"):
        read_profiles(files)
    trace = read_profiles(files, PLAN)
    assert trace.order(0, "compute") == own.order(0, "compute")
    assert (trace.staleness == np.array(PLAN.staleness())).all()
    with pytest.raises(ValueError, match="has a policy, and the profiles do not say what it picked"):
        read_profiles(files, DECIDING)
    with pytest.raises(ValueError, match=r"rank0\.json is of another schedule:\ninterweaved steps=3"):
        read_profiles(profile_files(folder), load_schedule("sync", 3, 4))


def test_on_a_gpu_the_kernels_count_and_not_their_launches(tmp_path: Path) -> None:
    plan = Schedule.parse("one steps=1 layers=1 top_k=1\nP0 A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0 F0 Z0").check()
    names = [f"EP:{op.name}" for op in plan.ops]
    launched = [{"ph": "X", "cat": "user_annotation", "name": n, "ts": i, "dur": 0.5} for i, n in enumerate(names)]
    ran = [{**e, "cat": "gpu_user_annotation", "ts": 10 * i + 100, "dur": 10} for i, e in enumerate(launched)]
    (tmp_path / "rank0.json").write_text(json.dumps({"traceEvents": launched + ran}))
    trace = read_profiles([tmp_path / "rank0.json"], plan)
    assert trace.makespan_s == pytest.approx(90e-6)
    assert trace.span_s(0, plan.ops[2]) == pytest.approx((20e-6, 30e-6))


def test_the_commands_run_and_read_back(tmp_path: Path) -> None:
    words = ["sync", "--steps", "1", "--images", "1", "--profile", str(tmp_path / "p")]
    ran = subprocess.run(
        [sys.executable, "-m", "realrun", *words], capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    with pytest.raises(SystemExit) as ended:
        main(["profile", str(tmp_path / "p"), "-o", str(tmp_path / "real.trace")])
    assert ended.value.code == 0
    assert Trace.load(tmp_path / "real.trace").schedule == load_schedule("sync", 1, 4)
