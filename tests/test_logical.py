"""Logical ranks: order is kept by lanes and marks alone, whatever is fast or slow, and results equal one process."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from realrun.backend import Pool, backends, load_backend
from realrun.lanes import Processor, ThreadLane
from realrun.links import SleepingLink
from realrun.logical import LogicalRanks
from realrun.messages import TransferError
from realrun.rank import RankContext
from realrun.ranks import RanksFailed
from realrun.run import Settings, run
from realrun.verify import difference
from sim.load import load_schedule
from sim.schedules import SCHEDULES
from sim.workload import ModelShape, Workload

SHAPE = ModelShape("tiny", layers=2, hidden=16, heads=2, experts=8, classes=10, latent=8)
SETTINGS = Settings(seed=3, dtype="float64", keep_velocity=True)


@contextmanager
def logical(world: int, timeout_s: float = 10.0) -> Iterator[Pool]:
    with load_backend("logical").start(world, timeout_s) as pool:
        yield pool


class Unpunctual(RankContext):
    """A rank on a processor whose lanes dawdle before each piece of work."""

    @property
    def lanes(self) -> Processor:  # type: ignore[override]
        dice = random.Random(self.rank)
        return Processor(lambda: dice.choice([0.0, 0.0, 0.002]))


class UnpunctualRanks(LogicalRanks):
    def call(self, function: Any, *args: Any) -> list[Any]:
        return super().call(_dawdle, function, *args)


def _dawdle(context: RankContext, function: Any, *args: Any) -> Any:
    late = Unpunctual(context.rank, context.world, context.timeout_s, context.device, None, context.backend)
    return function(late, *args)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_logical_ranks_equal_one_process(name: str, world: int) -> None:
    schedule, workload = load_schedule(name, 4, 2), Workload(SHAPE, world, 2, wire="float64")
    with logical(world) as pool:
        made = run(schedule, workload, pool, SETTINGS)
    furthest, wrong = difference(made, schedule, workload, SETTINGS)
    assert furthest < 1e-10
    assert wrong == 0


@pytest.mark.parametrize("text", ["interweaved", "displaced conditional=low", "overlap", "distrifusion"])
def test_late_lanes_change_nothing(text: str) -> None:
    schedule, workload = load_schedule(text, 3, 2), Workload(SHAPE, 2, 2, wire="float64")
    backend = load_backend("logical")
    pool = UnpunctualRanks(2, 10.0, torch.device("cpu"), lambda hall: replace(backend, hall=hall))  # type: ignore[type-var]
    made = run(schedule, workload, pool, SETTINGS)
    assert difference(made, schedule, workload, SETTINGS)[0] < 1e-10


def test_a_lane_does_one_thing_after_the_other_and_waits_for_marks() -> None:
    first, second, said = ThreadLane("first"), ThreadLane("second"), list[str]()
    gate = threading.Event()
    first.do(lambda: (gate.wait(5), said.append("first"))[1])
    second.after(first.mark())
    second.do(lambda: said.append("second"))
    assert said == []
    gate.set()
    second.finish()
    assert said == ["first", "second"]
    first.do(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.finish()
    for lane in (first, second):
        lane.close()


def test_a_link_has_its_rate_and_its_latency() -> None:
    lane, link = ThreadLane("link"), SleepingLink(1e6, latency_s=0.01)
    began_s, marks = time.monotonic(), []
    for _ in range(3):
        link.begin(lane)
        link.end(lane, 40_000)
        marks.append(lane.mark())
    lane.finish()
    took = [mark.at_s() - began_s for mark in marks]
    assert took == pytest.approx([0.05, 0.10, 0.15], abs=0.02)
    lane.close()


def test_a_slow_link_shows_in_the_trace() -> None:
    schedule, workload = load_schedule("sync", 2, 2), Workload(SHAPE, 2, 8, wire="float32")
    with logical(2) as pool:
        slow = run(schedule, workload, pool, Settings(link_bytes_per_s=1e6)).trace
    rows = workload.tokens * SHAPE.top_k / 2
    ideal_s = rows * workload.row_bytes / 1e6
    for name in ("D1.0", "C1.1"):
        at = schedule.position[name]
        assert (slow.end_s - slow.start_s)[:, at].max() == pytest.approx(ideal_s, rel=0.6)


def differ(context: RankContext) -> None:
    header = torch.tensor([[0, 0, 0, 0]] * context.world)
    with context.backend.open_streams(context, ()) as streams:
        streams["communication"].counts(f"N{context.rank}.0", header).wait()


def stay_away(context: RankContext) -> None:
    header = torch.tensor([[0, 0, 0, 0]] * context.world)
    with context.backend.open_streams(context, ()) as streams:
        if context.rank == 0:
            streams["communication"].counts("N3.1", header).wait()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (differ, r"N0\.0: ranks issue different transfers: N0\.0, N1\.0"),
        (stay_away, r"N3\.1: some rank did not issue it within 1 s"),
    ],
)
def test_what_ranks_do_not_do_together_is_told(function: Any, message: str) -> None:
    with logical(2, timeout_s=1.0) as pool, pytest.raises(RanksFailed, match=message) as failure:
        pool.call(function)
    assert isinstance(failure.value.__cause__, TransferError)


def test_a_mistake_of_all_is_a_value_error() -> None:
    def dislike(context: RankContext) -> None:
        raise ValueError("not this")

    with logical(2) as pool:
        with pytest.raises(ValueError, match=r"^not this$"):
            pool.call(dislike)
        assert pool.call(lambda context: context.rank) == [0, 1]


def test_backends_are_found_by_name() -> None:
    assert {"logical", "namespaces", "paced"} <= {*backends()}
    assert load_backend("logical latency_us=20").name == "logical latency_us=20"
    for text, message in [
        ("pigeons", r"unknown backend 'pigeons'; known: .*logical"),
        ("logical speed=3", r"backend logical: 'speed=3' should be a number for one of: latency_us"),
        ("paced 3", r"backend paced: '3' should be a number for one of: nothing"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_backend(text)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["sync", "interweaved", "overlap"])
def test_logical_ranks_on_a_gpu_equal_one_process(name: str) -> None:
    schedule, workload = load_schedule(name, 4, 2), Workload(SHAPE, 4, 2, wire="float64")
    with logical(4) as pool:
        made = run(schedule, workload, pool, replace(SETTINGS, link_bytes_per_s=1e9))
    assert difference(made, schedule, workload, SETTINGS)[0] < 1e-8
