"""Sessions and bundles: whatever interrupts a measurement, no sample is lost or counted twice, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import cluster
from rich.console import Console

from calibration.bundle import Bundle
from calibration.others import Watch
from calibration.plan import AS_THEY_ARE, Job, Plan
from calibration.samples import Sample, machine, mark
from calibration.session import Patience, carry_out
from realrun.backend import Pool
from realrun.rank import RankContext
from realrun.ranks import Ranks, RanksFailed
from sim.engine import simulate
from sim.load import load_schedule
from sim.workload import ModelShape, Workload

ROOT = Path(__file__).parent.parent
HERE = {"processor": "invented", "cores": "2", "torch": "2", "date": "today", "command": "test", "commit": "none"}
SMALL = Plan("digits", images=2, rates=(50e6,), rounds=2, other_images=(), calibration_steps=2, repeats=1, loads=(1.0,))
NO_PATIENCE = Patience(tries=1, seconds=0.0)
QUIET = Console(quiet=True)


def samples(count: int) -> list[Sample]:
    return [Sample("op", "A", 1e8, 1e-3 * (1 + i), i % 2, 0.5 * (i % 2), None, clock_hz=None) for i in range(count)]


# ---------------------------------------------------------------------------------------------- bundles


def test_a_bundle_gives_back_what_was_added(tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path, SMALL.table(), HERE)
    bundle.add_samples("r00-compute", samples(3))
    bundle.add_samples("r01-compute", samples(2))
    assert bundle.samples() == samples(3) + samples(2)
    assert bundle.done() == {"r00-compute", "r01-compute"}
    assert (
        Bundle.open(tmp_path, SMALL.table(), HERE).meta()["calls"]
        == [{"date": "today", "command": "test", "commit": "none"}] * 2
    )


@pytest.mark.parametrize("text", ["sync", "distrifusion", "interweaved synchronous=deep"])
def test_a_run_comes_back_without_loss(text: str, tmp_path: Path) -> None:
    shape = ModelShape("tiny", layers=2, hidden=32, heads=2, experts=4, classes=10, latent=8)
    trace = replace(simulate(load_schedule(text, 3, 2), Workload(shape, 2, 2), cluster()), origin="measured")
    bundle = Bundle.open(tmp_path, SMALL.table(), HERE)
    bundle.add_run("r00-run", trace)
    assert str(bundle.run("r00-run")) == str(trace)
    bundle.add_samples("r01-run", samples(1))
    (tmp_path / "samples" / "r01-run.parquet").rename(tmp_path / "runs" / "r01-run.parquet")
    with pytest.raises(ValueError, match=r"r01-run\.parquet: holds no run"):
        bundle.run("r01-run")


@pytest.mark.parametrize(
    ("plan", "here", "message"),
    [
        ({"images": 3}, {}, r"measurements of another plan: images was 2 and is now 3; choose another folder"),
        ({}, {"processor": "other"}, r"another machine: processor was 'invented' and is now 'other'"),
        ({"rounds": 5}, {"date": "tomorrow"}, ""),
    ],
)
def test_a_bundle_is_of_one_plan_and_machine(
    plan: dict[str, object], here: dict[str, str], message: str, tmp_path: Path
) -> None:
    Bundle.open(tmp_path, SMALL.table(), HERE)
    if not message:
        assert Bundle.open(tmp_path, {**SMALL.table(), **plan}, {**HERE, **here}).meta()["plan"]["rounds"] == 5
    else:
        with pytest.raises(ValueError, match=message):
            Bundle.open(tmp_path, {**SMALL.table(), **plan}, {**HERE, **here})


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path, SMALL.table(), HERE)
    (tmp_path / "samples" / "r00-x.parquet").write_text("half")
    with pytest.raises(ValueError, match=r"r00-x\.parquet: not Parquet"):
        bundle.samples()
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta\.json: not JSON"):
        bundle.meta()


def test_what_a_kill_left_is_not_counted(tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path, SMALL.table(), HERE)
    bundle.add_samples("r00-compute", samples(1))
    whole = (tmp_path / "samples" / "r00-compute.parquet").read_bytes()
    (tmp_path / "samples" / ".r00-queue.123.parquet").write_bytes(whole[:100])
    assert bundle.done() == {"r00-compute"}
    assert len(bundle.samples()) == 1


def test_outliers_are_marked_and_kept() -> None:
    steady = [Sample("op", "A", 1.0, 1e-3 * (1 + 0.01 * i), 0) for i in range(9)]
    marked = mark([*steady, Sample("op", "A", 1.0, 5e-3, 0), Sample("op", "S", 1.0, 5.0, 0)])
    assert [s.seconds for s in marked if s.outlier] == [5e-3]
    assert len(marked) == 11


# ------------------------------------------------------------------------------------------------ plans


def test_a_plan_is_a_file_and_an_order(tmp_path: Path) -> None:
    plan = replace(SMALL, schedules=("sync", "interweaved synchronous=deep"), loads=(0.5, 1.0))
    (tmp_path / "plan.yaml").write_text(str(plan))
    assert asdict(Plan.load(tmp_path / "plan.yaml")) == asdict(plan)
    assert Plan.of(json.loads(json.dumps(plan.table()))).jobs() == plan.jobs()
    kinds = Counter(job.kind for job in plan.jobs())
    assert kinds == {"compute": 3, "transfers": 3, "queue": 3, "together": 6, "run": 4}
    assert [job.round for job in plan.jobs()] == sorted(job.round for job in plan.jobs())
    assert plan.jobs()[-1].kind != "run", "a last measurement ends the last round"
    assert Job("run", 1, 15e6, schedule="dice conditional=low").name == "r01-run-dice_conditional=low-15MB-per-s"
    orders = {tuple(job.name[3:] for job in plan.jobs() if job.round == r and job.kind != "run") for r in range(3)}
    assert len(orders) == 3, "every round has an order of its own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: tiny", r"modle"),
        ("rates: [fast]", r"'fast' is not a number"),
        ("schedules: [displaced]", r"schedules should have sync among them"),
        ("loads: [0.5]", r"loads=\(0\.5,\) should be above 0 and at most 1, and 1 among them"),
        ("rates: [20 MB/s, 20 MB/s]", r"would be done twice"),
        ("rounds: 0", r"rounds=0 should be larger"),
        ("backend: pigeons", r"unknown backend 'pigeons'; known: .*paced"),
    ],
)
def test_a_plan_says_what_is_wrong_with_it(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Plan.load(tmp_path / "plan.yaml")


def test_every_committed_plan_loads() -> None:
    for path in (ROOT / "calibration" / "plans").glob("*.yaml"):
        plan = Plan.load(path)
        assert plan.about
        for text in plan.schedules:
            plan.workload.fits(plan.schedule(text).check())


def test_plans_for_one_gpu_hold_what_was_asked_of_it() -> None:
    plans = [Plan.load(ROOT / "calibration" / "plans" / f"gpu-{ranks}-ranks.yaml") for ranks in (2, 4, 8)]
    assert {(plan.model, plan.ranks, plan.dtype, plan.wire) for plan in plans} == {
        ("S", 2, "bfloat16", "bfloat16"), ("B", 4, "bfloat16", "bfloat16"), ("XL", 8, "bfloat16", "bfloat16")
    }  # fmt: skip
    assert all(len(plan.rates) >= 5 for plan in plans)
    assert sum(len(plan.rates) * len(plan.schedules) for plan in plans) >= 40


def test_links_as_they_are_have_a_name_and_no_rate() -> None:
    plan = Plan.of(Plan(backend="nccl", rates=(AS_THEY_ARE,)).table())
    rate = plan.rates[0]
    assert plan.settings_at(rate).link_bytes_per_s is None
    assert plan.settings_at(20e6).link_bytes_per_s == 20e6
    assert Job("queue", 0, rate).name == "r00-queue-as-they-are"


# --------------------------------------------------------------------------------------------- sessions


@contextmanager
def two(plan: Plan, timeout_s: float) -> Iterator[Pool]:
    with Ranks(plan.ranks, timeout_s) as ranks:
        yield ranks


def test_a_session_does_what_is_left_only(tmp_path: Path) -> None:
    carry_out(replace(SMALL, rounds=1), tmp_path, QUIET, patience=NO_PATIENCE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    bundle = carry_out(SMALL, tmp_path, QUIET, patience=NO_PATIENCE)
    assert bundle.done() == {job.name for job in SMALL.jobs()}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {sample.round for sample in bundle.samples()} == {0, 1}
    uneven = [s for s in bundle.samples() if s.uneven]
    assert uneven
    assert all(s.seconds > 0 for s in bundle.samples() if s.subject != "wake")


class Failing:
    """A pool whose rank 1 is killed in its n-th call."""

    def __init__(self, ranks: Ranks, calls: int) -> None:
        self.ranks, self.calls, self.leads = ranks, calls, True
        self.world, self.timeout_s = ranks.world, ranks.timeout_s

    def call(self, function, *args):  # type: ignore[no-untyped-def]
        self.calls -= 1
        return self.ranks.call(die if not self.calls else function, *args)


def die(context: RankContext, *_: object) -> None:
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_rank_killed_ends_a_session_and_the_next_goes_on(tmp_path: Path) -> None:
    @contextmanager
    def failing(plan: Plan, timeout_s: float) -> Iterator[Pool]:
        with Ranks(plan.ranks, timeout_s) as ranks:
            yield Failing(ranks, 12)

    with pytest.raises(RanksFailed, match="rank 1: killed by signal 9"):
        carry_out(SMALL, tmp_path, QUIET, timeout_s=5, patience=NO_PATIENCE, start=failing)
    done = Bundle(tmp_path).done()
    assert 0 < len(done) < len(SMALL.jobs())
    bundle = carry_out(SMALL, tmp_path, QUIET, patience=NO_PATIENCE, start=two)
    assert bundle.done() == {job.name for job in SMALL.jobs()}


def exhaust(context: RankContext) -> None:
    if context.rank == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    time.sleep(0.1)


def test_a_rank_out_of_memory_says_so_and_leaves_nothing() -> None:
    with Ranks(2, 3) as ranks:
        pids = ranks.call(pid)
        with pytest.raises(RanksFailed, match=r"rank 1: OutOfMemoryError: CUDA out of memory"):
            ranks.call(exhaust)
    assert not [p for p in pids if Path(f"/proc/{p}").exists()]


def pid(context: RankContext) -> int:
    return os.getpid()


@pytest.mark.parametrize("after_s", [0.4])
def test_a_measurement_that_is_killed_at_any_moment_goes_on(after_s: float, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    (tmp_path / "plan.yaml").write_text(str(SMALL))
    words = [
        sys.executable,
        "-m",
        "calibration",
        "measure",
        str(tmp_path / "plan.yaml"),
        "--out",
        str(out),
        "--patience",
        "0",
    ]
    first = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not [*out.glob("samples/r*")] and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(after_s)
    first.kill()
    first.wait()
    done = Bundle(out).done()
    assert done
    Bundle(out).samples()
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 0, again.stderr
    assert Bundle(out).done() == {job.name for job in SMALL.jobs()}
    counts = Counter((s.round, s.subject, s.rank) for s in Bundle(out).samples() if s.what == "op" and s.alone)
    assert {counts[number, kind, rank] for number in (0, 1) for kind in "AS" for rank in (0, 1)} == {6}
    assert len(Bundle(out).meta()["calls"]) == 2


def test_torchrun_measures_with_one_line(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "calibration", "measure", "--quick",
             "--images", "1", "--model", "digits", "--out", str(tmp_path / "bundle"), "--patience", "0"]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=110, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    bundle = Bundle(tmp_path / "bundle")
    plan = Plan.of(bundle.meta()["plan"])
    assert bundle.done() == {job.name for job in plan.jobs()}
    assert {s.rank for s in bundle.samples()} == {0, 1}
    alone = [s.seconds for s in bundle.samples() if s.what == "transfer" and s.alone]
    assert np.median(alone) < 0.02, "a transfer's threads do not keep gloo's own from the processor"
    assert len(bundle.meta()["calls"]) == 1, "one rank speaks for all"


def test_others_are_seen(tmp_path: Path) -> None:
    if not Path("/proc/stat").exists():
        pytest.skip("needs Linux")
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        mine, all_of_us = Watch.begin([os.getpid()]), Watch.begin([os.getpid(), busy.pid])
        time.sleep(0.5)
        assert mine.others() > 0.3 / len(os.sched_getaffinity(0))
        assert mine.others() > all_of_us.others()
    finally:
        busy.kill()
        busy.wait()


def test_the_machine_is_told() -> None:
    said = machine()
    assert {"date", "command", "commit", "processor", "cores", "python", "torch"} <= said.keys()
    assert np.all([isinstance(value, str) for value in said.values()])
