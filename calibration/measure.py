"""Microbenchmarks on real ranks: compute ops, transfers, and each under a load of the other.

Compute is timed by the runner itself over a transport that moves nothing (calibration/echo.py), at several batch
sizes; transfers by the runner's transport alone, at several sizes, even and uneven; then both at once.  No schedule
that a prediction is later compared with is run here.  The file knows what a job of a plan measures and what a sample
is; what the ranks do for it is in calibration/on_ranks.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from calibration.on_ranks import Rows, Spans, Transfers, compute_on_rank, replay_on_rank, transfer_on_rank
from calibration.plan import Job, Plan
from calibration.samples import Sample, gpu_state, mark
from realrun.backend import Pool
from realrun.execute import RankRun
from realrun.run import Settings, routing_of
from sim.cost import op_flops
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import sync
from sim.workload import Workload

SHARES = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.25, 1.5)  # sizes of transfers, over the workload's own, about
_ABOUT = 0.12  # how far sizes are off: multiples of what a network cuts bytes into take longer than others
SPREAD = 0.5  # of the logarithm of rows between two ranks, in uneven transfers


def measure(job: Job, plan: Plan, pool: Pool) -> list[Sample]:
    """The samples of one calibration job, outliers marked.  Raises RanksFailed if a rank failed."""
    bench = _Bench(plan, pool, plan.settings_at(job.rate), job.rate)
    done = {"compute": bench.compute, "transfers": bench.transfers, "queue": bench.queue, "together": bench.together}
    clock_hz, temperature_c = gpu_state()
    return mark(
        replace(sample, round=job.round, clock_hz=clock_hz, temperature_c=temperature_c)
        for sample in done[job.kind](job)
    )


@dataclass(frozen=True)
class _Bench:
    """A plan's ranks, and links of one rate between them."""

    plan: Plan
    pool: Pool
    settings: Settings
    rate: float | None

    @property
    def workload(self) -> Workload:
        return self.plan.workload

    def compute(self, job: Job) -> Iterator[Sample]:
        """Every op of every layer at one batch size, and what the host takes between them."""
        assert job.images is not None
        workload, steps = replace(self.workload, images=job.images), self.plan.calibration_steps
        for rank, (report, _) in enumerate(_echo(self.pool, workload, self.settings, steps)):
            yield from _op_samples(rank, workload, steps, report)
            if job.images == self.workload.images:
                yield from _gap_samples(rank, workload, steps, report)

    def transfers(self, job: Job) -> Iterator[Sample]:
        """About a quarter to one and a half of the workload's rows, in random order, each on a link that has rested;
        some among fewer ranks."""
        rng = np.random.default_rng((self.plan.seed, job.round))
        forms, often = ("dispatch", "combine"), -(-self.plan.repeats // 2)
        load = [(form, self._even(share, rng)) for share in SHARES * often for form in forms]
        load += [(form, self._uneven(rng)) for form in forms * (2 * often)]
        fewer = [(share, team) for team in self.plan.teams for share in SHARES[::3] * often]
        load += [(form, self._even(share, rng, team)) for share, team in fewer for form in forms]
        load = [load[i] for i in rng.permutation(len(load))]
        yield from self._transfer_samples(load, self._transfer(load, rest=True))

    def queue(self, job: Job) -> Iterator[Sample]:
        """The workload's own transfers, back to back."""
        load = self._load(job, self.plan.repeats)
        yield from self._transfer_samples(load, self._transfer(load, rest=False), queued=True)

    def together(self, job: Job) -> Iterator[Sample]:
        """Ops that ran wholly under load, and transfers that ran wholly while every rank computed."""
        assert job.load is not None
        load, steps = self._load(job, 2), self.plan.calibration_steps
        reports = _echo(self.pool, self.workload, self.settings, steps, Transfers(load, job.load))
        spans = np.array([loaded for _, loaded in reports])
        for rank, (report, loaded) in enumerate(reports):
            window = loaded[0][0], loaded[-1][1]
            for sample in _op_samples(rank, self.workload, steps, report, window):
                yield replace(sample, load=_busy(loaded), link_bytes_per_s=self.rate)
        window = max(r.spans_s[0][0] for r, _ in reports), min(r.spans_s[-1][1] for r, _ in reports)
        made = load * (spans.shape[1] // len(load))
        yield from self._transfer_samples(made, spans, queued=job.load == 1.0, window=window)

    # ------------------------------------------------------------------------------------ transfers

    def _even(self, share: float, rng: np.random.Generator, team: int = 0) -> Rows:
        """Equally many rows [src, dst] between all ranks, or the first `team` of them: about a share of the workload's
        own, on so many."""
        everyone, team = range(self.workload.ranks), team or self.workload.ranks
        rows = max(1, round(share * _rows_a_peer(self.workload, team) * rng.uniform(1 - _ABOUT, 1 + _ABOUT)))
        return tuple(tuple(rows * (max(src, dst) < team) for dst in everyone) for src in everyone)

    def _uneven(self, rng: np.random.Generator) -> Rows:
        """Rows [src, dst] around the workload's own."""
        ranks = self.workload.ranks
        factors = np.exp(SPREAD * rng.standard_normal((ranks, ranks)))
        rows = np.rint(_rows_a_peer(self.workload, ranks) * factors).astype(int)
        return tuple(tuple(row) for row in np.maximum(1, rows).tolist())

    def _load(self, job: Job, repeats: int) -> tuple[tuple[str, Rows], ...]:
        """What keeps a link busy: transfers of about the workload's own size, no two alike."""
        rng = np.random.default_rng((self.plan.seed, job.round, len(job.kind)))
        return tuple((form, self._even(1.0, rng)) for form in ("dispatch", "combine") * (2 * repeats))

    def _transfer(self, load: Sequence[tuple[str, Rows]], rest: bool) -> npt.NDArray[np.float64]:
        """Spans [rank, transfer, 2]."""
        return np.array(self.pool.call(transfer_on_rank, self.workload, self.settings, Transfers(tuple(load)), rest))

    def _transfer_samples(
        self,
        load: Sequence[tuple[str, Rows]],
        spans_s: npt.NDArray[np.float64],
        queued: bool = False,
        window: tuple[float, float] | None = None,
    ) -> Iterator[Sample]:
        """A transfer takes from when the last rank is ready until this rank's rows are there: spans_s [rank, transfer,
        2].  queued: they were issued together, so that all but the first found the link busy.  With a window, those in
        it, which ran under load."""
        ready_s, row_bytes = spans_s[:, :, 0].max(axis=0), self.workload.row_bytes
        for rank, ended_s in enumerate(spans_s[:, :, 1]):
            spans = [*enumerate(zip(load, ready_s, ended_s, strict=True))][queued:]
            for number, ((form, rows), start_s, end_s) in spans:
                if rows[rank][rank] and (window is None or (window[0] <= start_s and end_s <= window[1])):
                    size, across = (float(n * row_bytes) for n in fullest(np.array(rows), rank, self.plan))
                    team = sum(mine > 0 for mine in np.diag(rows))
                    yield Sample(
                        "transfer", form, size, float(end_s - start_s), rank, float(window is not None), self.rate,
                        queued, across_bytes=across, uneven=len({*np.ravel(rows)} - {0}) > 1, number=number,
                        team=int(team) % self.workload.ranks,
                    )  # fmt: skip


def fullest(rows: npt.NDArray[np.int64], rank: int, plan: Plan) -> tuple[int, int]:
    """Rows of the fullest link to or from `rank`, of links that are ports what comes to it; and of the fullest card of
    any host, out or in (0: no hosts)."""
    ranks, hosts = len(rows), plan.hosts
    away = rows * ~np.eye(ranks, dtype=bool)
    most = int(away[:, rank].sum() if plan.link == "port" else max(away[:, rank].max(), away[rank].max()))
    if not hosts:
        return most, 0
    host = np.arange(ranks) * hosts // ranks
    across = np.array(
        [[away[np.ix_(host == a, host == b)].sum() * (a != b) for b in range(hosts)] for a in range(hosts)]
    )
    return most, int(max(across.sum(axis=0).max(), across.sum(axis=1).max()))


def _busy(spans: Spans) -> float:
    """Share of the time from first to last in which a transfer was under way; above 0.95, all of it."""
    whole = spans[-1][1] - spans[0][0]
    share = sum(end - start for start, end in spans) / whole
    return 1.0 if share > 0.95 else round(share, 2)


def _rows_a_peer(workload: Workload, ranks: int) -> int:
    """Rows that a balanced dispatch on so many ranks sends to each peer."""
    return round(workload.tokens * workload.model.top_k / ranks)


# ----------------------------------------------------------------------------------------- compute


def _echo(
    pool: Pool, workload: Workload, settings: Settings, steps: int, load: Transfers | None = None
) -> list[tuple[RankRun, Spans]]:
    schedule = _schedule(workload, steps)
    return pool.call(compute_on_rank, schedule, workload, settings, load)


def _schedule(workload: Workload, steps: int) -> Schedule:
    """What the echo runs: every op once a layer and step, waiting for nothing."""
    return sync(steps, workload.model.layers, top_k=workload.model.top_k)


def _op_samples(
    rank: int, workload: Workload, steps: int, report: RankRun, window: tuple[float, float] | None = None
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
            yield Sample("op", op.kind, float(flops), end_s - start_s, rank)


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


def time_alone(pool: Pool, schedule: Schedule, workload: Workload, settings: Settings) -> tuple[float, float]:
    """Seconds of all compute ops of `schedule` without a link, and of its dispatches and combines without compute.

    No order can be faster than the longer of the two.  `workload` holds the routing whose rows are sent."""
    computed = pool.call(compute_on_rank, schedule, workload, settings, None)
    sent = np.array(pool.call(replay_on_rank, schedule, workload, settings))  # [rank, 2]
    talks = np.array(schedule.on_communication)
    busy_s = [float(np.diff(np.array(report.spans_s)[~talks]).sum()) for report, _ in computed]
    return max(busy_s), float(sent[:, 1].max() - sent[:, 0].max())
