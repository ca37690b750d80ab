"""What is written for GPUs, on one that is not there (tests/fake_cuda.py): it runs, to the last line, and is right."""

from __future__ import annotations

import ctypes
import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
import torch.distributed as dist

from calibration.measure import measure, time_alone
from calibration.on_ranks import Transfers, transfer_on_rank
from calibration.plan import Job, Plan
from realrun import execute, links, ptx
from realrun.backend import load_backend
from realrun.lanes import Gpu, StreamLane
from realrun.logical import LogicalRanks
from realrun.rank import RankContext
from realrun.ranks import Ranks, RanksFailed
from realrun.run import Settings, execute_rank, join, prepare, run
from realrun.verify import difference
from sim.load import load_schedule
from sim.workload import ModelShape, Workload

SHAPE = ModelShape("tiny", layers=2, hidden=16, heads=2, experts=8, classes=10, latent=8)
SETTINGS = Settings(seed=3, dtype="float64", keep_velocity=True)
METHODS = ["sync", "interweaved", "displaced conditional=low", "dice pieces=2", "overlap", "distrifusion"]


class OnGpu(RankContext):
    """A rank whose tensors are on the processor and whose lanes are those of a GPU."""

    @property
    def lanes(self) -> Gpu:  # type: ignore[override]
        return self.kept.setdefault("lanes", Gpu(self.device))


class GpuRanks(LogicalRanks):
    def call(self, function: Any, *args: Any) -> list[Any]:
        return super().call(_on_gpu, function, *args)


def _on_gpu(context: RankContext, function: Callable[..., Any], *args: Any) -> Any:
    kept: dict[Any, Any] = {}
    named = (context.rank, context.world, context.timeout_s, context.device, context.group, context.backend, kept)
    return function(OnGpu(*named), *args)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> GpuRanks:
    fake_cuda.install(monkeypatch.setattr)
    backend = load_backend("logical")
    return GpuRanks(2, 10.0, torch.device("cpu"), lambda hall: replace(backend, hall=hall))  # type: ignore[type-var]


@pytest.mark.parametrize("text", METHODS)
def test_threads_with_streams_equal_one_process(text: str, pool: GpuRanks) -> None:
    schedule, workload = load_schedule(text, 3, 2), Workload(SHAPE, 2, 2, wire="float64")
    made = run(schedule, workload, pool, replace(SETTINGS, link_bytes_per_s=50e6))
    assert difference(made, schedule, workload, SETTINGS)[0] < 1e-10
    assert (made.trace.staleness == np.array(schedule.staleness())).all()


PLAN = Plan("tiny", ranks=2, images=1, backend="logical", rates=(50e6,), calibration_steps=3, repeats=2)


@pytest.mark.parametrize("job", [job for job in PLAN.jobs() if job.round == 0], ids=lambda job: job.name)
def test_every_job_measures_seconds(job: Job, pool: GpuRanks) -> None:
    samples = measure(job, PLAN, pool)
    assert {s.rank for s in samples} == {0, 1}
    assert all(0 <= s.seconds < 5 for s in samples if s.what != "gap")


def test_compute_and_communication_are_timed_alone(pool: GpuRanks) -> None:
    schedule, workload = load_schedule("interweaved", 3, 2), Workload(SHAPE, 2, 2, wire="float32")
    routed = replace(workload, routing=run(schedule, workload, pool, Settings()).routing)
    assert all(0 < s < 5 for s in time_alone(pool, schedule, routed, Settings(link_bytes_per_s=50e6)))


# --------------------------------------------------------------------------------------------- processes


def on_gpu(context: RankContext, backend: str, function: Callable[..., Any], *args: Any) -> Any:
    """On a process: with this backend, whose communicators are all over gloo."""
    fake_cuda.install(setattr)
    new_group = dist.new_group
    dist.new_group = lambda backend, timeout: new_group(backend="gloo", timeout=timeout)
    named = context.rank, context.world, context.timeout_s, context.device, context.group, load_backend(backend)
    return function(OnGpu(*named), *args)


@pytest.mark.parametrize(("backend", "text"), [*(("nccl", text) for text in METHODS), ("staged", "interweaved")])
def test_processes_with_a_gpu_equal_one_process(backend: str, text: str) -> None:
    schedule, workload = load_schedule(text, 3, 2), Workload(SHAPE, 2, 2, wire="float64")
    with Ranks(2, 20) as ranks:
        reports = ranks.call(on_gpu, backend, execute_rank, schedule, workload, SETTINGS, None)
    made = join(schedule, workload, SETTINGS, reports)
    assert difference(made, schedule, workload, SETTINGS)[0] < 1e-10
    assert (made.trace.staleness == np.array(schedule.staleness())).all()


def test_transfers_of_a_communicator_are_reached_one_after_the_other() -> None:
    load = Transfers((("dispatch", ((400, 400), (400, 400))), ("combine", ((400, 400), (400, 400)))) * 3)
    with Ranks(2, 20) as ranks:
        spans = ranks.call(on_gpu, "nccl", transfer_on_rank, Workload(SHAPE, 2, 2), Settings(), load, False)
    for mine in spans:
        assert all(before[1] <= after[0] <= after[1] for before, after in pairwise(mine))


# ------------------------------------------------------------------------------------- parts, one by one


def test_clocks_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch.setattr)
    gpu, began_s = Gpu(torch.device("cpu")), time.monotonic()
    mark = gpu.here()
    with pytest.raises(AssertionError, match="device not ready"):
        mark.at_s()
    mark.finish()
    assert began_s - 1e-3 < mark.at_s() < time.monotonic() + 1e-3


def test_a_link_of_kernels_has_its_rate_and_its_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch.setattr)
    monkeypatch.setattr(links, "load_kernels", lambda *_: (begin, end))
    lane = StreamLane(Gpu(torch.device("cpu")))
    link, began_s, marks = links.KernelLink(torch.device("cpu"), 1e6, 0.01), time.monotonic(), []
    for _ in range(3):
        link.begin(lane)
        link.end(lane, 40_000)
        marks.append(lane.mark())
    lane.finish()
    assert [mark.at_s() - began_s for mark in marks] == pytest.approx([0.05, 0.10, 0.15], abs=0.02)


def begin(link: int) -> None:
    state = (ctypes.c_uint64 * 2).from_address(link)
    state[1] = max(time.monotonic_ns(), state[0])


def end(link: int, nanoseconds: int) -> None:
    state = (ctypes.c_uint64 * 2).from_address(link)
    state[0] = state[1] + nanoseconds
    time.sleep(max(0, state[0] - time.monotonic_ns()) / 1e9)


def test_kernels_get_whole_numbers_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch.setattr)
    launched: list[list[int]] = []

    def launch(function: Any, *rest: Any) -> int:
        launched.append([ctypes.c_uint64.from_address(pointer).value for pointer in rest[-2]])
        return 0

    driver = SimpleNamespace(cuModuleLoadData=lambda *_: 0, cuModuleGetFunction=lambda *_: 0, cuLaunchKernel=launch)
    monkeypatch.setattr(ptx.ctypes, "CDLL", lambda _: driver)
    (kernel,) = ptx.load_kernels("", "end")
    kernel(2**40 + 1, 5_000_000_000)
    assert launched == [[2**40 + 1, 5_000_000_000]]


def test_a_transport_keeps_no_rows_that_have_been_used(pool: GpuRanks) -> None:
    assert pool.call(rows_left) == [(0, 0)] * 2


def rows_left(context: RankContext) -> tuple[int, int]:
    """How many tensors live on: of those sent, while what came is held; of all, before the transport is asked."""
    header, sent, came = torch.tensor([[0, 0, 0, 5]] * context.world), [], []
    with context.backend.open_streams(context, ()) as streams:
        transport = streams["communication"]
        pendings = [transport.dispatch("D0.0", row(context.world, sent), header) for _ in range(3)]
        came += [weakref.ref(pending.wait().rows_RD) for pending in pendings]
        transport.counts("N0.0", header).wait()  # the others have issued theirs too
        still_sent = alive(sent)
        del pendings
        left = alive(sent + came)
        transport.barrier()
    return still_sent, left


def row(world: int, seen: list[Any]) -> torch.Tensor:
    memory = np.ones((5 * world, 4), dtype=np.float32)  # which lives as long as any tensor that uses it
    seen.append(weakref.ref(memory))
    return torch.from_numpy(memory)


def alive(seen: list[Any]) -> int:
    gc.collect()
    return sum(each() is not None for each in seen)


def test_a_model_is_kept_for_the_next_call_that_wants_the_same() -> None:
    context = RankContext(0, 1, 1.0, torch.device("cpu"), None, load_backend())
    schedule, workload = load_schedule("sync", 2, 2), Workload(SHAPE, 1, 1)
    first, second = (prepare(context, schedule, workload, Settings())[0] for _ in range(2))
    assert first is second
    assert prepare(context, schedule, workload, Settings(seed=1))[0] is not first
    assert len(context.kept) == 1


def test_memory_that_runs_out_names_rank_and_op(pool: GpuRanks, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(executor: Any, op: Any) -> Any:
        if executor.rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return executor._share_of_before(op)

    before = execute._DO["S"]
    monkeypatch.setattr(execute._Executor, "_share_of_before", before, raising=False)
    monkeypatch.setitem(execute._DO, "S", run_out)
    small = GpuRanks(2, 1.0, torch.device("cpu"), pool._backend)
    with pytest.raises(RanksFailed, match=r"rank 1: MemoryError: S0\.0: CUDA out of memory\. Tried"):
        run(load_schedule("sync", 2, 2), Workload(SHAPE, 2, 1), small, Settings())


# ------------------------------------------------------------------------------------------ on a real GPU

on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
HALF = replace(PLAN, dtype="bfloat16", wire="bfloat16", rates=(1e9,))


@pytest.mark.parametrize("job", [pytest.param(j, marks=on_a_gpu, id=j.name) for j in HALF.jobs() if j.round == 0])
def test_every_job_measures_seconds_on_a_gpu(job: Job) -> None:
    with load_backend("logical").start(2, 60) as ranks:
        samples = measure(job, HALF, ranks)
    assert {s.rank for s in samples} == {0, 1}
    assert all(0 <= s.seconds < 5 for s in samples if s.what != "gap")
    assert all(s.clock_hz for s in samples)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_link_on_a_gpu_has_its_rate() -> None:
    device = torch.device("cuda", 0)
    gpu, marks = Gpu(device), []
    lane, link = StreamLane(gpu), links.KernelLink(device, 1e9, 1e-3)
    for _ in range(4):
        link.begin(lane)
        link.end(lane, 4_000_000)
        marks.append(lane.mark())
    lane.finish()
    assert np.diff([mark.at_s() for mark in marks]) == pytest.approx(5e-3, rel=0.05)
