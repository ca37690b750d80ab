"""Predictions beside measurements: errors by level, and fits with what they leave over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sim.pictures.style import COLUMN_IN, figure, palette, rows_of_axes, styled

Array = npt.NDArray[np.float64]
_MOST_FITS = 7  # colours that can be told apart on white
_SPREAD = 0.28  # width over which the points of a level are spread


class FitPoints(NamedTuple):
    """One thing that was measured at several sizes and fitted: `x` [point] sizes, seconds measured and fitted.

    low_s, high_s [point]: interval of the fit, where it has one."""

    name: str
    x: npt.ArrayLike
    measured_s: npt.ArrayLike
    fitted_s: npt.ArrayLike
    low_s: npt.ArrayLike | None = None
    high_s: npt.ArrayLike | None = None


@styled
def draw_errors(errors: Mapping[str, npt.ArrayLike], *, width_in: float = COLUMN_IN, height_in: float = 2.2) -> Figure:
    """Relative errors (predicted / measured - 1), a column a level, such as op, layer, step, run.

    errors: level -> [case].  Every case is a point; a bar leads from the 5th to the 95th percentile, a line marks the
    median.  Raises ValueError for a level without cases or an error that is not finite."""
    if not errors:
        raise ValueError("errors is empty; it should have a name and errors for each level")
    made = figure(width_in, height_in)
    ((axes,),) = rows_of_axes(made, 1)
    axes.axhline(0.0, color="black", linewidth=0.6)
    names: list[str] = []
    for at, (level, given) in enumerate(errors.items()):
        cases = np.asarray(given, dtype=np.float64).ravel()
        if not cases.size or not np.isfinite(cases).all():
            raise ValueError(f"{level}: errors should be one or more finite numbers, not {given!r}")
        names.append(f"{level}\n{len(cases)}\n{_told(cases)}")
        _draw_level(axes, at, cases, palette()[0])
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y")
    axes.set_ylabel("predicted / measured - 1")
    axes.set_xlabel("(cases, median, worst)")
    return made


def _draw_level(axes: Axes, at: int, cases: Array, colour: str) -> None:
    order = np.argsort(cases, kind="stable")
    place = np.zeros(len(cases))
    place[order] = at + _SPREAD * (np.arange(len(cases)) * 0.618034 % 1.0 - 0.5)  # evenly, without a pattern
    low, middle, high = np.percentile(cases, [5, 50, 95])
    axes.vlines(at, low, high, color=colour, linewidth=5, alpha=0.25)
    axes.plot(place, cases, "o", color=colour, markersize=2.2, markeredgewidth=0)
    axes.hlines(middle, at - 0.2, at + 0.2, color="black", linewidth=1.2)


def _told(cases: Array) -> str:
    """Median and worst, for the axis."""
    return f"{np.median(cases):+.1%}\n{cases[np.argmax(np.abs(cases))]:+.1%}"


@styled
def draw_fits(
    fits: Sequence[FitPoints], *, x_label: str, log: bool = True, width_in: float = COLUMN_IN, height_in: float = 3.0
) -> Figure:
    """Measured points and fitted lines over sizes, and below, on the same axis, what the fit leaves over (fitted /
    measured - 1).  `x_label` says what x is, with its unit.

    Raises ValueError if a fit's arrays differ in length, are empty or not above 0, or if there are too many to tell
    apart."""
    if not 1 <= len(fits) <= _MOST_FITS:
        raise ValueError(f"{len(fits)} fits; a picture shows 1 to {_MOST_FITS}")
    made = figure(width_in, height_in)
    upper, lower = made.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    for colour, fit in zip(palette(), fits, strict=False):
        _draw_fit(upper, lower, fit, colour)
    if log:
        upper.set_xscale("log")
        upper.set_yscale("log")
    upper.set_ylabel("time / s")
    upper.legend()
    lower.axhline(0.0, color="black", linewidth=0.6)
    lower.yaxis.set_major_formatter(PercentFormatter(1.0))
    lower.set_ylabel("residual")
    lower.set_xlabel(x_label)
    for axes in (upper, lower):
        axes.grid(axis="y")
    return made


def _draw_fit(upper: Axes, lower: Axes, fit: FitPoints, colour: str) -> None:
    x, measured, fitted = (np.asarray(a, dtype=np.float64) for a in fit[1:4])
    if not x.size or not len(x) == len(measured) == len(fitted):
        raise ValueError(f"{fit.name}: {len(x)} sizes, {len(measured)} measured and {len(fitted)} fitted times")
    if not (min(measured.min(), fitted.min()) > 0 and np.isfinite([measured, fitted]).all()):
        raise ValueError(f"{fit.name}: times should be above 0 and finite")
    order = np.argsort(x, kind="stable")
    residual = fitted / measured - 1
    upper.plot(x, measured, "o", color=colour, markerfacecolor="none", markeredgewidth=0.8)
    upper.plot(x[order], fitted[order], color=colour, label=f"{fit.name}, {np.median(np.abs(residual)):.1%} off")
    if fit.low_s is not None and fit.high_s is not None:
        low, high = (np.asarray(a, dtype=np.float64)[order] for a in (fit.low_s, fit.high_s))
        upper.fill_between(x[order], low, high, color=colour, alpha=0.2, linewidth=0)
    lower.plot(x, residual, "o", color=colour, markersize=2.5)


class Beside(NamedTuple):
    """A known number, and what was predicted of it: lowest, middle and highest.  `sort`: predictions of one sort look
    alike."""

    name: str
    known: float
    low: float
    middle: float
    high: float
    sort: str = ""


@styled
def draw_beside(rows: Sequence[Beside], *, x_label: str, width_in: float = COLUMN_IN) -> Figure:
    """A row a name: the known number as a line, predictions as intervals with their middle, a colour a sort.

    `x_label` says quantity and unit.  Raises ValueError without rows, or if an interval does not hold its middle."""
    if wrong := [row for row in rows if not row.low <= row.middle <= row.high]:
        raise ValueError(f"{wrong[0].name}: {wrong[0].middle:g} is not within {wrong[0].low:g} to {wrong[0].high:g}")
    if not rows:
        raise ValueError("rows is empty; it should have a known number and an interval each")
    names, sorts = [*dict.fromkeys(row.name for row in rows)], [*dict.fromkeys(row.sort for row in rows)]
    made = figure(width_in, 0.75 + len(names) * (0.12 + 0.14 * len(sorts)))
    ((axes,),) = rows_of_axes(made, 1)
    for row in rows:
        at, number = names.index(row.name), sorts.index(row.sort)
        y = at + 0.6 * ((number + 0.5) / len(sorts) - 0.5)
        axes.hlines(y, row.low, row.high, color=palette()[number], linewidth=1.5)
        axes.plot(row.middle, y, "os^Dv"[number % 5], color=palette()[number])
        axes.vlines(row.known, at - 0.4, at + 0.4, color="black", linewidth=1.2)
    for number, sort in enumerate(sorts):
        axes.plot([], [], "os^Dv"[number % 5], linestyle="-", color=palette()[number], label=sort or "predicted")
    axes.plot([], [], color="black", linewidth=1.2, label="known")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel(x_label)
    made.legend(loc="outside lower center", ncols=len(sorts) + 1)
    return made
