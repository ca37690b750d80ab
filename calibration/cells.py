"""Cells: a schedule at a link rate, predicted and then really run; the unit in which predictions are judged.

A cell's prediction is made from microbenchmarks before its runs, and no run is ever fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from realrun.ranks import Ranks
from realrun.run import Settings, run
from sim.cluster import Cluster
from sim.engine import simulate
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Routing, Workload

SEEDS = range(16)  # noise of a prediction: its median and spread


@dataclass(frozen=True, eq=False)
class Cell:
    """predicted: a simulation for each seed; measured: a real run for each repeat."""

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
        """Signed and relative: +0.1 says that the prediction was 10 % too long."""
        return self.predicted_s / self.measured_s - 1

    @property
    def spread_s(self) -> tuple[float, float]:
        """Fastest and slowest run."""
        makespans = [trace.makespan_s for trace in self.measured]
        return min(makespans), max(makespans)

    @property
    def median_run(self) -> Trace:
        """The run whose makespan is the median's (of an even number, the lower)."""
        return sorted(self.measured, key=lambda trace: trace.makespan_s)[(len(self.measured) - 1) // 2]

    @property
    def median_prediction(self) -> Trace:
        """The simulation whose makespan is the median's (of an even number, the lower)."""
        return sorted(self.predicted, key=lambda trace: trace.makespan_s)[(len(self.predicted) - 1) // 2]

    def same_staleness(self) -> bool:
        """Whether every run's tags said what the schedule says, for every step, layer and slot."""
        want = self.predicted[0].staleness
        return all(np.array_equal(trace.staleness, want) for trace in self.measured)


def record_routing(ranks: Ranks, workload: Workload, settings: Settings, schedule: Schedule) -> Routing:
    """Token counts of one run of `schedule` over an unthrottled link: what the router does, whatever the link."""
    return run(schedule, workload, ranks, replace(settings, link_bytes_per_s=None)).routing


def predict(
    schedules: Sequence[Schedule], workload: Workload, clusters: Mapping[float, Cluster]
) -> dict[tuple[str, float], list[Trace]]:
    """(schedule, link rate) -> a simulation for each of SEEDS."""
    return {
        (schedule.name, rate): [simulate(schedule, workload, cluster, seed) for seed in SEEDS]
        for rate, cluster in clusters.items()
        for schedule in schedules
    }


def run_cells(
    ranks: Ranks,
    schedules: Sequence[Schedule],
    workload: Workload,
    settings: Settings,
    predictions: Mapping[tuple[str, float], Sequence[Trace]],
    *,
    repeats: int = 3,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Cell]:
    """Runs every predicted cell `repeats` times, in a new random order each time, so that drift falls on all alike."""
    by_name = {schedule.name: schedule for schedule in schedules}
    measured: dict[tuple[str, float], list[Trace]] = {key: [] for key in predictions}
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        for i in rng.permutation(len(measured)):
            name, rate = key = list(measured)[i]
            progress(f"{name} for real")
            made = run(by_name[name], workload, ranks, replace(settings, link_bytes_per_s=rate))
            measured[key].append(made.trace)
    return [Cell(rate, predictions[name, rate], measured[name, rate]) for name, rate in predictions]


def speed_up(cells: Sequence[Cell], cell: Cell, baseline: str = "sync") -> tuple[float, float]:
    """(predicted, measured) speed-up of a cell over `baseline` at the same link rate."""
    (base,) = (c for c in cells if c.schedule.name == baseline and c.link_bytes_per_s == cell.link_bytes_per_s)
    return base.predicted_s / cell.predicted_s, base.measured_s / cell.measured_s
