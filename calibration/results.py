"""Results: the numbers of cells as a file, and as the table that README, terminal and docs show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from calibration.cells import Cell, speed_up
from calibration.compare import compare
from sim.output import whole_file
from sim.units import readable

HEADINGS = (
    ("link", ""),
    ("schedule", ""),
    ("stale", "pred."),
    ("", "meas."),
    ("seconds", "pred."),
    ("", "meas."),
    ("", "min-max"),
    ("", "error"),
    ("speed-up", "pred."),
    ("", "meas."),
)


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
    measured_s: float
    measured_min_s: float
    measured_max_s: float
    error: float
    speed_up_predicted: float
    speed_up_measured: float
    errors_by_kind: Mapping[str, float]  # in the median round, like the next two
    errors_by_layer: Mapping[str, float]
    errors_by_step: Mapping[str, float]

    def row(self) -> tuple[str, ...]:
        """The cell as texts under HEADINGS."""
        return (
            readable("_bytes_per_s", self.link_bytes_per_s),
            self.schedule,
            self.staleness_predicted,
            self.staleness_measured + ("" if self.staleness_equal else " DIFFERS"),
            f"{self.predicted_s:.2f}",
            f"{self.measured_s:.2f}",
            f"{self.measured_min_s:.2f}-{self.measured_max_s:.2f}",
            f"{self.error:+.1%}",
            f"{self.speed_up_predicted:.2f}",
            f"{self.speed_up_measured:.2f}",
        )


def summarise(cells: Sequence[Cell]) -> list[Result]:
    """The numbers of `cells`, among which is sync at every link rate."""
    return [_result(cells, cell) for cell in cells]


def _result(cells: Sequence[Cell], cell: Cell) -> Result:
    median_predicted, median_measured = cell.median_round()
    rows = compare(median_predicted, median_measured)
    errors = {level: {r.key: r.error for r in mine} for level, mine in groupby(rows, key=lambda row: row.level)}
    predicted, measured = speed_up(cells, cell)
    return Result(
        cell.schedule.name,
        cell.schedule.steps,
        cell.link_bytes_per_s,
        ages(cell.predicted[0].staleness),
        ages(median_measured.staleness),
        cell.same_staleness(),
        cell.predicted_s,
        cell.measured_s,
        *cell.spread_s,
        cell.error,
        predicted,
        measured,
        errors["kind"],
        errors["layer"],
        errors["step"],
    )


def ages(staleness: npt.NDArray[np.int64]) -> str:
    """The oldest age of each step, equal neighbours once: staleness [step, layer, slot] of displaced is "0 1 2"."""
    return " ".join(str(age) for age, _ in groupby(staleness.max(axis=(1, 2)).tolist()))


def verdict(results: Sequence[Result]) -> str:
    """One line: how far the predictions were off."""
    errors = [abs(r.error) for r in results]
    ratios = [abs(r.speed_up_predicted / r.speed_up_measured - 1) for r in results if r.schedule != "sync"]
    return (
        f"makespan off by {mean(errors):.1%} on average, {max(errors):.1%} at worst; "
        f"speed-up over sync off by {mean(ratios):.1%} on average, {max(ratios):.1%} at worst "
        "(errors and speed-ups are ratios within a round, and their median over the rounds)"
    )


def markdown(results: Sequence[Result]) -> str:
    """The table for a README."""
    headings, group = [], ""
    for name, sub in HEADINGS:
        group = name or group
        headings.append(f"{group} {sub}".strip())
    lines = [headings, ["---"] * len(headings), *(result.row() for result in results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def save(path: Path, results: Sequence[Result], meta: Mapping[str, str]) -> None:
    """Writes results and how they were made."""
    with whole_file(path) as part:
        part.write_text(json.dumps({"meta": dict(meta), "cells": [asdict(r) for r in results]}, indent=1) + "\n")


def load(path: Path) -> tuple[list[Result], dict[str, str]]:
    """Reads what `save` wrote.  Raises ValueError if it is something else."""
    try:
        data = json.loads(path.read_text())
        return [Result(**cell) for cell in data["cells"]], data["meta"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no results: {error!r}") from None
