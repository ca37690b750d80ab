"""What each rank does while the machine is measured: computes without a link, transfers without compute, or both.

Spans are seconds of time.monotonic(): when this rank was ready, and when the thing had ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibration.echo import EchoTransport
from realrun.execute import RankRun, execute
from realrun.rank import RankContext
from realrun.run import DTYPES, Settings, prepare
from realrun.transport import GlooTransport, Pending, Transport
from realrun.turns import at_once
from sim.schedule import Schedule
from sim.workload import Workload

Spans = list[tuple[float, float]]
Rows = tuple[tuple[int, ...], ...]  # [src, dst]
REST_S = 0.01  # long enough for a link to have saved up all that it can


@dataclass(frozen=True)
class Transfers:
    """Transfers to be made one after the other: (form, rows), form "dispatch" or "combine".

    As a load, which is made again and again, they take `duty` of the time; in between the link rests."""

    plan: tuple[tuple[str, Rows], ...]
    duty: float = 1.0


def compute_on_rank(
    context: RankContext, schedule: Schedule, workload: Workload, settings: Settings, load: Transfers | None
) -> tuple[RankRun, Spans]:
    """`schedule` over a transport that moves nothing, and the spans of the load, if any, that ran beside it."""
    model, noise, labels = prepare(context, schedule, workload, settings)
    with _link(context, settings) as transport:
        transport.barrier()
        beside = _Load(transport, workload, settings, load) if load else None
        with GlooTransport(replace(context, rank=0, world=1)) as stream:
            echo = EchoTransport(context.rank, context.world, stream)
            streams: dict[str, Transport] = dict.fromkeys(["communication", *schedule.streams[1:]], echo)
            report = execute(schedule, model, streams, noise, labels, timed_row_s=settings.timed_row_s)
        return report, _spans(beside.stop()) if beside else []


@contextmanager
def _link(context: RankContext, settings: Settings) -> Iterator[Transport]:
    """The runner's own transport, over links of the rate that is wanted."""
    with context.backend.open_streams(context, ()) as streams:
        context.backend.throttle(context, settings.link_bytes_per_s)
        yield streams["communication"]


def transfer_on_rank(
    context: RankContext, workload: Workload, settings: Settings, plan: Transfers, rest: bool
) -> Spans:
    """Spans of transfers on an idle machine: issued together, or each alone, when the link has rested."""
    groups = [Transfers((transfer,)) for transfer in plan.plan] if rest else [plan]
    spans: Spans = []
    with _link(context, settings) as transport:
        messages = _messages(transport, workload, settings, plan)
        for group in groups:
            transport.barrier()
            time.sleep(REST_S)
            spans += _spans(_issue(transport, group, messages))
    return spans


def replay_on_rank(
    context: RankContext, schedule: Schedule, workload: Workload, settings: Settings
) -> tuple[float, float]:
    """When this rank was ready, and when all dispatches and combines of the schedule, back to back, had ended."""
    fitted = workload.fits(schedule)
    plan = []
    for op in (op for op in schedule.ops if op.kind in "DC"):
        rows = fitted.rows(schedule, op).astype(int)  # [src, dst] of the dispatch
        sent = (rows if op.kind == "D" else rows.T).tolist()
        plan.append(("dispatch" if op.kind == "D" else "combine", tuple(map(tuple, sent))))
    load = Transfers(tuple(plan))
    with _link(context, settings) as transport:
        transport.barrier()
        spans = _spans(_issue(transport, load, _messages(transport, workload, settings, load)))
    return spans[0][0], spans[-1][1]


class _Load:
    """Transfers again and again, until every rank has asked to stop: all ranks then made equally many."""

    def __init__(self, transport: Transport, workload: Workload, settings: Settings, load: Transfers) -> None:
        self._transport, self._load, self._messages = transport, load, _messages(transport, workload, settings, load)
        self._pendings: list[Pending] = []
        self._enough = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="load")
        with at_once():  # in a run it is the computing thread that issues: this one should not take its core for long
            self._thread.start()

    def stop(self) -> list[Pending]:
        """Waits until the other ranks want to stop too; everything that was transferred.  Raises what ended it."""
        self._enough.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._pendings

    def _serve(self) -> None:
        try:
            self._repeat()
        except Exception as error:  # `stop` raises it, where somebody sees it
            self._failure = error

    def _repeat(self) -> None:
        world, enough, resting = self._transport.world, 0, 1 / self._load.duty - 1
        groups = [Transfers((transfer,)) for transfer in self._load.plan] if resting else [self._load]
        while enough < world:
            for group in groups:
                self._pendings += (issued := _issue(self._transport, group, self._messages))
                if resting:
                    start_s, end_s = _spans(issued)[-1]
                    time.sleep(resting * (end_s - start_s))
            votes = torch.tensor([[0, 0, 0, int(self._enough.is_set())]] * world)
            enough = int(self._transport.counts("load", votes).wait().counts.sum())


def _messages(transport: Transport, workload: Workload, settings: Settings, load: Transfers) -> dict[int, Tensor]:
    """Something to send, for each number of rows that this rank sends in all."""
    dtype, hidden = DTYPES[settings.dtype], workload.model.hidden
    return {(n := sum(rows[transport.rank])): torch.zeros(n, hidden, dtype=dtype) for _, rows in load.plan}


def _issue(transport: Transport, load: Transfers, messages: Mapping[int, Tensor]) -> list[Pending]:
    pendings: list[Pending] = []
    for form, rows in load.plan:
        data = messages[sum(rows[transport.rank])]
        header = torch.tensor([[0, 0, 0, count] for count in rows[transport.rank]])
        if form == "dispatch":
            pendings.append(transport.dispatch("load", data, header))
        else:
            pendings.append(transport.combine("load", data, header, [row[transport.rank] for row in rows]))
    return pendings


def _spans(pendings: list[Pending]) -> Spans:
    for pending in reversed(pendings):  # who waits for the last one is woken once
        pending.wait()
    return [(pending.stamps.reached_s, pending.stamps.end_s) for pending in pendings]
