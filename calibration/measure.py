"""Microbenchmarks on real ranks: compute ops, transfers, and each under continuous load of the other.

Compute is timed by the runner itself over a transport that moves nothing (calibration/echo.py), at several batch
sizes; transfers by the runner's transport alone, at several sizes; then both at once.  No schedule that a prediction
is later compared with is run here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from calibration.echo import EchoTransport
from calibration.samples import Sample
from realrun.execute import RankRun, execute
from realrun.pacing import pace
from realrun.ranks import RankContext, Ranks
from realrun.run import DTYPES, Settings, build_model, inputs, routing_of
from realrun.transport import GlooTransport, Pending
from sim.cost import op_flops
from sim.schedule import Schedule
from sim.schedules import sync
from sim.units import readable
from sim.workload import Routing, Workload

Progress = Callable[[str], None]


Progress = Callable[[str], None]
Spans = list[tuple[float, float]]  # began (this rank was ready), ended; seconds of time.monotonic()
REST_S = 0.01  # long enough for a link to have saved up all that it can
SHARES = (0.25, 0.5, 1.0, 1.5)  # sizes of transfers, over the workload's own


@dataclass(frozen=True)
class Transfers:
    """Transfers to be made one after the other: (form, rows to each peer), form "dispatch" or "combine"."""

    plan: tuple[tuple[str, int], ...]


def measure(
    ranks: Ranks,
    workload: Workload,
    settings: Settings,
    rates: Sequence[float],
    *,
    images: Sequence[int] = (),
    steps: int = 3,
    repeats: int = 6,
    progress: Progress = lambda _: None,
) -> Iterator[Sample]:
    """Samples of everything that a Cluster needs for `workload` on these ranks, at each link rate (bytes/s a pair).

    Compute at the batch sizes `images` (none given: the workload's own), alone for `steps` steps; then, at each rate,
    transfers of a quarter to one and a half of the workload's rows, `repeats` times each in random order, and
    compute and transfers together."""
    progress("compute alone")
    for batch in [*(b for b in images if b != workload.images), workload.images]:
        reports = _echo(ranks, replace(workload, images=batch), settings, steps)
        for rank, (report, _) in enumerate(reports):
            yield from _op_samples(rank, replace(workload, images=batch), steps, report)
            yield from _gap_samples(rank, workload, steps, report)
    busy_s = _seconds(reports[0][0].spans_s)
    for rate in rates:
        at_rate = replace(settings, link_bytes_per_s=rate)
        progress(f"transfers alone, {readable('_bytes_per_s', rate)}")
        plan = _plan(workload, repeats, settings.seed)
        spans = np.array(ranks.call(_transfer_on_rank, workload, at_rate, plan, True))
        yield from _transfer_samples(workload, rate, plan, spans)
        queue = Transfers((("combine", _rows_a_peer(workload)),) * (1 + 2 * repeats))
        queued = np.array(ranks.call(_transfer_on_rank, workload, at_rate, queue, False))
        yield from _transfer_samples(workload, rate, queue, queued, queued=True)
        progress(f"compute and transfers together, {readable('_bytes_per_s', rate)}")
        count = math.ceil(1.2 * busy_s / (_seconds(queued[0]) / len(queue.plan)))
        yield from _together(ranks, workload, at_rate, steps, count)


def _plan(workload: Workload, repeats: int, seed: int) -> Transfers:
    rows = [max(1, round(share * _rows_a_peer(workload))) for share in SHARES]
    plan = [(form, r) for r in rows for form in ("dispatch", "combine")] * repeats
    return Transfers(tuple(plan[i] for i in np.random.default_rng(seed).permutation(len(plan))))


def _together(ranks: Ranks, workload: Workload, settings: Settings, steps: int, count: int) -> Iterator[Sample]:
    """Ops that ran wholly under load, and transfers that ran wholly while every rank computed."""
    load = Transfers((("combine", _rows_a_peer(workload)),) * count)
    reports = _echo(ranks, workload, settings, steps, load)
    rate = settings.link_bytes_per_s
    spans = np.array([loaded for _, loaded in reports])
    for rank, (report, loaded) in enumerate(reports):
        yield from _op_samples(rank, workload, steps, report, window=(loaded[0][0], loaded[-1][1]), rate=rate)
    window = max(r.spans_s[0][0] for r, _ in reports), min(r.spans_s[-1][1] for r, _ in reports)
    yield from _transfer_samples(workload, rate, load, spans, queued=True, window=window)


def _echo(
    ranks: Ranks, workload: Workload, settings: Settings, steps: int, load: Transfers | None = None
) -> list[tuple[RankRun, Spans]]:
    schedule = _schedule(workload, steps)
    reports: list[tuple[RankRun, Spans]] = ranks.call(_compute_on_rank, schedule, workload, settings, load)
    return reports


def time_alone(ranks: Ranks, schedule: Schedule, workload: Workload, settings: Settings) -> tuple[float, float]:
    """Seconds of all compute ops of `schedule` without a link, and of all its collectives without compute.

    No order can be faster than the longer of the two.  `workload` holds the routing whose rows are sent."""
    computed = ranks.call(_compute_on_rank, schedule, workload, settings, None)
    sent = np.array(ranks.call(_replay_on_rank, schedule, workload, settings))  # [rank, 2]
    busy_s = [
        sum(
            end - start for op, (start, end) in zip(schedule.ops, report.spans_s, strict=True) if op.stream == "compute"
        )
        for report, _ in computed
    ]
    return max(busy_s), float(sent[:, 1].max() - sent[:, 0].max())


# --------------------------------------------------------------------------------- from spans to samples


def _schedule(workload: Workload, steps: int) -> Schedule:
    """What the echo runs: every op once a layer and step, waiting for nothing."""
    return sync(steps, workload.model.layers, top_k=workload.model.top_k)


def _op_samples(
    rank: int,
    workload: Workload,
    steps: int,
    report: RankRun,
    window: tuple[float, float] | None = None,
    rate: float | None = None,
) -> Iterator[Sample]:
    """Compute ops of the echo's steps but the first (it warms up); with a window, those that lie within it."""
    schedule = _schedule(workload, steps)
    counts = routing_of(schedule, workload, [report]).counts
    experts = workload.model.experts
    mine = counts * (np.arange(experts) % workload.ranks == rank)  # the echo: every rank sends what this one sends
    echoed = replace(workload, routing=Routing(np.repeat(mine, workload.ranks, axis=4)))
    for op, (start_s, end_s) in zip(schedule.ops, report.spans_s, strict=True):
        inside = window is None or (window[0] <= start_s and end_s <= window[1])
        if op.stream == "compute" and op.step > 0 and inside:
            flops = np.max(op_flops(op, schedule, echoed))
            yield Sample("op", op.kind, float(flops), end_s - start_s, rank, window is not None, rate)


def _gap_samples(rank: int, workload: Workload, steps: int, report: RankRun) -> Iterator[Sample]:
    """What the host takes between two compute ops that follow each other."""
    ops, spans = _schedule(workload, steps).ops, report.spans_s
    for i in range(1, len(ops)):
        if ops[i].step > 0 and ops[i].stream == ops[i - 1].stream == "compute":
            yield Sample("gap", "host", 0.0, spans[i][0] - spans[i - 1][1], rank)


def _transfer_samples(
    workload: Workload,
    rate: float | None,
    load: Transfers,
    spans_s: npt.NDArray[np.float64],
    queued: bool = False,
    window: tuple[float, float] | None = None,
) -> Iterator[Sample]:
    """A transfer takes from when the last rank is ready until this rank's rows are there.  spans_s [rank, transfer, 2].

    queued: they were issued together, so that all but the first found the link busy.  With a window, those in it."""
    row_bytes = workload.model.hidden * workload.wire_bytes
    ready_s = spans_s[:, :, 0].max(axis=0)
    for rank, ended_s in enumerate(spans_s[:, :, 1]):
        for (form, rows), start_s, end_s in [*zip(load.plan, ready_s, ended_s, strict=True)][queued:]:
            if window is None or (window[0] <= start_s and end_s <= window[1]):
                size, seconds = float(rows * row_bytes), float(end_s - start_s)
                yield Sample("transfer", form, size, seconds, rank, window is not None, rate, queued)


def _rows_a_peer(workload: Workload) -> int:
    """Rows that a balanced dispatch sends to each peer."""
    return round(workload.tokens * workload.model.top_k / workload.ranks)


def _seconds(spans_s: Any) -> float:
    return float(spans_s[-1][1] - spans_s[0][0])


# ------------------------------------------------------------------------------------------- on the ranks


def _compute_on_rank(
    context: RankContext, schedule: Schedule, workload: Workload, settings: Settings, load: Transfers | None
) -> tuple[RankRun, Spans]:
    """The echo run of one rank, and the spans of the load that ran beside it."""
    shape, images = workload.model, workload.images
    model = build_model(shape, range(context.rank, shape.experts, context.world), settings)
    noise, labels = inputs(shape, range(context.rank * images, (context.rank + 1) * images), settings)
    pendings: list[Pending] = []
    if load is not None:
        pace(settings.link_bytes_per_s)
    with GlooTransport(context) as transport:

        def at_barrier() -> None:
            """All ranks meet once, before the first op; from there on the link is loaded."""
            if not pendings:
                transport.barrier()
                pendings.extend(_issue(transport, workload, settings, load or Transfers(())))

        echo = EchoTransport(context.rank, context.world, at_barrier)
        report = execute(schedule, model, echo, noise, labels)
        return report, _spans(pendings)


def _transfer_on_rank(
    context: RankContext, workload: Workload, settings: Settings, plan: Transfers, rest: bool
) -> Spans:
    """Spans of transfers on an idle machine: issued together, or each alone, when the link has rested."""
    pace(settings.link_bytes_per_s)
    groups = [Transfers((transfer,)) for transfer in plan.plan] if rest else [plan]
    spans: Spans = []
    with GlooTransport(context) as transport:
        for group in groups:
            transport.barrier()
            time.sleep(REST_S)
            spans += _spans(_issue(transport, workload, settings, group))
    return spans


def _replay_on_rank(
    context: RankContext, schedule: Schedule, workload: Workload, settings: Settings
) -> tuple[float, float]:
    """When this rank was ready, and when the last of the schedule's collectives had ended, back to back."""
    pace(settings.link_bytes_per_s)
    fitted, hidden, dtype = workload.fits(schedule), workload.model.hidden, DTYPES[settings.dtype]
    pendings: list[Pending] = []
    with GlooTransport(context) as transport:
        transport.barrier()
        for op in schedule.ops:
            if op.kind not in "DC":
                continue
            rows = fitted.rows(schedule, op).astype(int)  # [src, dst] of the dispatch
            to, back = (rows, rows.T) if op.kind == "D" else (rows.T, rows)
            header = torch.tensor([[0, 0, 0, n] for n in to[context.rank]])
            data = torch.zeros(int(to[context.rank].sum()), hidden, dtype=dtype)
            due = back[context.rank].tolist()
            sent = (
                transport.dispatch(op.name, data, header)
                if op.kind == "D"
                else transport.combine(op.name, data, header, due)
            )
            pendings.append(sent)
        spans = _spans(pendings)
    return spans[0][0], spans[-1][1]


def _issue(transport: GlooTransport, workload: Workload, settings: Settings, load: Transfers) -> list[Pending]:
    pendings: list[Pending] = []
    for form, rows in load.plan:
        data = torch.zeros(rows * transport.world, workload.model.hidden, dtype=DTYPES[settings.dtype])
        header = torch.tensor([[0, 0, 0, rows]] * transport.world)
        if form == "dispatch":
            pendings.append(transport.dispatch("load", data, header))
        else:
            pendings.append(transport.combine("load", data, header, [rows] * transport.world))
    return pendings


def _spans(pendings: list[Pending]) -> Spans:
    for pending in pendings:
        pending.wait()
    return [(pending.stamps.reached_s, pending.stamps.end_s) for pending in pendings]
