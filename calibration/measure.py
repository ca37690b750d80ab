"""Microbenchmarks on real ranks: compute ops, transfers, and each under continuous load of the other.

Compute is timed by the runner itself over a transport that moves nothing (calibration/echo.py), at several batch
sizes; transfers by the runner's transport alone, at several sizes; then both at once.  No schedule that a prediction
is later compared with is run here.  The file knows what is measured in which order and what a sample is; what the
ranks do for it is in calibration/on_ranks.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from calibration.on_ranks import Spans, Transfers, compute_on_rank, replay_on_rank, transfer_on_rank
from calibration.samples import Sample
from realrun.execute import RankRun
from realrun.ranks import Ranks
from realrun.run import Settings, routing_of
from sim.cost import op_flops
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import sync
from sim.units import readable
from sim.workload import Workload

Tell = Callable[[str], None]
SHARES = (0.25, 0.5, 1.0, 1.5)  # sizes of transfers, over the workload's own


def measure(
    ranks: Ranks,
    workload: Workload,
    settings: Settings,
    rates: Sequence[float],
    *,
    images: Sequence[int] = (),
    steps: int = 8,
    repeats: int = 6,
    seed: int = 0,
    progress: Tell = lambda _: None,
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
    for rate in rates:
        at_rate = replace(settings, link_bytes_per_s=rate)
        progress(f"transfers alone, {readable('_bytes_per_s', rate)}")
        plan = _plan(workload, repeats, seed)
        spans = np.array(ranks.call(transfer_on_rank, workload, at_rate, plan, True))
        yield from _transfer_samples(workload, rate, plan, spans)
        queue = Transfers(_load(workload).plan * repeats)
        queued = np.array(ranks.call(transfer_on_rank, workload, at_rate, queue, False))
        yield from _transfer_samples(workload, rate, queue, queued, queued=True)
        progress(f"compute and transfers together, {readable('_bytes_per_s', rate)}")
        yield from _together(ranks, workload, at_rate, steps)


def _plan(workload: Workload, repeats: int, seed: int) -> Transfers:
    rows = [max(1, round(share * _rows_a_peer(workload))) for share in SHARES]
    plan = [(form, r) for r in rows for form in ("dispatch", "combine")] * repeats
    return Transfers(tuple(plan[i] for i in np.random.default_rng(seed).permutation(len(plan))))


def _together(ranks: Ranks, workload: Workload, settings: Settings, steps: int) -> Iterator[Sample]:
    """Ops that ran wholly under load, and transfers that ran wholly while every rank computed."""
    reports = _echo(ranks, workload, settings, steps, _load(workload))
    rate = settings.link_bytes_per_s
    spans = np.array([loaded for _, loaded in reports])
    for rank, (report, loaded) in enumerate(reports):
        yield from _op_samples(rank, workload, steps, report, window=(loaded[0][0], loaded[-1][1]), rate=rate)
    window = max(r.spans_s[0][0] for r, _ in reports), min(r.spans_s[-1][1] for r, _ in reports)
    load = Transfers(_load(workload).plan * (spans.shape[1] // len(_load(workload).plan)))
    yield from _transfer_samples(workload, rate, load, spans, queued=True, window=window)


def _load(workload: Workload) -> Transfers:
    """What keeps a link busy, again and again: transfers of the workload's own size."""
    return Transfers((("dispatch", _rows_a_peer(workload)), ("combine", _rows_a_peer(workload))) * 2)


def _echo(
    ranks: Ranks, workload: Workload, settings: Settings, steps: int, load: Transfers | None = None
) -> list[tuple[RankRun, Spans]]:
    schedule = _schedule(workload, steps)
    reports: list[tuple[RankRun, Spans]] = ranks.call(compute_on_rank, schedule, workload, settings, load)
    return reports


def time_alone(ranks: Ranks, schedule: Schedule, workload: Workload, settings: Settings) -> tuple[float, float]:
    """Seconds of all compute ops of `schedule` without a link, and of its dispatches and combines without compute.

    No order can be faster than the longer of the two.  `workload` holds the routing whose rows are sent."""
    computed = ranks.call(compute_on_rank, schedule, workload, settings, None)
    sent = np.array(ranks.call(replay_on_rank, schedule, workload, settings))  # [rank, 2]
    talks = np.array(schedule.on_communication)
    busy_s = [float(np.diff(np.array(report.spans_s)[~talks]).sum()) for report, _ in computed]
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
    """What the host takes to go on from one op to the next, by what it issues.

    launch: from a compute op to the next (not to those that wait for rows).  collective: from an A over the dispatch
    that it posts to the S behind it.  wake: from then until the dispatch has begun, if it has not yet."""
    schedule, spans = _schedule(workload, steps), report.spans_s
    for i, op in enumerate(schedule.ops):
        if op.step > 0 and op.kind in "PAFZ":
            yield Sample("gap", "launch", 0.0, spans[i][0] - spans[i - 1][1], rank)
        if op.step > 0 and op.kind == "S":
            attended, posted = (spans[schedule.position[f"{kind}{op.step}.{op.layer}"]] for kind in "AD")
            yield Sample("gap", "collective", 0.0, spans[i][0] - attended[1], rank)
            yield Sample("gap", "wake", 0.0, max(0.0, posted[0] - spans[i][0]), rank)


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
    row_bytes = workload.row_bytes
    ready_s = spans_s[:, :, 0].max(axis=0)
    for rank, ended_s in enumerate(spans_s[:, :, 1]):
        for (form, rows), start_s, end_s in [*zip(load.plan, ready_s, ended_s, strict=True)][queued:]:
            if window is None or (window[0] <= start_s and end_s <= window[1]):
                size, seconds = float(rows * row_bytes), float(end_s - start_s)
                yield Sample("transfer", form, size, seconds, rank, window is not None, rate, queued)


def _rows_a_peer(workload: Workload) -> int:
    """Rows that a balanced dispatch sends to each peer."""
    return round(workload.tokens * workload.model.top_k / workload.ranks)
