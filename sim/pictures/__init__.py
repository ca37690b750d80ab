"""Pictures: every function takes data and returns a Figure in the one style; `save_figure` writes it.

    from sim.pictures import draw_staleness, save_figure
    save_figure(draw_staleness({"dice": load_schedule("dice", 20, 28).staleness()}), "ages.pdf")

Pictures of traces are in sim/timeline.py.  Names are imported when they are first used; all need matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.lazy import lazily

if TYPE_CHECKING:
    from sim.pictures.ages import draw_staleness
    from sim.pictures.errors import Beside, FitPoints, draw_beside, draw_errors, draw_fits
    from sim.pictures.front import Choice, draw_front
    from sim.pictures.layers import draw_similarity, draw_vulnerability
    from sim.pictures.memory import draw_memory
    from sim.pictures.roofline import draw_roofline
    from sim.pictures.style import COLUMN_IN, PAGE_IN, figure_bytes, save_figure
    from sim.timeline import draw_timeline

__getattr__ = lazily(
    __name__,
    {
        "sim.pictures.ages": ("draw_staleness",),
        "sim.pictures.errors": ("Beside", "FitPoints", "draw_beside", "draw_errors", "draw_fits"),
        "sim.pictures.front": ("Choice", "draw_front"),
        "sim.pictures.layers": ("draw_similarity", "draw_vulnerability"),
        "sim.pictures.memory": ("draw_memory",),
        "sim.pictures.roofline": ("draw_roofline",),
        "sim.pictures.style": ("COLUMN_IN", "PAGE_IN", "figure_bytes", "save_figure"),
        "sim.timeline": ("draw_timeline",),
    },
)
__all__ = [
    "COLUMN_IN",
    "PAGE_IN",
    "Beside",
    "Choice",
    "FitPoints",
    "draw_beside",
    "draw_errors",
    "draw_fits",
    "draw_front",
    "draw_memory",
    "draw_roofline",
    "draw_similarity",
    "draw_staleness",
    "draw_timeline",
    "draw_vulnerability",
    "figure_bytes",
    "save_figure",
]
