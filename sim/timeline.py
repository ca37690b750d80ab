"""Traces as a picture: a row a stream, a box an op, several traces above one another on one time axis.

Boxes are coloured by kind of op, in Okabe and Ito's palette (2008), which the colour-blind can tell apart, and bear the
schedule's own words where these fit.  In the picture of one step, ops that carry an older step's tokens are hatched,
and arrows lead from each stale combine to the residual that adds it.  The file knows figures; it refuses to know
windows, backends and anything else that is global."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from sim.pictures.style import PAGE_IN, picture_format, save_figure, styled
from sim.schedule import KINDS
from sim.show import kind_name, trace_labels
from sim.trace import Trace
from sim.units import readable

__all__ = ["COLOURS", "draw_timeline", "picture_format", "save_figure"]

Array = npt.NDArray[np.float64]

COLOURS = {
    "A": "#E69F00", "S": "#F0E442", "E": "#D55E00", "R": "#009E73", "D": "#56B4E9", "C": "#0072B2", "N": "#CC79A7",
    "P": "#CCCCCC", "F": "#AAAAAA", "Z": "#888888", "Q": "#F5C77E", "K": "#4B4B4B",
}  # fmt: skip
_WAIT = "#555555"
_DARK = "CEKZ"  # kinds whose names are written in white
_HATCH = "////"  # ops that carry an older step's tokens
_MOST_VECTORS = 10_000  # boxes; more are rasterized, so that a .pdf or .svg stays small
_ROW_IN = 0.2  # height of a stream
_GAP, _BETWEEN = 0.55, 0.45  # between the streams of a rank, where arrows run, and between ranks; in rows
_LEFT_IN, _RIGHT_IN, _TITLE_IN, _AXIS_IN, _LEGEND_IN = 1.05, 0.1, 0.3, 0.38, 0.14
_SPARE = 1.01  # width of the time axis over what it shows
_NAME_PT, _TEXT_PT = 5.5, 7.0
_ARROW_PT = 8  # how far apart arrows have to stand
_CHARACTER = 0.61  # width of a character of DejaVu Sans Mono, in font sizes


@styled
def draw_timeline(
    traces: Sequence[Trace],
    *,
    step: int | None = None,
    ranks: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    width_in: float = PAGE_IN,
) -> Figure:
    """A panel a trace, each from its own begin on, over time in ms; `ranks` are those drawn (default: all).

    With `step`, a panel shows the time from the end of the solver step before it to the end of its own, on the slowest
    rank.  Raises ValueError if a trace lacks the step or a rank, or if `labels` do not tell the traces apart."""
    names = trace_labels(traces, labels)
    panels = [_Panel.of(trace, name, step, ranks) for trace, name in zip(traces, names, strict=True)]
    span_s = max(panel.end_s - panel.begin_s for panel in panels)
    inner_in = width_in - _LEFT_IN - _RIGHT_IN
    points_per_ms = inner_in * 72 / (_SPARE * span_s * 1e3)
    legend = _legend(panels, points_per_ms)
    columns = max(1, int(width_in / 1.35))
    foot_in = _AXIS_IN + _LEGEND_IN * -(-len(legend) // columns)
    height_in = foot_in + sum(_TITLE_IN + panel.rows * _ROW_IN for panel in panels)
    figure = Figure(figsize=(width_in, height_in))
    top_in = height_in
    for panel in panels:
        top_in -= _TITLE_IN + panel.rows * _ROW_IN
        box = (_LEFT_IN / width_in, top_in / height_in, inner_in / width_in, panel.rows * _ROW_IN / height_in)
        axes = figure.add_axes(box)
        axes.set_xlim(0, _SPARE * span_s * 1e3)
        _draw(panel, axes, points_per_ms)
        axes.tick_params(labelbottom=panel is panels[-1])
    axes.set_xlabel("time / ms", fontsize=_TEXT_PT)
    figure.legend(handles=legend, loc="lower center", ncols=columns, fontsize=_TEXT_PT - 0.5, frameon=False,
                  handlelength=1.4, columnspacing=1.2, labelspacing=0.25, borderpad=0.1)  # fmt: skip
    return figure


@dataclass(frozen=True)
class _Panel:
    """One trace between two times, on some ranks."""

    trace: Trace
    name: str
    step: int | None
    ranks: tuple[int, ...]
    begin_s: float
    end_s: float

    @staticmethod
    def of(trace: Trace, name: str, step: int | None, ranks: Sequence[int] | None) -> _Panel:
        """The whole of `trace` or one step of it; raises ValueError for a step or a rank that it lacks."""
        shown = tuple(range(trace.ranks)) if ranks is None else tuple(ranks)
        if lacking := [rank for rank in shown if not 0 <= rank < trace.ranks]:
            raise ValueError(f"{name} has ranks 0 to {trace.ranks - 1}, not {lacking[0]}")
        if step is not None and not 0 <= step < trace.schedule.steps:
            raise ValueError(f"{name} has steps 0 to {trace.schedule.steps - 1}, not {step}")
        ends = np.cumsum([trace.start_s.min(), *trace.step_s])
        begin, end = (ends[0], trace.end_s.max()) if step is None else ends[step : step + 2]
        return _Panel(trace, name, step, shown, float(begin), float(end))

    @property
    def rows(self) -> float:
        """Height, in rows."""
        return len(self.ranks) * self.of_rank - _BETWEEN

    @property
    def streams(self) -> tuple[str, ...]:
        """Rows of a rank, from above."""
        return self.trace.schedule.streams

    @property
    def of_rank(self) -> float:
        """Height of a rank's rows and the gap below them, in rows."""
        return len(self.streams) + _GAP + _BETWEEN

    def top(self, n: int, stream: str) -> float:
        """Upper edge of a stream of the n-th rank drawn, in rows from above."""
        return n * self.of_rank + self.streams.index(stream) + _GAP * (stream != "compute")

    def foot(self, n: int, name: str) -> float:
        """Where an arrow from the op `name` begins on the n-th rank drawn: at its box, or below one that computes."""
        stream = self.trace.schedule.ops[self.trace.schedule.position[name]].stream
        return self.top(n, stream) + (1 + _GAP if stream == "compute" else 0)

    def ms(self, time_s: npt.ArrayLike) -> Array:
        """Milliseconds from the panel's begin, cut off at both of its ends."""
        return np.asarray((np.clip(time_s, self.begin_s, self.end_s) - self.begin_s) * 1e3)

    def spans(self) -> _Spans:
        """What is visible."""
        ranks = list(self.ranks)
        begin, end = self.ms(self.trace.start_s[ranks]), self.ms(self.trace.end_s[ranks])
        n, op = np.nonzero(end > begin)
        tops = np.array([[self.top(k, op.stream) for op in self.trace.schedule.ops] for k in range(len(ranks))])
        top = tops[n, op]
        return _Spans(op, begin[n, op], end[n, op], top)

    def stale_reads(self, rank: int, points_per_ms: float, apart_pt: float) -> list[tuple[float, dict[str, float]]]:
        """(begin, {older combine that it adds: the end of that}), in seconds, of every residual that begins here.

        None where they would stand less than `apart_pt` apart on average."""
        found = []
        for op in self.trace.schedule.ops:
            older = self.trace.schedule.older(op)
            if older and self.begin_s <= (added := self.trace.span_s(rank, op)[0]) < self.end_s:
                found.append((added, {past.name: self.trace.span_s(rank, past)[1] for past in older}))
        return found if float(self.ms(self.end_s)) * points_per_ms > apart_pt * len(found) else []

    def stale(self) -> npt.NDArray[np.bool_]:
        """[op]: whether it carries an older step's tokens than the step that is drawn."""
        steps = np.array([op.step for op in self.trace.schedule.ops])
        return steps < (0 if self.step is None else self.step)


class _Spans(NamedTuple):
    """Boxes of a panel: [box] position of the op, begin and end in ms, upper edge in rows."""

    op: npt.NDArray[np.int64]
    begin: Array
    end: Array
    top: Array


def _draw(panel: _Panel, axes: Axes, points_per_ms: float) -> None:
    """Everything inside one panel, and its labels."""
    spans = panel.spans()
    _draw_waits(panel, axes)
    _draw_boxes(panel, axes, spans, points_per_ms)
    _draw_names(panel, axes, spans, points_per_ms)
    _draw_arrows(panel, axes, points_per_ms)
    _dress(panel, axes)


def _draw_boxes(panel: _Panel, axes: Axes, spans: _Spans, points_per_ms: float) -> None:
    """A collection for each kind of op, fresh and stale, which is what keeps 90,000 boxes quick."""
    kinds = np.array([op.kind for op in panel.trace.schedule.ops])[spans.op]
    stale = panel.stale()[spans.op]
    x = np.stack([spans.begin, spans.begin, spans.end, spans.end], axis=1)
    y = spans.top[:, None] + np.array([0, 1, 1, 0])
    corners = np.stack([x, y], axis=2)  # [box, corner, xy]
    edges = np.where((spans.end - spans.begin) * points_per_ms > 3, 0.4, 0.0)
    for kind in COLOURS:
        for hatch, mine in ((None, (kinds == kind) & ~stale), (_HATCH, (kinds == kind) & stale)):
            if mine.any():
                boxes = PolyCollection(corners[mine], facecolors=COLOURS[kind], edgecolors="white", hatch=hatch,
                                       linewidths=edges[mine], rasterized=len(corners) > _MOST_VECTORS)  # fmt: skip
                axes.add_collection(boxes, autolim=False)


def _draw_names(panel: _Panel, axes: Axes, spans: _Spans, points_per_ms: float) -> None:
    """The longest of the op's text, its name and its kind that fits into its box, and into most boxes of its kind."""
    ops = panel.trace.schedule.ops
    kinds = np.array([op.kind for op in ops])[spans.op]
    fit = (spans.end - spans.begin) * points_per_ms / (_NAME_PT * _CHARACTER) - 0.4  # characters
    for kind in COLOURS:
        fit[kinds == kind] = np.minimum(fit[kinds == kind], np.median(fit[kinds == kind])) if kind in kinds else 0
    for box in np.flatnonzero(fit >= 1):
        op = ops[spans.op[box]]
        text = next(text for text in (str(op), op.name, op.kind) if len(text) <= fit[box])
        axes.text((spans.begin[box] + spans.end[box]) / 2, spans.top[box] + 0.53, text, ha="center", va="center",
                  fontsize=_NAME_PT, family="DejaVu Sans Mono", color="white" if op.kind in _DARK else "black",
                  path_effects=[withStroke(linewidth=1.5, foreground=COLOURS[op.kind])])  # fmt: skip


def _draw_waits(panel: _Panel, axes: Axes) -> None:
    """A thin line from when a rank reached a collective until all had."""
    ranks, talks = list(panel.ranks), panel.trace.on_communication
    streams = [op.stream for op in panel.trace.schedule.ops if op.collective]
    begin = panel.ms(panel.trace.reached_s[ranks][:, talks])
    end = panel.ms(panel.trace.start_s[ranks][:, talks])
    n, i = np.nonzero(end > begin)
    y = np.array([[panel.top(k, stream) + 0.5 for stream in streams] for k in range(len(ranks))])[n, i]
    axes.hlines(y, begin[n, i], end[n, i], colors=_WAIT, linewidth=0.8)


def _draw_arrows(panel: _Panel, axes: Axes, points_per_ms: float) -> None:
    """From each stale combine to the residual that adds it; from its name alone, if it ended before the panel begins.

    A name that does not fit beside the one before it is left out, and so are all arrows where they stand too close to
    be told apart."""
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 5, "linewidth": 0.6, "color": "black",
                            "shrinkA": 0, "shrinkB": 0}  # fmt: skip
    for n, rank in enumerate(panel.ranks):
        reads = panel.stale_reads(rank, points_per_ms, apart_pt=_ARROW_PT)
        high, free_pt = panel.top(n, "compute") + 1, 0.0  # where the name before ends
        for added, combines in sorted(reads, key=lambda read: read[0]):
            tip = (float(panel.ms(added)), high)
            for name, end in combines.items():
                if end > panel.begin_s:
                    low = panel.foot(n, name)
                    axes.annotate("", tip, (float(panel.ms(end)), low), arrowprops=look, zorder=2)
            if before := " ".join(name for name, end in combines.items() if end <= panel.begin_s):
                ends_pt = tip[0] * points_per_ms - _ARROW_PT
                fits = ends_pt - len(before) * (_NAME_PT - 0.5) * _CHARACTER >= free_pt
                free_pt = ends_pt + _ARROW_PT if fits else free_pt
                axes.annotate(before if fits else " ", tip, (-6, -6), textcoords="offset points", arrowprops=look,
                              fontsize=_NAME_PT - 0.5, family="DejaVu Sans Mono", ha="right", va="center",
                              path_effects=[withStroke(linewidth=1.5, foreground="white")])  # fmt: skip


def _lane(panel: _Panel, stream: str) -> str:
    """What a stream is called: of several communicators, by the kinds of ops that each carries."""
    if stream == "compute" or len(panel.streams) == 2:
        return stream
    kinds = dict.fromkeys(op.kind for op in panel.trace.schedule.ops if op.stream == stream)
    return f"communication {' '.join(kinds)}"


def _dress(panel: _Panel, axes: Axes) -> None:
    """Title, names of the rows, grid, and a line where the panel's own time ends."""
    trace, whole = panel.trace, readable("_s", panel.trace.makespan_s)
    shown = readable("_s", panel.end_s - panel.begin_s)
    name = panel.name if trace.schedule.name in panel.name else f"{panel.name} {trace.schedule.name}"
    title = f"{name}: makespan {whole}" if panel.step is None else f"{name}, step {panel.step}: {shown} of {whole}"
    left: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False}
    width_in = axes.get_window_extent().width / axes.figure.dpi + _LEFT_IN
    fits_pt = width_in * 72 / (_CHARACTER * len(title))
    axes.annotate(title, (0, 1), (2 - _LEFT_IN * 72, 4), "axes fraction", fontsize=min(_TEXT_PT + 0.5, fits_pt), **left)
    axes.set_ylim(panel.rows + 0.1, -0.1)
    rows = [(panel.top(n, stream) + 0.5, stream) for n in range(len(panel.ranks)) for stream in panel.streams]
    axes.set_yticks([y for y, _ in rows], [_lane(panel, stream) for _, stream in rows], fontsize=_TEXT_PT - 0.5)
    for n, rank in enumerate(panel.ranks):
        beside = (0, panel.top(n, "compute") + 0.5)
        axes.annotate(f"rank {rank}", beside, (2 - _LEFT_IN * 72, 0), ("axes fraction", "data"),
                      fontsize=_TEXT_PT - 0.5, va="center", **left)  # fmt: skip
    axes.axvline(float(panel.ms(panel.end_s)), color="black", linewidth=0.6)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=_TEXT_PT - 0.5, length=2)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _legend(panels: Sequence[_Panel], points_per_ms: float) -> list[Artist]:
    """What the colours, hatches and lines that occur in `panels` mean."""
    ops = [op for panel in panels for op in panel.trace.schedule.ops]
    used = {op.kind for op in ops}
    handles: list[Artist] = [Patch(color=COLOURS[kind], label=kind_name(kind)) for kind in KINDS if kind in used]
    if any(panel.stale()[panel.spans().op].any() for panel in panels):
        older = Patch(facecolor="#BBBBBB", edgecolor="white", hatch=_HATCH, linewidth=0, label="older step's tokens")
        handles.append(older)
    if any((panel.trace.start_s > panel.trace.reached_s).any() for panel in panels):
        handles.append(Line2D([], [], color=_WAIT, linewidth=0.8, label="waits for other ranks"))
    if any(panel.stale_reads(rank, points_per_ms, _ARROW_PT) for panel in panels for rank in panel.ranks):
        arrow = Line2D([], [], color="black", linewidth=0.6, marker=">", markersize=3, label="stale outputs added")
        handles.append(arrow)
    return handles
