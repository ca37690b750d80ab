"""Results: the numbers of cells as a file, and as the tables that README, terminal and docs show."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from calibration.cells import Cell, Order, orders, speed_up
from sim.output import whole_file
from sim.units import readable

LEVELS = ("op", "collective", "layer", "step", "run")
HEADINGS = (
    ("link", ""),
    ("schedule", ""),
    ("stale", "pred."),
    ("", "meas."),
    ("seconds", "pred."),
    ("", "90 %"),
    ("", "meas."),
    ("", "error"),
    ("speed-up", "pred."),
    ("", "meas."),
)
STALE_MEASURED = 3  # of HEADINGS


@dataclass(frozen=True)
class Level:
    """Errors (predicted / measured - 1) of one level of a cell or of many: median, 5th and 95th percentile, and mean
    without sign, over rounds and over all ops, layers or steps that there are."""

    median: float
    low: float
    high: float
    absolute: float

    @staticmethod
    def of(errors: Sequence[float]) -> Level:
        """Of one or more errors."""
        low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95]).tolist()
        return Level(middle, low, high, float(np.mean(np.abs(errors))))


@dataclass(frozen=True)
class Result:
    """One cell in numbers: medians in seconds, errors and ages as in `Cell`, speed-ups over sync on the same link."""

    schedule: str
    steps: int
    link_bytes_per_s: float
    staleness_predicted: str
    staleness_measured: str
    staleness_equal: bool  # in every step, layer and slot of every run
    predicted_s: float
    low_s: float | None  # of the interval that should hold the median of the runs, 9 times in 10; None: not known
    high_s: float | None
    measured_s: float
    measured_min_s: float
    measured_max_s: float
    error: float
    speed_up_predicted: float
    speed_up_measured: float
    runs_inside: float | None  # share of the runs in the interval of their own round
    inside_fit: (
        bool | None
    )  # whether the fit's own interval, without what the model is off for others, holds the median
    levels: Mapping[str, Level]

    @property
    def inside(self) -> bool | None:
        """Whether the median of the runs lies in its interval; None without one."""
        if self.low_s is None or self.high_s is None:
            return None
        return self.low_s <= self.measured_s <= self.high_s

    @property
    def interval(self) -> str:
        """Its interval, to be read."""
        if self.low_s is None or self.high_s is None:
            return ""
        return f"{self.low_s:.2f}-{self.high_s:.2f}" + ("" if self.inside else " MISSED")

    def row(self) -> tuple[str, ...]:
        """The cell as texts under HEADINGS."""
        return (
            readable("_bytes_per_s", self.link_bytes_per_s),
            self.schedule,
            self.staleness_predicted,
            self.staleness_measured + ("" if self.staleness_equal else " DIFFERS"),
            f"{self.predicted_s:.2f}",
            self.interval,
            f"{self.measured_s:.2f}",
            f"{self.error:+.1%}",
            f"{self.speed_up_predicted:.2f}",
            f"{self.speed_up_measured:.2f}",
        )


@dataclass(frozen=True)
class Results:
    """All cells of a bundle.  levels: over all of them; orders: of the schedules at each rate."""

    cells: tuple[Result, ...]
    levels: Mapping[str, Level]
    orders: tuple[Order, ...]
    meta: Mapping[str, str]

    @property
    def covered(self) -> float | None:
        """Share of the cells whose measured median lies in its interval."""
        return _share(cell.inside for cell in self.cells)

    @property
    def fit_covered(self) -> float | None:
        """The same of intervals that leave out what the model is off for other schedules."""
        return _share(cell.inside_fit for cell in self.cells)

    @property
    def runs_covered(self) -> float | None:
        """Share of the runs that lie in the interval of their round."""
        return _share(cell.runs_inside for cell in self.cells)


def _share(insides: Iterable[float | None]) -> float | None:
    """The mean of those that are known; None if none is."""
    known = [float(inside) for inside in insides if inside is not None]
    return mean(known) if known else None


def summarise(cells: Sequence[Cell], meta: Mapping[str, str]) -> Results:
    """The numbers of `cells`, among which is sync at every link rate."""
    errors: dict[str, list[float]] = defaultdict(list)
    made = []
    for cell in cells:
        mine = _errors(cell)
        made.append(_result(cells, cell, {level: Level.of(mine[level]) for level in LEVELS}))
        for level in LEVELS:
            errors[level] += mine[level]
    return Results(tuple(made), {key: Level.of(all_) for key, all_ in errors.items()}, tuple(orders(cells)), meta)


def _errors(cell: Cell) -> dict[str, list[float]]:
    """By level: of every round, and every op, layer or step."""
    errors: dict[str, list[float]] = defaultdict(list)
    for row in cell.rows():
        if np.isfinite(row.error):
            errors[row.level].append(row.error)
    return errors


def _result(cells: Sequence[Cell], cell: Cell, levels: Mapping[str, Level]) -> Result:
    predicted, measured = speed_up(cells, cell)
    return Result(
        cell.text,
        cell.schedule.steps,
        cell.link_bytes_per_s,
        ages(cell.predicted[0].staleness),
        ages(cell.measured[0].staleness),
        cell.same_staleness(),
        cell.predicted_s,
        *cell.interval_s,
        cell.measured_s,
        *cell.spread_s,
        cell.error,
        predicted,
        measured,
        cell.runs_inside,
        cell.inside_fit,
        levels,
    )


def ages(staleness: npt.NDArray[np.int64]) -> str:
    """The oldest age of each step, equal neighbours once: staleness [step, layer, slot] of displaced is "0 1 2"."""
    return " ".join(str(age) for age, _ in groupby(staleness.max(axis=(1, 2)).tolist()))


def verdict(results: Results) -> str:
    """How far the predictions were off, in words."""
    errors = [abs(r.error) for r in results.cells]
    ratios = [abs(r.speed_up_predicted / r.speed_up_measured - 1) for r in results.cells if r.schedule != "sync"]
    pairs = sum(order.pairs for order in results.orders)
    told = sum(order.told * order.pairs for order in results.orders)
    told_of = (
        f"makespan off by {mean(errors):.1%} on average, {max(errors):.1%} at worst; "
        f"speed-up over sync off by {mean(ratios):.1%} on average, {max(ratios):.1%} at worst "
        "(errors and speed-ups are ratios within a round, and their median over the rounds)"
    )
    if results.covered is not None:
        told_of += (
            f"; {results.covered:.0%} of the cells and {results.runs_covered:.0%} of the single runs lie in their 90 % "
            f"interval ({results.fit_covered:.0%} of the cells, of intervals from the fit alone)"
        )
    if pairs:
        told_of += (
            f"; of {pairs} pairs of schedules that differ by more than their spread, {told:.0f} were told in order"
        )
    return told_of


def markdown(results: Results) -> str:
    """The table of cells for a page."""
    headings, group = [], ""
    for name, sub in HEADINGS:
        group = name or group
        headings.append(f"{group} {sub}".strip())
    return rows_to_markdown([headings, *(result.row() for result in results.cells)])


def levels_markdown(results: Results) -> str:
    """The table of errors by level for a page."""
    rows = [["level", "median error", "5 % to 95 %", "mean without sign"]]
    for name in LEVELS:
        level = results.levels[name]
        rows.append([name, f"{level.median:+.1%}", f"{level.low:+.1%} to {level.high:+.1%}", f"{level.absolute:.1%}"])
    return rows_to_markdown(rows)


def rows_to_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def save(path: Path, results: Results) -> None:
    """Writes results and how they were made."""
    shares = {"covered": results.covered, "fit_covered": results.fit_covered, "runs_covered": results.runs_covered}
    data = {**shares, **asdict(results)}
    with whole_file(path) as part:
        part.write_text(json.dumps(data, indent=1) + "\n")


def load(path: Path) -> Results:
    """Reads what `save` wrote.  Raises ValueError if it is something else."""
    try:
        data = json.loads(path.read_text())
        cells = [Result(**{**cell, "levels": _levels(cell["levels"])}) for cell in data["cells"]]
        found = [
            Order(**{**o, "predicted": tuple(o["predicted"]), "measured": tuple(o["measured"])}) for o in data["orders"]
        ]
        return Results(tuple(cells), _levels(data["levels"]), tuple(found), data["meta"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no results: {error!r}") from None


def _levels(tables: Mapping[str, Mapping[str, float]]) -> dict[str, Level]:
    return {name: Level(**table) for name, table in tables.items()}
