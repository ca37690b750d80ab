"""Cells: a schedule at a link rate, predicted and really run; the unit in which predictions are judged.

A machine that others share drifts, so a cell is judged in rounds of measuring, running and predicting (a plan,
calibration/plan.py).  Ratios are taken within a round, and their median over the rounds is the result.  The file knows
what is read off predictions and runs; it refuses to know how either is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

import numpy as np

from calibration.compare import Row, compare
from calibration.lines import Array
from sim.schedule import Schedule
from sim.trace import Trace

SHARE = 0.9  # of the makespans that an interval is meant to hold


@dataclass(frozen=True, eq=False)
class Cell:
    """predicted, measured: a simulation and a real run for each round; draws: [round][draw] makespans as likely as
    the predicted ones, as far as the fit tells; model: what the model itself is off, beside that, as the standard
    deviation of a logarithm.  text: the schedule with its settings, as the plan names it."""

    text: str
    link_bytes_per_s: float
    predicted: Sequence[Trace]
    measured: Sequence[Trace]
    draws: Sequence[Array]
    model: float = 0.0

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

    @property
    def interval_s(self) -> tuple[float, float]:
        """Where the median of the runs should lie, 9 times in 10."""
        return _interval(np.median(self._widened(), axis=0))

    @property
    def inside_fit(self) -> bool:
        """Whether it lies in the interval of the fit alone, which says nothing of what the model is off."""
        low, high = _interval(np.median(np.array(self.draws), axis=0))
        return low <= self.measured_s <= high

    @property
    def runs_inside(self) -> float:
        """Share of the runs that lie in the interval of their own round's prediction."""
        intervals = map(_interval, self._widened())
        return float(
            np.mean([low <= t.makespan_s <= high for (low, high), t in zip(intervals, self.measured, strict=True)])
        )

    def _widened(self) -> Array:
        """[round, draw]: the draws, of a model that is off by the same in every round."""
        draws = np.array(self.draws)
        off = np.random.default_rng(0).standard_normal(draws.shape[1])
        return np.asarray(draws * np.exp(self.model * off))

    def median_round(self) -> tuple[Trace, Trace]:
        """Prediction and run of the round whose ratio is the median (of an even number, the lower)."""
        order = np.argsort(self.ratios, kind="stable")
        middle = int(order[(len(order) - 1) // 2])
        return self.predicted[middle], self.measured[middle]

    def rows(self) -> Iterator[Row]:
        """Everything that can be compared, of every round."""
        for predicted, measured in zip(self.predicted, self.measured, strict=True):
            yield from compare(predicted, measured)

    def same_staleness(self) -> bool:
        """Whether every run's tags said what the schedule says, for every step, layer and slot."""
        want = self.predicted[0].staleness
        return all(np.array_equal(trace.staleness, want) for trace in self.measured)


def _interval(draws: Array) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - SHARE) / 2, (1 + SHARE) / 2]).tolist()
    return low, high


def with_model_errors(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, each with a model that is off as much as in the cells of the *other* schedules (root mean square of
    the logarithm); 0 where there are no others.  A cell's own runs say nothing about its interval."""
    found = []
    for cell in cells:
        others = [np.log1p(other.error) for other in cells if other.text != cell.text]
        found.append(replace(cell, model=float(np.sqrt(np.mean(np.square(others)))) if others else 0.0))
    return found


def speed_up(cells: Sequence[Cell], cell: Cell, baseline: str = "sync") -> tuple[float, float]:
    """(predicted, measured) speed-up of a cell over `baseline` at the same link rate: the median over the rounds."""
    (base,) = (c for c in cells if c.text == baseline and c.link_bytes_per_s == cell.link_bytes_per_s)
    predicted, measured = (
        median(b.makespan_s / c.makespan_s for b, c in zip(*pair, strict=True))
        for pair in [(base.predicted, cell.predicted), (base.measured, cell.measured)]
    )
    return predicted, measured


@dataclass(frozen=True)
class Order:
    """The schedules at one link rate, from fastest to slowest.

    told: of the pairs whose measured medians differ by more than both spread, the share whose order was predicted."""

    link_bytes_per_s: float
    predicted: tuple[str, ...]
    measured: tuple[str, ...]
    told: float
    pairs: int


def orders(cells: Sequence[Cell]) -> list[Order]:
    """For every link rate: predicted and measured order, and how many orders of pairs were predicted rightly."""
    found = []
    for rate in dict.fromkeys(cell.link_bytes_per_s for cell in cells):
        mine = [cell for cell in cells if cell.link_bytes_per_s == rate]
        predicted, measured = (
            tuple(cell.text for cell in sorted(mine, key=key))
            for key in (lambda c: c.predicted_s, lambda c: c.measured_s)
        )
        right = [
            (a.predicted_s < b.predicted_s) == (a.measured_s < b.measured_s)
            for a, b in combinations(mine, 2)
            if a.spread_s[1] < b.spread_s[0] or b.spread_s[1] < a.spread_s[0]
        ]
        found.append(Order(rate, predicted, measured, float(np.mean(right)) if right else 1.0, len(right)))
    return found
