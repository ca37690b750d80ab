"""What a rank's memory holds over time, by what it is for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sim.memory_time import WEIGHTS, MemoryOverTime
from sim.pictures.style import COLUMN_IN, figure, rows_of_axes, styled
from sim.units import readable

COLOURS = {
    WEIGHTS: "#BBBBBB", "activations": "#F0E442", "working space": "#E69F00", "router weights": "#000000",
    "sent dispatch": "#9AD4F5", "received dispatch": "#56B4E9", "expert outputs": "#009E73",
    "sent combine": "#6FA8DC", "received combine": "#0072B2", "keys and values": "#CC79A7",
}  # fmt: skip

_LEAST_GB = 0.5  # less is drawn in MB


@styled
def draw_memory(
    memories: Sequence[MemoryOverTime],
    *,
    labels: Sequence[str],
    limit_bytes: float | None = None,
    span_s: tuple[float, float] | None = None,
    width_in: float = COLUMN_IN,
) -> Figure:
    """Areas stacked over time in ms, a panel each, on the same axes; `limit_bytes` is what the device has.

    span_s: the time that is drawn, since each trace's 0; all of it if not given.  Raises ValueError if labels are not
    one a memory, or for a category without a colour."""
    if not memories or len(labels) != len(memories):
        raise ValueError(f"{len(memories)} memories need as many labels, not {len(labels)}")
    if strange := [what for each in memories for what in each.bytes_of if what not in COLOURS]:
        raise ValueError(f"no colour for {strange[0]!r}; there are some for {', '.join(COLOURS)}")
    begin, end = span_s or (0.0, max(float(each.times_s[-1]) for each in memories))
    made = figure(width_in, 1.05 * len(memories) + 0.95)
    column = [axes for (axes,) in rows_of_axes(made, len(memories))]
    used = [what for what in COLOURS if any(what in each.bytes_of for each in memories)]
    top = max(limit_bytes or 0.0, *(each.peak_bytes for each in memories))
    unit, size = ("GB", 1e9) if top >= _LEAST_GB * 1e9 else ("MB", 1e6)
    for axes, each, label in zip(column, memories, labels, strict=True):
        _draw_areas(axes, each, used, size)
        axes.set_title(f"{label}: peak {readable('_bytes', each.peak_bytes)} on rank {each.rank}")
        axes.set_xlim(begin * 1e3, end * 1e3)
        axes.set_ylim(0, 1.05 * top / size)
        axes.set_ylabel(f"memory / {unit}")
        axes.tick_params(labelbottom=axes is column[-1])
        if limit_bytes is not None:
            axes.axhline(limit_bytes / size, color="black", linewidth=0.8, linestyle="--", label="of the device")
    column[-1].set_xlabel("time / ms")
    made.legend(*column[0].get_legend_handles_labels(), loc="outside lower center", ncols=max(1, int(width_in)))
    return made


def _draw_areas(axes: Axes, memory: MemoryOverTime, used: Sequence[str], size: float) -> None:
    """Each category upon those before it; constant between moments."""
    below = np.zeros(len(memory.times_s))
    for what in used:
        above = below + memory.bytes_of.get(what, 0.0)
        axes.fill_between(memory.times_s * 1e3, below / size, above / size, step="post", color=COLOURS[what],
                          linewidth=0, label=what, rasterized=len(below) > 20_000)  # fmt: skip
        below = above
