"""Cells: a schedule at a link rate, predicted and then really run; the unit in which predictions are judged.

A machine that others share drifts, so a cell is judged in rounds: measure, predict, run, and again.  Within a round the
prediction is made from the microbenchmarks just taken, before the runs that it is held against; no run is ever fitted
to.  Ratios are taken within a round, and their median over the rounds is the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from realrun.ranks import Ranks
from realrun.run import Settings, run
from sim.cluster import Cluster
from sim.engine import simulate
from sim.routing import Routing
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

SEEDS = range(15)  # noise of a prediction, of which the median is taken
Key = tuple[str, float]  # schedule, link rate in bytes a second


@dataclass(frozen=True, eq=False)
class Cell:
    """predicted, measured: a simulation and a real run for each round."""

    link_bytes_per_s: float
    predicted: Sequence[Trace]
    measured: Sequence[Trace]

    @property
    def schedule(self) -> Schedule:
        """The schedule of all its traces."""
        return self.predicted[0].schedule

    @property
    def predicted_s(self) -> float:
        """Median makespan of the simulations."""
        return median(trace.makespan_s for trace in self.predicted)

    @property
    def measured_s(self) -> float:
        """Median makespan of the runs."""
        return median(trace.makespan_s for trace in self.measured)

    @property
    def error(self) -> float:
        """Signed and relative: +0.1 says that the prediction was 10 % too long in the median round."""
        return median(self.ratios) - 1

    @property
    def ratios(self) -> list[float]:
        """Predicted over measured makespan, round by round."""
        return [p.makespan_s / m.makespan_s for p, m in zip(self.predicted, self.measured, strict=True)]

    @property
    def spread_s(self) -> tuple[float, float]:
        """Fastest and slowest run."""
        makespans = [trace.makespan_s for trace in self.measured]
        return min(makespans), max(makespans)

    def median_round(self) -> tuple[Trace, Trace]:
        """Prediction and run of the round whose ratio is the median (of an even number, the lower)."""
        order = np.argsort(self.ratios, kind="stable")
        middle = int(order[(len(order) - 1) // 2])
        return self.predicted[middle], self.measured[middle]

    def same_staleness(self) -> bool:
        """Whether every run's tags said what the schedule says, for every step, layer and slot."""
        want = self.predicted[0].staleness
        return all(np.array_equal(trace.staleness, want) for trace in self.measured)


def speed_up(cells: Sequence[Cell], cell: Cell, baseline: str = "sync") -> tuple[float, float]:
    """(predicted, measured) speed-up of a cell over `baseline` at the same link rate: the median over the rounds."""
    (base,) = (c for c in cells if c.schedule.name == baseline and c.link_bytes_per_s == cell.link_bytes_per_s)
    predicted, measured = (
        median(b.makespan_s / c.makespan_s for b, c in zip(*pair, strict=True))
        for pair in [(base.predicted, cell.predicted), (base.measured, cell.measured)]
    )
    return predicted, measured


def record_routing(ranks: Ranks, workload: Workload, settings: Settings, schedule: Schedule) -> Routing:
    """Token counts of one run of `schedule` over an unthrottled link: what the router does, whatever the link."""
    return run(schedule, workload, ranks, replace(settings, link_bytes_per_s=None)).routing


def predict(schedules: Sequence[Schedule], workload: Workload, clusters: Mapping[float, Cluster]) -> dict[Key, Trace]:
    """(schedule, link rate) -> the simulation whose makespan is the median over SEEDS."""
    return {
        (schedule.name, rate): _median([simulate(schedule, workload, cluster, seed) for seed in SEEDS])
        for rate, cluster in clusters.items()
        for schedule in schedules
    }


def run_all(
    ranks: Ranks,
    schedules: Sequence[Schedule],
    workload: Workload,
    settings: Settings,
    keys: Sequence[Key],
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[Key, Trace]:
    """A real run for each of `keys`, in a random order."""
    by_name = {schedule.name: schedule for schedule in schedules}
    measured = {}
    for i in np.random.default_rng(seed).permutation(len(keys)):
        name, rate = key = keys[i]
        progress(f"{name} for real")
        measured[key] = run(by_name[name], workload, ranks, replace(settings, link_bytes_per_s=rate)).trace
    return measured


def join(rounds: Sequence[tuple[Mapping[Key, Trace], Mapping[Key, Trace]]]) -> list[Cell]:
    """Cells from the (predicted, measured) traces of every round."""
    return [
        Cell(key[1], [predicted[key] for predicted, _ in rounds], [measured[key] for _, measured in rounds])
        for key in rounds[0][0]
    ]


def _median(traces: Sequence[Trace]) -> Trace:
    return sorted(traces, key=lambda trace: trace.makespan_s)[len(traces) // 2]
