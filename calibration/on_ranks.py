"""What each rank does while the machine is measured: computes without a link, transfers without compute, or both.

Spans are seconds of time.monotonic(): when this rank was ready, and when the thing had ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from calibration.echo import EchoTransport
from realrun.execute import RankRun, execute
from realrun.lanes import own_stream
from realrun.meeting import Meeting, MeetingTransport
from realrun.rank import RankContext
from realrun.run import DTYPES, Settings, prepare
from realrun.transport import GlooTransport, Pending, Transport
from realrun.turns import at_once
from realrun.wire import encode
from sim.schedule import Schedule
from sim.workload import Workload

Spans = list[tuple[float, float]]
Rows = tuple[tuple[int, ...], ...]  # [src, dst]
AHEAD = 8  # transfers that are issued before the first of them has ended: enough to keep a link busy
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
        beside = _Load(context, transport, workload, settings, load) if load else None
        with _nobody(context) as stream:
            echo = EchoTransport(context.rank, context.world, stream)
            streams: dict[str, Transport] = dict.fromkeys(["communication", *schedule.streams[1:]], echo)
            report = execute(
                schedule, model, streams, noise, labels,
                wire=workload.wire, timed_row_s=settings.timed_row_s, device=context.lanes,
            )  # fmt: skip
        return report, beside.stop() if beside else []


def _nobody(context: RankContext) -> GlooTransport | MeetingTransport:
    """A transport of a world of one."""
    if context.group is not None:
        return GlooTransport(replace(context, rank=0, world=1))
    lane = context.lanes.lane(f"nobody, of rank {context.rank}")
    return MeetingTransport(Meeting([lane], context.timeout_s), context.lanes, 0)


@contextmanager
def _link(context: RankContext, settings: Settings) -> Iterator[Transport]:
    """The runner's own transport, over links of the rate that is wanted."""
    with context.backend.open_streams(context, ()) as streams:
        context.backend.throttle(context, settings.link_bytes_per_s)
        context.lanes.align()
        yield streams["communication"]


def transfer_on_rank(
    context: RankContext, workload: Workload, settings: Settings, plan: Transfers, rest: bool
) -> Spans:
    """Spans of transfers on an idle machine: issued together, or each alone, when the link has rested."""
    groups = [Transfers((transfer,)) for transfer in plan.plan] if rest else [plan]
    spans: Spans = []
    with _link(context, settings) as transport:
        messages = _messages(context, workload, settings, plan)
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
    load, spans, ahead = Transfers(tuple(plan)), list[tuple[float, float]](), deque[Pending]()
    with _link(context, settings) as transport:
        messages = _messages(context, workload, settings, load)
        transport.barrier()
        for transfer in load.plan:
            ahead += _issue(transport, Transfers((transfer,)), messages)
            if len(ahead) > AHEAD:
                spans += _spans([ahead.popleft()])
        spans += _spans([*ahead])
    return spans[0][0], spans[-1][1]


class _Load:
    """Transfers again and again, until every rank has asked to stop: all ranks then made equally many."""

    def __init__(
        self, context: RankContext, transport: Transport, workload: Workload, settings: Settings, load: Transfers
    ) -> None:
        self._transport, self._load, self._device = transport, load, context.device
        self._messages = _messages(context, workload, settings, load)
        self._spans: Spans = []
        self._enough = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="load")
        with at_once():  # in a run it is the computing thread that issues: this one should not take its core for long
            self._thread.start()

    def stop(self) -> Spans:
        """Waits until the other ranks want to stop too; of everything that was transferred.  Raises what ended it."""
        self._enough.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._spans

    def _serve(self) -> None:
        try:
            self._repeat()
        except Exception as error:  # `stop` raises it, where somebody sees it
            self._failure = error

    def _repeat(self) -> None:
        with own_stream(self._device):
            world, enough, resting = self._transport.world, 0, 1 / self._load.duty - 1
            groups = [Transfers((transfer,)) for transfer in self._load.plan] if resting else [self._load]
            before: list[Pending] = []  # one group is issued ahead: a host that runs ahead would take all memory
            while enough < world:
                for group in groups:
                    issued = _issue(self._transport, group, self._messages)
                    if resting:
                        start_s, end_s = _spans(issued)[-1]
                        time.sleep(resting * (end_s - start_s))
                    self._spans += _spans(before)
                    before = issued
                votes = torch.tensor([[0, 0, 0, int(self._enough.is_set())]] * world)
                enough = int(self._transport.counts("load", votes).wait().counts.sum())
            self._spans += _spans(before)


def _messages(context: RankContext, workload: Workload, settings: Settings, load: Transfers) -> dict[int, Tensor]:
    """Something to send, for each number of rows that this rank sends in all, as rows travel."""
    sizes = {sum(rows[context.rank]) for _, rows in load.plan}
    row_1D = torch.zeros(1, workload.model.hidden, dtype=DTYPES[settings.dtype], device=context.device)
    row_1X = encode(row_1D, workload.wire)
    return {size: row_1X.repeat(size, 1) for size in sizes}


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
        pending.finish()
    return [(pending.stamps.reached_s, pending.stamps.end_s) for pending in pendings]
