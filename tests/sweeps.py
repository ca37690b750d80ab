"""A small sweep, and how its points are listed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from sim.sweeps.points import Points
from sim.sweeps.sweep import Sweep

Make = Callable[..., Sweep]

SMALL = """
base: {model: tiny, steps: 3, cluster: cpu-2-ranks}
axes:
  schedule: [sync, displaced, dice]
  images: [1, 2]
  times.cluster.link.bytes_per_s: [0.5, 1, 2]
"""


def every(points: Points) -> list[dict[str, Any]]:
    """The settings of every point, in order."""
    borders = points.borders
    chunks = [points.chunk(first, last) for first, last in pairwise(borders)]
    return [chunk.point(i) for chunk in chunks for i in range(len(chunk))]
