"""A cluster as a picture: its ranks, and above them what a byte passes on its way, with rates.

It knows boxes and lines; it refuses to know what is sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.output import whole_file
from sim.transfers.network import Network, Resource
from sim.units import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.cluster import Cluster

_RANK, _BOX = "#dfe8f3", "#f6e3cf"
_NODE_RANKS = 16  # ranks that are drawn at most: of a larger machine, the first


def draw_cluster(cluster: Cluster, path: Path | str) -> None:
    """Writes the picture of `cluster`; the kind of file is that of its name.  Raises ValueError if that names none."""
    from matplotlib.figure import Figure

    from sim.pictures.style import picture_format

    kind = picture_format(path)
    ranks = min(cluster.ranks, _NODE_RANKS)
    rows = _rows(cluster)
    figure = Figure(figsize=(max(6.0, 1.1 * ranks), 1.2 * len(rows) + 1.8), layout="constrained")
    axes = figure.subplots()
    for rank in range(ranks):
        _box(axes, (rank, rank), 0, f"rank {rank}", _RANK)
    for height, (name, resource) in enumerate(rows, 1):
        _level(axes, ranks, height, name, resource)
    more = f" (the first {ranks} of {cluster.ranks} ranks)" if ranks < cluster.ranks else ""
    axes.set(xlim=(-0.6, ranks - 0.4), ylim=(-0.6, len(rows) + 0.6), title=f"{cluster.name}{more}")
    axes.set_axis_off()
    axes.text(0, -0.02, _ways(cluster), transform=axes.transAxes, va="top", fontsize=8, family="monospace")
    with whole_file(path) as part:
        figure.savefig(part, format=kind, dpi=120)


def _rows(cluster: Cluster) -> list[tuple[str, Resource]]:
    """Resources from the ranks up."""
    if isinstance(cluster.link, Network):
        return sorted(cluster.link.resources.items(), key=lambda each: each[1].of_ranks)
    return [(f"link of a {cluster.link.scope}", Resource(cluster.link.bytes_per_s, latency_s=cluster.link.latency_s))]


def _level(axes: Axes, ranks: int, height: int, name: str, resource: Resource) -> None:
    """Every resource of one kind that these ranks have, and lines to what is below."""
    ways = "each way" if resource.duplex else "both ways together"
    wide = resource.of_ranks >= min(4, ranks)
    told = f"{name} {readable('_bytes_per_s', resource.bytes_per_s)}" + (f" {ways}" if wide else "")
    for first in range(0, ranks, resource.of_ranks):
        last = min(first + resource.of_ranks, ranks) - 1
        _box(axes, (first, last), height, told if wide else told.replace(" ", "\n", 1), _BOX)
        for rank in range(first, last + 1):
            axes.plot([rank, rank], [height - 0.7, height - 0.3], color="0.6", linewidth=1, zorder=0)


def _box(axes: Axes, span: tuple[int, int], height: int, text: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    left, right = span[0] - 0.42, span[1] + 0.42
    axes.add_patch(Rectangle((left, height - 0.3), right - left, 0.6, facecolor=colour, edgecolor="0.4"))
    axes.text((left + right) / 2, height, text, ha="center", va="center", fontsize=7)


def _ways(cluster: Cluster) -> str:
    """Routes as lines of text."""
    if not isinstance(cluster.link, Network):
        return f"latency {readable('_s', cluster.link.latency_s)}"
    return "\n".join(
        f"within {route.within}: {' - '.join(route.via)}" for route in cluster.link.routes if route.within > 1
    )
