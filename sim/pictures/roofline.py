"""A roofline (Williams, Waterman, Patterson 2009): what the ops of a run reach of what a GPU could."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from sim.gpu import Gpu
from sim.pictures.front import name_points
from sim.pictures.style import COLUMN_IN, figure, rows_of_axes, styled
from sim.roofline import Working
from sim.timeline import COLOURS


@styled
def draw_roofline(
    working: Sequence[Working], gpu: Gpu, dtype: str = "bf16", *, width_in: float = COLUMN_IN, height_in: float = 2.6
) -> Figure:
    """Ops (or kernels) by FLOPs a byte and FLOP/s, under the roof of `gpu` for `dtype`: dense peak and memory rate.

    Raises ValueError if there is nothing to draw, or if the GPU lacks the dtype."""
    if not working:
        raise ValueError("no ops to draw")
    peak = gpu.flops_per_s(dtype)
    ridge = peak / gpu.memory_bytes_per_s
    made = figure(width_in, height_in)
    ((axes,),) = rows_of_axes(made, 1)
    low, high = min(each.intensity for each in working), max(each.intensity for each in working)
    x = np.geomspace(min(low, ridge) / 3, max(high, ridge) * 3, 100)
    axes.loglog(x, np.minimum(peak, x * gpu.memory_bytes_per_s) / 1e12, color="black", linewidth=0.9)
    axes.axvline(ridge, color="black", linewidth=0.5, linestyle=":")
    for each in working:
        axes.plot(each.intensity, each.flops_per_s / 1e12, "o", color=COLOURS[each.kind], markersize=4.5,
                  markeredgecolor="black", markeredgewidth=0.4)  # fmt: skip
    axes.set_xlim(x[0], x[-1])
    axes.set_title(f"{gpu.name}, {dtype}: {peak / 1e12:.4g} TFLOP/s, {gpu.memory_bytes_per_s / 1e9:.4g} GB/s")
    axes.set_xlabel("arithmetic intensity / FLOP a byte")
    axes.set_ylabel("rate / TFLOP/s")
    axes.grid(which="major")
    made.draw_without_rendering()
    name_points(axes, [(each.name, each.intensity, each.flops_per_s / 1e12) for each in working])
    return made
