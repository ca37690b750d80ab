"""A Pareto front: choices by two costs, the ones that nothing beats, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sim.pictures.style import COLUMN_IN, figure, palette, rows_of_axes, styled

Array = npt.NDArray[np.float64]
_MARKERS = "osD^vPX*"
Box = tuple[float, float, float, float]  # left, bottom, right, top, in points
_NAME_PT = 6.0
_CHARACTER = 0.56  # width of a character of DejaVu Sans, in font sizes, on average
_APART_PT = 7.5  # between the lines of names
_TICK_PT = 5.0  # between a point and its name


class Choice(NamedTuple):
    """One choice, and what it costs on both axes: less is better.  `sort`: choices of one sort look alike.

    low, high: interval of `y`, where it has one."""

    name: str
    x: float
    y: float
    sort: str = ""
    low: float | None = None
    high: float | None = None


def on_front(choices: Sequence[Choice]) -> list[bool]:
    """[choice]: whether no other is at least as good on both axes and better on one."""
    at = np.array([(each.x, each.y) for each in choices], dtype=np.float64)
    as_good: npt.NDArray[np.bool_] = np.all(at[None] <= at[:, None], axis=2)
    better: npt.NDArray[np.bool_] = np.any(at[None] < at[:, None], axis=2)
    return [not np.any(np.logical_and(as_good[i], better[i])) for i in range(len(choices))]


@styled
def draw_front(
    choices: Sequence[Choice],
    *,
    x_label: str,
    y_label: str,
    name_all: bool = False,
    width_in: float = COLUMN_IN,
    height_in: float = 2.8,
) -> Figure:
    """Choices as points, and the front as a line in steps: what lies above and right of it is beaten.

    Named are those on the front, or all.  Labels say quantity and unit, as "time / s".  Raises ValueError without
    choices, or for a cost that is not finite."""
    if not choices or not np.isfinite([(each.x, each.y) for each in choices]).all():
        raise ValueError(f"a front needs one or more choices with finite costs, not {[*choices]}")
    made = figure(width_in, height_in)
    ((axes,),) = rows_of_axes(made, 1)
    front = on_front(choices)
    _draw_choices(axes, choices, front)
    best = sorted((each.x, each.y) for each, mine in zip(choices, front, strict=True) if mine)
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color="black", linewidth=0.7, zorder=1)
    axes.margins(0.12)
    axes.grid()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    made.draw_without_rendering()  # where points are on paper decides where names have room
    shown = [each for each, mine in zip(choices, front, strict=True) if mine or name_all]
    name_points(axes, [(each.name, each.x, each.y) for each in shown])
    return made


def _draw_choices(axes: Axes, choices: Sequence[Choice], front: list[bool]) -> None:
    """A colour and a marker a sort; filled where on the front."""
    sorts = [*dict.fromkeys(each.sort for each in choices)]
    for number, sort in enumerate(sorts):
        colour, marker = palette()[number % len(palette())], _MARKERS[number % len(_MARKERS)]
        for each, mine in zip(choices, front, strict=True):
            if each.sort == sort:
                if each.low is not None and each.high is not None:
                    axes.vlines(each.x, each.low, each.high, color=colour, linewidth=0.7, zorder=2)
                axes.plot(each.x, each.y, marker, color=colour, markerfacecolor=colour if mine else "white", zorder=3)
        if sort:
            axes.plot([], [], marker, color=colour, label=sort)
    if any(sorts):
        axes.legend()


def name_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Writes (name, x, y) beside each point, on the side where it hides least of what is there already.

    Axes must have been laid out (`Figure.draw_without_rendering`): where points are on paper decides."""
    scale = 72 / axes.figure.dpi
    at = axes.transData.transform([point[1:] for point in points]) * scale
    frame = np.array(axes.get_window_extent().extents) * scale
    taken = [(x - 2, y - 2, x + 2, y + 2) for x, y in at]
    for (name, *cost), (x, y) in zip(points, at, strict=True):
        box, across, up = min(_places(x, y, name), key=lambda place: _hidden(place, taken, frame))
        taken.append(box)
        line = {"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 1} if up else None
        axes.annotate(name, (cost[0], cost[1]), (across, up), textcoords="offset points", va="center", arrowprops=line,
                      fontsize=_NAME_PT, zorder=4, ha="left" if across > 0 else "right",
                      path_effects=[withStroke(linewidth=1.5, foreground="white")])  # fmt: skip


def _places(x: float, y: float, name: str) -> list[tuple[Box, float, float]]:
    """(box, offsets to the side and up) of a name beside a point, in points; the nearest first."""
    wide, found = _CHARACTER * _NAME_PT * len(name), []
    for up in sorted((n * _APART_PT for n in range(-4, 5)), key=abs):
        for across in (_TICK_PT, -_TICK_PT):
            left = x + across if across > 0 else x + across - wide
            found.append(((left, y + up - 3.5, left + wide, y + up + 3.5), across, up))
    return found


def _hidden(place: tuple[Box, float, float], taken: Sequence[Box], frame: Array) -> float:
    """How bad a place is: what it hides, leaves the frame by, and how far from its point it is."""
    box, _, up = place
    outside = [frame[0] - box[0], box[2] - frame[2], frame[1] - box[1], box[3] - frame[3]]
    return sum(_shared(box, other) for other in taken) + 20 * sum(max(0.0, float(each)) for each in outside) + abs(up)


def _shared(a: Box, b: Box) -> float:
    """Area that two boxes have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
