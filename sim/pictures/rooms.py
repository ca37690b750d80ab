"""The rooms of the package and who imports whom, drawn from the source."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from sim.pictures.style import PAGE_IN, palette, styled
from sim.reference import Module

_LINE_IN, _CHARACTER_IN = 0.12, 0.052  # of small text


@styled
def draw_rooms(modules: Sequence[Module], *, width_in: float = PAGE_IN) -> Figure:
    """A box a room, the one that imports above the one that is imported, and in it its files: those in the lowest row
    import none of their room, those in the next only these, and so on.  Arrows say which files of a room another uses.

    Raises ValueError if two rooms import each other."""
    rooms = _in_order(modules)
    rows = {room: _rows([each for each in modules if _room(each.name) == room], width_in) for room in rooms}
    uses = {(a, b): _uses(modules, a, b) for a in rooms for b in rooms if a != b}
    arrows = {pair: names for pair, names in uses.items() if names}
    heights = {room: _LINE_IN * (sum(map(len, rows[room])) + 1.6) for room in rooms}
    lines = max((len(_wrapped(names, len(arrows), width_in)) for names in arrows.values()), default=0)
    gap_in = 0.2 + 0.09 * lines
    height_in = sum(heights.values()) + gap_in * (len(rooms) - 1) + 0.1
    made = Figure(figsize=(width_in, height_in))
    axes = made.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width_in)
    axes.set_ylim(0, height_in)
    axes.axis("off")
    top = height_in - 0.05
    edges: dict[str, tuple[float, float]] = {}
    for room, colour in zip(rooms, palette(), strict=False):
        _draw_room(axes, room, rows[room], (top, heights[room], width_in), colour)
        edges[room] = (top, top - heights[room])
        top -= heights[room] + gap_in
    _draw_arrows(axes, arrows, edges, width_in)
    return made


def _room(name: str) -> str:
    return name.split(".")[0]


def _in_order(modules: Sequence[Module]) -> list[str]:
    """Rooms, each before those that it imports."""
    left, found = [*dict.fromkeys(_room(each.name) for each in modules)], list[str]()
    while left:
        free = [room for room in left if not any(_uses(modules, other, room) for other in left if other != room)]
        if not free:
            raise ValueError(f"{' and '.join(left)} import each other")
        found.append(free[0])
        left.remove(free[0])
    return found


def _uses(modules: Sequence[Module], room: str, other: str) -> list[str]:
    """Files of `other` that files of `room` import, most used first."""
    names = {each.name for each in modules if _room(each.name) == other}
    counts: dict[str, int] = {}
    for each in modules:
        if _room(each.name) == room:
            for name in each.imports & names - {other}:
                counts[name] = counts.get(name, 0) + 1
    return [name.removeprefix(f"{other}.") for name in sorted(counts, key=lambda name: (-counts[name], name))]


def _rows(modules: Sequence[Module], width_in: float) -> list[list[str]]:
    """Lines of names, from the uppermost row to the lowest."""
    levels: dict[int, list[str]] = {}
    for name, level in _levels({each.name: each for each in modules}).items():
        if "." in name and not name.endswith("__main__"):
            levels.setdefault(level, []).append(name.split(".", 1)[1])
    characters = int((width_in - 0.3) / _CHARACTER_IN)
    return [textwrap.wrap("   ".join(levels[n]), characters, break_on_hyphens=False) for n in sorted(levels)[::-1]]


def _levels(every: Mapping[str, Module]) -> dict[str, int]:
    """Name -> 0 where it imports none of the others, else one more than the highest that it imports.

    Of files that import each other (in functions), the one that comes first stands above."""
    found: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in found:
            found[name] = -1  # under way
            found[name] = 1 + max((level(each) for each in sorted(every[name].imports & every.keys())), default=-1)
        return found[name]

    for name in every:
        level(name)
    return found


def _draw_room(
    axes: Axes, room: str, rows: Sequence[Sequence[str]], at: tuple[float, float, float], colour: str
) -> None:
    """`at`: upper edge, height and width of the picture."""
    top, height, width = at
    axes.add_patch(Rectangle((0.05, top - height), width - 0.1, height, facecolor=colour, alpha=0.1, linewidth=0))
    axes.add_patch(Rectangle((0.05, top - height), width - 0.1, height, fill=False, edgecolor=colour, linewidth=0.8))
    axes.text(0.12, top - 0.03, f"{room}/", va="top", fontsize=8, weight="bold")
    y = top - 1.5 * _LINE_IN
    for number, row in enumerate(rows):
        for line in row:
            axes.text(0.2, y, line, va="top", fontsize=5.6, family="DejaVu Sans Mono")
            y -= _LINE_IN
        if number < len(rows) - 1:
            axes.plot([0.15, width - 0.15], [y + 0.01] * 2, color=colour, linewidth=0.3)


def _draw_arrows(
    axes: Axes, arrows: Mapping[tuple[str, str], Sequence[str]], edges: Mapping[str, tuple[float, float]], width: float
) -> None:
    """From the lower edge of a room to the upper edge of one that it imports, past the rooms between."""
    for number, ((room, other), names) in enumerate(arrows.items()):
        x = 0.35 + number * (width - 0.4) / len(arrows)
        begin, end = (x, edges[room][1]), (x, edges[other][0])
        axes.add_patch(
            FancyArrowPatch(
                begin, end, arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0, linewidth=0.8, zorder=0.5
            )
        )
        lines = _wrapped(names, len(arrows), width)
        axes.text(x + 0.06, end[1] + 0.06, "\n".join(lines), va="bottom", fontsize=5.2, linespacing=1.15)


def _wrapped(names: Sequence[str], arrows: int, width: float) -> list[str]:
    """The names beside an arrow, in lines."""
    return textwrap.wrap(", ".join(names), int((width - 0.6) / arrows / 0.047), break_on_hyphens=False)
