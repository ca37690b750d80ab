"""A cluster as a picture: its ranks, and above and below them what a byte passes on its way, with rates and latencies.

Ways that begin at the same resource are stacked on it; one that begins at another (a card beside the port) leads away
on the other side of the ranks, out of the node, which has a frame.  Where the longest way of a side ends, a bar joins
the ranks that it connects: a switch, a network, what lies between sockets.  The file knows boxes and lines; it refuses
to know what is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.output import whole_file
from sim.transfers.network import Network, Resource, Route
from sim.units import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.cluster import Cluster

_RANK, _BOX, _BAR = "#dfe8f3", "#f6e3cf", "#dcebd7"
_MOST_RANKS = 64  # that are drawn: of a larger machine, the first
_FEW_RANKS = 16  # whose boxes have room for words; of more, rates stand below the picture
_PT_IN = 0.065  # width of a character, in inches

Level = tuple[int, str, Resource]  # height in rows, the ranks' being 0


def draw_cluster(cluster: Cluster, path: Path | str) -> None:
    """Writes the picture of `cluster`; the kind of file is that of its name.  Raises ValueError if that names none."""
    from matplotlib.figure import Figure

    from sim.pictures.style import picture_format

    kind = picture_format(path)
    ranks = min(cluster.ranks, _MOST_RANKS)
    few, found, ends = ranks <= _FEW_RANKS, levels(cluster), joined(cluster)
    rows = [
        0,
        *(height for height, _, _ in found),
        *(height - 0.3 if height > 0 else height + 0.3 for height, _, _ in ends),
    ]
    low, high = min(rows) - 0.6, max(rows) + 0.6
    figure = Figure(figsize=(max(6.0, (1.1 if few else 0.4) * ranks), 1.2 * (high - low) + 0.6), layout="constrained")
    axes = figure.subplots()
    for rank in range(ranks):
        _box(axes, (rank, rank), 0, f"rank {rank}" if few else f"{rank}", _RANK)
    for height, name, resource in found:
        _level(axes, ranks, height, resource.of_ranks, told(name, resource), _BOX)
    for height, within, name in ends:
        _level(axes, ranks, height, within, [f"{name}: {within} ranks"], _BAR, 0.3)
    _nodes(axes, ranks, cluster, found, high - 0.2)
    more = f" (the first {ranks} of {cluster.ranks} ranks)" if ranks < cluster.ranks else ""
    axes.set(xlim=(-0.6, ranks - 0.4), ylim=(low, high), title=f"{cluster.name}{more}")
    axes.set_axis_off()
    axes.text(0, -0.02, _ways(cluster), transform=axes.transAxes, va="top", fontsize=8, family="monospace")
    with whole_file(path) as part:
        figure.savefig(part, format=kind, dpi=120)


def levels(cluster: Cluster) -> list[Level]:
    """Resources with their heights: those of the first way upwards, of ways that begin elsewhere downwards."""
    if not isinstance(cluster.link, Network):
        link = cluster.link
        return [(1, f"link of a {link.scope}", Resource(link.bytes_per_s, latency_s=link.latency_s))]
    found: dict[str, int] = {}
    starts = list(dict.fromkeys(route.via[0] for route in cluster.link.routes))
    for route in cluster.link.routes:
        up = route.via[0] == starts[0]
        for name in route.via:
            beyond = [height for height in found.values() if (height > 0) == up]
            found.setdefault(name, max(beyond, default=0) + 1 if up else min(beyond, default=0) - 1)
    return [(height, name, cluster.link.resources[name]) for name, height in found.items()]


def joined(cluster: Cluster) -> list[tuple[int, int, str]]:
    """(height, ranks, name) of what joins ranks where the longest way of a side ends, unless its last resource does."""
    if not isinstance(cluster.link, Network):
        return []
    heights, longest = {name: height for height, name, _ in levels(cluster)}, dict[int, Route]()
    for route in cluster.link.routes:  # from the nearest on
        longest[1 if heights[route.via[-1]] > 0 else -1] = route
    found = list[tuple[int, int, str]]()
    for side, route in longest.items():
        owners = cluster.link.resources[route.via[-1]].of_ranks
        if owners < route.within:
            name = "network" if side < 0 else "switch" if owners == 1 else "joined"
            found.append((heights[route.via[-1]] + side, route.within, name))
    return found


def told(name: str, resource: Resource) -> list[str]:
    """What a resource's box says, part by part."""
    ways = "each way" if resource.duplex else "both ways together"
    latency = [readable("_s", resource.latency_s)] if resource.latency_s else []
    return [name, f"{readable('_bytes_per_s', resource.bytes_per_s)} {ways}", *latency]


def _level(
    axes: Axes, ranks: int, height: int, of_ranks: int, parts: Sequence[str], colour: str, tall: float = 0.6
) -> None:
    """Every box of one kind that these ranks have, and lines to what is between it and the ranks."""
    side = 1 if height > 0 else -1
    for first in range(0, ranks, of_ranks):
        last = min(first + of_ranks, ranks) - 1
        middle = height - side * (0.6 - tall) / 2
        _box(axes, (first, last), middle, _fitting(parts, last + 1 - first, ranks), colour, tall)
        for rank in range(first, last + 1):
            axes.plot([rank, rank], [height - 0.7 * side, height - 0.3 * side], color="0.6", linewidth=1, zorder=0)


def _fitting(parts: Sequence[str], wide: int, ranks: int) -> str:
    """Parts on one line, or below one another, or the name alone, as a box over `wide` ranks has room."""
    room = (1.0 if ranks <= _FEW_RANKS else 0.36) * wide / _PT_IN
    if len(line := ", ".join(parts)) <= room or len(parts) == 1:
        return line
    number, unit, ways = parts[1].split(" ", 2)
    below = [parts[0], f"{number} {unit}", ways, *parts[2:]]
    return "\n".join(below) if max(map(len, below)) <= room else parts[0]


def _nodes(axes: Axes, ranks: int, cluster: Cluster, found: Sequence[Level], top: float) -> None:
    """A frame around each node of a machine with several: what only the ways out of it lead to lies outside."""
    from matplotlib.patches import Rectangle

    low = min(height for height, _, _ in found)
    if not isinstance(cluster.link, Network) or low >= 0:
        return
    size = cluster.link.node_ranks
    for first in range(0, ranks, size):
        wide, tall = min(size, ranks - first) - 0.04, top - low + 0.4
        frame = Rectangle((first - 0.48, low - 0.4), wide, tall, fill=False, edgecolor="0.5", linestyle="--")
        axes.add_patch(frame)
        axes.text(first - 0.45, low - 0.4 + tall, f"node {first // size}", va="bottom", fontsize=7, color="0.3")


def _box(axes: Axes, span: tuple[int, int], height: float, text: str, colour: str, tall: float = 0.6) -> None:
    from matplotlib.patches import Rectangle

    left, right = span[0] - 0.42, span[1] + 0.42
    axes.add_patch(Rectangle((left, height - tall / 2), right - left, tall, facecolor=colour, edgecolor="0.4"))
    axes.text((left + right) / 2, height, text, ha="center", va="center", fontsize=7)


def _ways(cluster: Cluster) -> str:
    """Resources, and routes, as lines of text."""
    lines = [": ".join((parts[0], ", ".join(parts[1:]))) for parts in (told(n, r) for _, n, r in levels(cluster))]
    if isinstance(cluster.link, Network):
        network = cluster.link
        for route in network.routes:
            latency = readable("_s", sum(network.resources[name].latency_s for name in route.via))
            if route.within > 1:
                lines.append(f"within {route.within}: {' - '.join(route.via)}, {latency} in all")
    return "\n".join(lines)
