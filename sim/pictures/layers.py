"""What layers differ in: how much their staleness hurts, and how alike their routing is from step to step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from sim.pictures.style import COLUMN_IN, figure, palette, rows_of_axes, styled

Array = npt.NDArray[np.float64]
_SHIFT = 0.5  # over which the points of several series at one layer are spread


@styled
def draw_vulnerability(
    damage: Mapping[str, npt.ArrayLike],
    *,
    y_label: str,
    intervals: Mapping[str, npt.ArrayLike] | None = None,
    width_in: float = COLUMN_IN,
    height_in: float = 2.0,
) -> Figure:
    """What it costs when one layer alone is stale, over layers; a series a name.

    damage: name -> [layer].  intervals: name -> [layer, (low, high)], where there are some.  `y_label` says what was
    measured, with its unit.  Raises ValueError for arrays of other shapes, or an interval without damage."""
    series = {name: np.asarray(given, dtype=np.float64) for name, given in damage.items()}
    ranges = {name: np.asarray(given, dtype=np.float64) for name, given in (intervals or {}).items()}
    if strange := [name for name in ranges if name not in series]:
        raise ValueError(f"an interval of {strange[0]!r}, but damage of {', '.join(series) or 'nothing'}")
    made = figure(width_in, height_in)
    ((axes,),) = rows_of_axes(made, 1)
    axes.axhline(0.0, color="black", linewidth=0.6)
    shifts = _SHIFT * (np.arange(len(series)) / max(1, len(series) - 1) - 0.5) * (len(series) > 1)
    for (name, each), colour, shift in zip(series.items(), palette(), shifts, strict=False):
        if each.ndim != 1:
            raise ValueError(f"{name}: damage should be [layer], not of shape {each.shape}")
        layers = np.arange(len(each)) + shift
        if name in ranges:
            if ranges[name].shape != (len(each), 2):
                raise ValueError(f"{name}: intervals should be [{len(each)} layers, 2], not {ranges[name].shape}")
            axes.vlines(layers, ranges[name][:, 0], ranges[name][:, 1], color=colour, linewidth=0.8)
        axes.plot(layers, each, "o", color=colour, label=name)
    axes.locator_params(integer=True, axis="x")
    axes.grid(axis="y")
    axes.set_xlabel("layer that is stale")
    axes.set_ylabel(y_label)
    if len(series) > 1:
        axes.legend()
    return made


@styled
def draw_similarity(
    similarity: npt.ArrayLike,
    *,
    layers: Sequence[int] | None = None,
    label: str = "tokens that keep their best expert",
    width_in: float = COLUMN_IN,
) -> Figure:
    """How alike a layer routes at two steps.

    similarity [layer, step, step]: a map for each of `layers` (the first, the middle and the last if not given).
    [layer, lag]: one map, over how many steps lie between.  Shares from 0 to 1; nan where there are none.
    Raises ValueError for another shape, a share outside of 0 to 1, or a layer that is not there."""
    shares = np.asarray(similarity, dtype=np.float64)
    square = shares.ndim == 3 and shares.shape[1] == shares.shape[2]
    if not (square or shares.ndim == 2) or not shares.size:
        raise ValueError(f"similarity should be [layer, step, step] or [layer, lag], not of shape {shares.shape}")
    if np.nanmin(shares) < 0 or np.nanmax(shares) > 1:
        raise ValueError(f"similarities of {np.nanmin(shares):g} to {np.nanmax(shares):g} should be 0 to 1")
    return _maps(shares, layers, label, width_in) if square else _lags(shares, layers, label, width_in)


def _maps(shares: Array, layers: Sequence[int] | None, label: str, width_in: float) -> Figure:
    shown = [*dict.fromkeys((0, len(shares) // 2, len(shares) - 1))] if layers is None else [*layers]
    if lacking := [layer for layer in shown if not 0 <= layer < len(shares)]:
        raise ValueError(f"there are layers 0 to {len(shares) - 1}, not {lacking[0]}")
    made = figure(width_in, width_in / len(shown) + 0.8)
    (row,) = rows_of_axes(made, 1, len(shown))
    norm = Normalize(float(np.nanmin(shares)), 1.0)
    for axes, layer in zip(row, shown, strict=True):
        _map(axes, shares[layer], norm)
        axes.set_title(f"layer {layer}")
        axes.set_xlabel("step")
    row[0].set_ylabel("step")
    made.colorbar(ScalarMappable(norm), ax=row, location="bottom", aspect=40, label=label)
    return made


def _lags(shares: Array, layers: Sequence[int] | None, label: str, width_in: float) -> Figure:
    if layers is not None:
        raise ValueError(f"layers={[*layers]} has no effect on similarity [layer, lag]: the map has all layers")
    made = figure(width_in, 1.9)
    ((axes,),) = rows_of_axes(made, 1)
    norm = Normalize(float(np.nanmin(shares)), 1.0)
    _map(axes, shares, norm, aspect="auto", extent=(0.5, shares.shape[1] + 0.5, -0.5, len(shares) - 0.5))
    axes.set_xlabel("steps between")
    axes.set_ylabel("layer")
    made.colorbar(ScalarMappable(norm), ax=axes, location="bottom", aspect=40, label=label)
    return made


def _map(axes: Axes, shares: Array, norm: Normalize, **look: Any) -> None:
    axes.imshow(shares, norm=norm, origin="lower", interpolation="nearest", **look)
    axes.locator_params(integer=True, nbins=5)
