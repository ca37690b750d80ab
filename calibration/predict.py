"""Predictions of the runs of a bundle, from its microbenchmarks alone.

A run of round r is predicted from the samples just before and just after it, rounds r and r + 1; no run is ever fitted
to, and of earlier runs a prediction knows only which experts the router chose.  The interval of a prediction holds
what the fit leaves open (bootstrap), the noise of a run (jitter), the drift of the machine between measuring and
running (what a calibration round is off the mean of its two neighbours, which is how a run lies to its own two), and
what the model is off for *other* schedules on this machine; results also say how far intervals go without the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from calibration.bundle import Bundle
from calibration.cells import Cell, with_model_errors
from calibration.fit import Fit, fitted, op_features
from calibration.fit_links import features, seconds, transfers
from calibration.lines import Array
from calibration.plan import Job, Plan
from calibration.samples import Sample
from sim.cluster import Cluster, Link, Rate
from sim.engine import simulate
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

SEEDS = range(15)  # noise of a prediction, of which the median is taken
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Drift:
    """Standard deviations of the logarithm: of all compute together, and of all links, from what was fitted."""

    compute: float
    links: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """The simulation whose makespan is the median, and makespans [draw] as likely as it."""

    trace: Trace
    makespans_s: Array


def cells(bundle: Bundle, plan: Plan, tell: Tell = lambda _: None) -> list[Cell]:
    """Every cell of `plan`, predicted and measured, in the rounds in which all cells of its link rate ran.

    Raises ValueError if there is none, or if samples or routing lack something."""
    runs = sorted(whole_rounds(bundle, plan), key=_cell_of)
    if not runs:
        raise ValueError(f"{bundle.folder} holds no round in which all of the plan's schedules ran")
    routing = bundle.routing()
    if routing is None:
        raise ValueError(f"{bundle.folder / 'routing.npz'} is missing; `compare` records it again")
    samples, routed, found = bundle.samples(), replace(plan.workload, routing=routing), list[Cell]()
    drifts = {
        rate: drift(samples, fit_of(samples, plan, rate, bundle.machine)) for rate in {j.rate for j in runs if j.rate}
    }
    fits = _fits(samples, runs, plan, bundle, tell)
    for (text, rate), jobs in groupby(runs, key=_cell_of):
        tell(f"predicting {text}")
        schedule, mine = plan.schedule(text), [*jobs]
        made = [predict(schedule, routed, fits[job.round, rate], drifts[rate], job.round) for job in mine]
        measured = [bundle.run(job.name) for job in mine]
        found.append(Cell(text, rate, [p.trace for p in made], measured, [p.makespans_s for p in made]))
    return with_model_errors(sorted(found, key=lambda c: (c.link_bytes_per_s, plan.schedules.index(c.text))))


def whole_rounds(bundle: Bundle, plan: Plan) -> list[Job]:
    """The runs that are there, but those of a round and link rate of which some run is not: ratios are within a
    round."""
    runs, done = [job for job in plan.jobs() if job.kind == "run"], bundle.done()
    partly = {(job.round, job.rate) for job in runs if job.name not in done}
    return [job for job in runs if (job.round, job.rate) not in partly]


def _cell_of(job: Job) -> tuple[str, float]:
    assert job.schedule is not None
    assert job.rate is not None
    return job.schedule, job.rate


def _fits(
    samples: Sequence[Sample], runs: Sequence[Job], plan: Plan, bundle: Bundle, tell: Tell
) -> Mapping[tuple[int, float], Fit]:
    """(round, rate) -> the fit to the samples around that round's runs."""
    found = {}
    for number, rate in sorted({(job.round, job.rate) for job in runs if job.rate}):
        tell(f"fitting round {number}")
        around = [s for s in samples if s.round in (number, number + 1)]
        found[number, rate] = fit_of(around, plan, rate, bundle.machine)
    return found


def fit_of(samples: Sequence[Sample], plan: Plan, rate: float, machine: Mapping[str, str], team: int = 0) -> Fit:
    """The fit of a plan's cluster to samples, with links of one rate; of the first `team` of its ranks, 0: of all."""
    host_ranks = plan.ranks // plan.hosts if plan.hosts else 0
    return fitted(samples, plan.ranks, rate, machine, plan.seed, host_ranks, port=plan.link == "port", team=team)


def predict(schedule: Schedule, workload: Workload, fit: Fit, off: Drift, seed: int) -> Prediction:
    """A run of `schedule`, with its uncertainty."""
    median = sorted((simulate(schedule, workload, fit.cluster, s) for s in SEEDS), key=lambda t: t.makespan_s)
    rng, makespans = np.random.default_rng(seed), []
    for i in range(len(fit.draws)):
        machine = drifted(fit.drawn(i), *np.exp(rng.standard_normal(2) * (off.compute, off.links)))
        makespans.append(simulate(schedule, workload, machine, seed=int(rng.integers(2**31))).makespan_s)
    return Prediction(median[len(median) // 2], np.array(makespans))


def drifted(cluster: Cluster, compute: float, links: float) -> Cluster:
    """The same machine when compute and links take so many times as long."""
    assert isinstance(cluster.compute, Mapping), "measured rates"
    rates = {kind: Rate(r.fixed_s * compute, r.flops_per_s / compute) for kind, r in cluster.compute.items()}
    link = cluster.link
    if isinstance(link, Link):
        slow = replace(link, latency_s=link.latency_s * links, bytes_per_s=link.bytes_per_s / links)
        return replace(cluster, compute=rates, link=slow)
    resources = {
        name: replace(r, latency_s=r.latency_s * links, bytes_per_s=r.bytes_per_s / links)
        for name, r in link.resources.items()
    }
    return replace(cluster, compute=rates, link=replace(link, resources=resources))


def drift(samples: Sequence[Sample], fit: Fit) -> Drift:
    """How far a calibration round is off the mean of its neighbours; 0 where there are fewer than three rounds.

    A round that was interrupted may have one of the two only."""
    computed = {sample.round for sample in samples if sample.what == "op" and sample.alone}
    sent = {sample.round for sample in transfers(samples, fit.link.rate, fit.link.host_ranks)}
    compute = [np.mean([np.log(_ratios(samples, r, kind, fit)) for kind in "ASE"]) for r in sorted(computed)]
    links = [np.log(_transfer_ratio(samples, r, fit)) for r in sorted(sent)]
    return Drift(_off_neighbours(np.array(compute)), _off_neighbours(np.array(links)))


def _off_neighbours(logs: Array) -> float:
    if len(logs) < 3:
        return 0.0
    off = logs[1:-1] - (logs[:-2] + logs[2:]) / 2
    return float(np.sqrt(np.mean(off**2)))


def _ratios(samples: Sequence[Sample], number: int, kind: str, fit: Fit) -> float:
    """Median over the fit of one kind's samples of one round."""
    mine = [s for s in samples if s.round == number and s.what == "op" and s.subject == kind and s.alone]
    return float(np.median(seconds(mine) / fit.lines[kind].at(op_features(mine))))


def _transfer_ratio(samples: Sequence[Sample], number: int, fit: Fit) -> float:
    some = [s for s in samples if s.round == number]
    mine = transfers(some, fit.link.rate, fit.link.host_ranks)
    return float(np.median(seconds(mine) / fit.link.line.at(features(mine, fit.link.host_ranks))))
