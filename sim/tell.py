"""Reports and critical paths as tables that fit a terminal: how they look, and nothing that they do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.critical import HOST, CriticalPath, gains_s
from sim.report import Around, throughput
from sim.show import Cells, folded, grid, kind_name
from sim.units import readable

if TYPE_CHECKING:
    from sim.report import Array
    from sim.trace import Trace

_LEAST = 0.01  # share of the makespan from which on a pair of kind and rank has a line of its own
_MORE = "more, since waits for other ranks and other collectives count"  # than all-to-alls are under way


def report_lines(trace: Trace, sent: dict[str, Array] | None, around: Around) -> list[str]:
    """What a trace comes to, then a table of its steps and one of its layers; equal neighbours share a row."""
    rows = summary(trace, sent, around)
    return [*grid(["", ""], rows)[1:], "", *grid(*steps_told(trace)), "", *grid(*layers_told(trace))]


def summary(trace: Trace, sent: dict[str, Array] | None, around: Around) -> list[list[str]]:
    """What a trace comes to: rows of a name and a value."""
    whole_s = trace.makespan_s
    rows = [["makespan", readable("_s", whole_s)], *_images(trace, around)]
    under_way, exposed = (float(seconds.mean()) / whole_s for seconds in (trace.all_to_all_s, trace.exposed_s))
    more = f" ({_MORE})" if f"{exposed:.3f}" > f"{under_way:.3f}" else ""
    rows += [["all-to-all under way", f"{under_way:.1%}"], ["exposed communication", f"{exposed:.1%}{more}"]]
    rows += [
        [f"busy {stream}", f"{float(trace.busy_s(stream).mean()) / whole_s:.1%}"] for stream in trace.schedule.streams
    ]
    if sent is not None:
        each = sum(sent.values(), np.zeros(trace.ranks))
        rows.append(["sent by a rank", _range("_bytes", each.min(), each.max())])
    return rows


def _images(trace: Trace, around: Around) -> list[list[str]]:
    made = throughput(trace, around)
    if made is None:
        return []
    missing = [
        name for name, value in [("start-up", around.start_up_s), ("decoding", around.decode_s)] if value is None
    ]
    without = f" (without {' and '.join(missing)})" if missing else ""
    return [
        ["images a second", f"{made.per_s:.4g}{'' if around.decode_s is not None else ' (without decoding)'}"],
        ["images a GPU-hour", f"{made.per_gpu_hour:,.0f}"],
        ["first image after", readable("_s", made.first_image_s) + without],
    ]


def _range(name: str, low: float, high: float) -> str:
    texts = [*dict.fromkeys((readable(name, low), readable(name, high)))]
    return " to ".join(texts)


def steps_told(trace: Trace) -> Cells:
    """Head, and a row a step: its time, that of its layers, and ages; equal neighbours share a row."""
    cells = [
        (readable("_s", seconds), _range("_s", layers.min(), layers.max()), str(ages.max()), f"{mean:.2f}")
        for seconds, layers, ages, mean in zip(
            trace.step_s, trace.layer_s, trace.staleness, trace.mean_age, strict=True
        )
    ]
    rows = [[_span(run), *cells[run[0]]] for run in folded(cells)]
    return ["step", "seconds", "a layer", "oldest age", "mean age"], rows


def layers_told(trace: Trace) -> Cells:
    """Head, and a row a layer: its time in a step, fastest, median and slowest, and its oldest age."""
    seconds, ages = trace.layer_s, trace.staleness.max(axis=(0, 2))
    cells = [
        (*(readable("_s", s) for s in (mine.min(), float(np.median(mine)), mine.max())), str(age))
        for mine, age in zip(seconds.T, ages, strict=True)
    ]
    rows = [[_span(run), *cells[run[0]]] for run in folded(cells)]
    return ["layer", "fastest", "median", "slowest", "oldest age"], rows


def _span(run: range) -> str:
    return f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}"


def critical_lines(path: CriticalPath, share: float) -> list[str]:
    """`critical_told` as a table."""
    return grid(*critical_told(path, share))


def critical_told(path: CriticalPath, share: float) -> Cells:
    """What the critical path is made of, and what the makespan would lose if ops took `share` less time.

    First by kind of op on all ranks, then by kind and rank where that holds a hundredth of it."""
    trace, whole_s = path.trace, path.trace.makespan_s
    on: dict[tuple[str, int | None], float] = {(k, None): s for k, s in path.seconds(lambda x: x.kind).items()}
    if trace.ranks > 1:
        pairs = path.seconds(lambda segment: (segment.kind, segment.rank))
        on |= {pair: s for pair, s in pairs.items() if s >= _LEAST * whole_s}
    ops = [case for case in on if case[0] != HOST]
    gains = dict(zip(ops, gains_s(trace, ops, share).tolist(), strict=True))
    rows = [
        [_name(kind), "all" if rank is None else f"{rank}", readable("_s", s), f"{s / whole_s:.1%}",
         _gain(gains.get((kind, rank)), whole_s)]
        for (kind, rank), s in on.items()
    ]  # fmt: skip
    return ["on the critical path", "rank", "seconds", "share", f"gain if {share:.0%} faster"], rows


def _name(kind: str) -> str:
    return "host: issues, or a kernel in the way" if kind == HOST else kind_name(kind)


def _gain(gain_s: float | None, whole_s: float) -> str:
    return "-" if gain_s is None else f"{readable('_s', gain_s)} {gain_s / whole_s:.1%}"
