"""Staleness as a map: how old what a layer adds is, at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from sim.pictures.style import COLUMN_IN, figure, rows_of_axes, styled

Array = npt.NDArray[np.float64]
_PANEL_IN, _BAR_IN = 0.95, 0.45  # heights
_MOST_COLOURS = 9  # ages; more are drawn on a scale without steps


@styled
def draw_staleness(ages: Mapping[str, npt.ArrayLike], *, width_in: float = COLUMN_IN) -> Figure:
    """Maps over steps and layers; one a name, or one for each slot where slots differ.

    ages: name -> [step, layer] or [step, layer, slot] in steps, as `Schedule.staleness()` or a Trace has them, or mean
    ages with fractions.  Colours mean the same in all maps.  Raises ValueError for another shape or a negative age."""
    panels = [panel for name, given in ages.items() for panel in _panels(name, given)]
    if not panels:
        raise ValueError("ages is empty; it should have a name and an array [step, layer] or [step, layer, slot]")
    colours, norm = _colours(np.concatenate([each.ravel() for _, each in panels]))
    made = figure(width_in, _PANEL_IN * len(panels) + _BAR_IN)
    column = [axes for (axes,) in rows_of_axes(made, len(panels))]
    for axes, (title, each) in zip(column, panels, strict=True):
        _draw_map(axes, title, each, colours, norm)
        axes.tick_params(labelbottom=axes is column[-1])
    column[-1].set_xlabel("step")
    bar = made.colorbar(ScalarMappable(norm, colours), ax=column, location="bottom", aspect=40, pad=0.02,
                        label="age of what is added / steps")  # fmt: skip
    if isinstance(norm, BoundaryNorm):
        bar.set_ticks([*range(colours.N)])
    bar.ax.minorticks_off()
    return made


def _panels(name: str, given: npt.ArrayLike) -> list[tuple[str, Array]]:
    """(title, [step, layer]) of each map: slots that are alike share one."""
    ages = np.asarray(given, dtype=np.float64)
    if ages.ndim not in (2, 3) or not ages.size:
        raise ValueError(f"{name}: ages should be [step, layer] or [step, layer, slot], not of shape {ages.shape}")
    if not (ages >= 0).all():
        raise ValueError(f"{name}: an age of {np.min(ages):g} steps should be at least 0")
    if ages.ndim == 2 or (ages == ages[..., :1]).all():
        return [(name, ages if ages.ndim == 2 else ages[..., 0])]
    return [(f"{name}, slot {slot}", ages[..., slot]) for slot in range(ages.shape[2])]


def _colours(ages: Array) -> tuple[Colormap, Normalize]:
    """A colour an age, from fresh (light) to the oldest (dark)."""
    most = float(ages.max())
    if (ages == np.rint(ages)).all() and most < _MOST_COLOURS:
        shades = colormaps["cividis_r"](np.linspace(0.0, 1.0, max(2, int(most) + 1)))
        return ListedColormap(shades), BoundaryNorm(np.arange(len(shades) + 1) - 0.5, len(shades))
    return colormaps["cividis_r"], Normalize(0.0, most)


def _draw_map(axes: Axes, title: str, ages: Array, colours: Colormap, norm: Normalize) -> None:
    look: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    axes.imshow(ages.T, cmap=colours, norm=norm, **look)
    axes.set_title(title)
    axes.set_ylabel("layer")
    axes.locator_params(integer=True, nbins=5, axis="y")
    axes.locator_params(integer=True, axis="x")
