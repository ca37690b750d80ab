"""Traces as text: tables that fit a terminal, and the names under which several traces stand together.

The file knows how things are laid out; it refuses to know anything that a Trace does not say of itself."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from sim.schedule import KINDS
from sim.units import readable

if TYPE_CHECKING:
    from sim.memory import Memory
    from sim.rivals import Rival
    from sim.trace import Trace

Cells = tuple[list[str], list[list[str]]]  # of a table: its head, and its rows

# ---------------------------------------------------------------------------------------------- traces


def trace_labels(traces: Sequence[Trace], labels: Sequence[str] | None = None) -> list[str]:
    """A name for each trace, no two alike: `labels`, or the shortest of origin, schedule and a number that will do.

    Raises ValueError if `labels` are not one a trace, or repeat."""
    if labels is not None:
        if len(labels) != len(traces) or len({*labels}) < len(labels):
            raise ValueError(f"{len(traces)} traces need as many different labels, not {', '.join(labels) or 'none'}")
        return list(labels)
    origins = [trace.origin for trace in traces]
    schedules = [trace.schedule.name for trace in traces]
    both = [f"{origin} {name}" for origin, name in zip(origins, schedules, strict=True)]
    for names in (origins, both):
        if len({*names}) == len(names):
            return names
    return [f"{name} {number}" for number, name in enumerate(both, 1)]


def comparison_table(traces: Sequence[Trace], names: Sequence[str]) -> list[str]:
    """Table with a line a trace; see `comparison`."""
    return grid(*comparison(traces, names))


def comparison(traces: Sequence[Trace], names: Sequence[str]) -> Cells:
    """Head and a row a trace; speed-ups are over the first that is called sync, or over the first."""
    base = next((i for i, trace in enumerate(traces) if trace.schedule.name == "sync"), 0)
    head = ["\nschedule", "\nmakespan", f"speed-up over\n{names[base]}", "median\nstep", "exposed\ncommunication",
            "busy\ncompute", "busy\ncomm.", "oldest\nage", "mean\nage"]  # fmt: skip
    rows = []
    for name, trace in zip(names, traces, strict=True):
        whole = trace.makespan_s
        shares = [float(trace.busy_s(stream).mean()) / whole for stream in ("compute", "communication")]
        exposed = float(trace.exposed_s.mean())
        rows.append([name, readable("_s", whole), f"{traces[base].makespan_s / whole:.2f}",
                     readable("_s", median(trace.step_s.tolist())),
                     f"{readable('_s', exposed)} {exposed / whole:5.1%}", *(f"{share:.1%}" for share in shares),
                     str(trace.staleness.max()), f"{trace.mean_age.mean():.2f}"])  # fmt: skip
    return head, rows


def kinds_table(traces: Sequence[Trace], names: Sequence[str]) -> list[str]:
    """Table with a line a kind of op: seconds on the mean rank, and their share of the makespan."""
    tables = [{kind: (seconds, share) for kind, seconds, share in trace.table()} for trace in traces]
    every = dict.fromkeys(kind for table in tables for kind in table)
    rows = [[kind_name(kind), *(_time(table.get(kind)) for table in tables)] for kind in every]
    return grid(["op", *names], rows)


def memory_table(
    memories: Sequence[Memory], names: Sequence[str], memory_bytes: float, most: Sequence[int]
) -> list[str]:
    """Table with a line a category: GB on the fullest rank; then the peak, whether it fits, and the most images."""
    every = dict.fromkeys(what for memory in memories for what in memory.bytes_of)
    rows = [[what, *(_gigabytes(memory.bytes_of.get(what, 0.0)) for memory in memories)] for what in every]
    rows.append(["peak", *(_gigabytes(memory.peak_bytes) for memory in memories)])
    rows.append(["at op, on rank", *(f"{memory.at}, {memory.rank}" for memory in memories)])
    rows.append(["fits", *("yes" if memory.fits(memory_bytes) else "NO" for memory in memories)])
    rows.append(["most images a rank", *(str(images) for images in most)])
    return grid([f"GB of {_gigabytes(memory_bytes)}", *names], rows)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}"


def rivals_table(rivals: Sequence[Rival], memory_bytes: float | None) -> list[str]:
    """Table with a line a rival, against the first; memory is that of the fullest rank."""
    base = rivals[0].trace.makespan_s
    head = ["\nschedule", "\nsort", "\nsteps", "\nmakespan", "\nspeed-up", "oldest\nage", "mean\nage", "peak\nGB"]
    rows = []
    for rival in rivals:
        trace = rival.trace
        rows.append([rival.name, rival.why, str(trace.schedule.steps), readable("_s", trace.makespan_s),
                     f"{base / trace.makespan_s:.2f}", str(trace.staleness.max()), f"{rival.mean_age:.2f}",
                     _gigabytes(rival.memory.peak_bytes)])  # fmt: skip
        if memory_bytes is not None and not rival.memory.fits(memory_bytes):
            rows[-1][-1] += " does not fit"
    return grid(head, rows)


def kind_name(kind: str) -> str:
    """`D dispatch`: a kind of op in a legend or a table; what is no kind stands for itself."""
    return f"{kind} {re.split('[,:(]', KINDS[kind])[0].strip()}" if kind in KINDS else kind


def _time(entry: tuple[float, float] | None) -> str:
    return "-" if entry is None else f"{readable('_s', entry[0])} {entry[1]:6.1%}"


# ---------------------------------------------------------------------------------------------- tables


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table without rules; the first and the last column stand left where they hold words."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows = [*rows]
    for title, column in zip(head, zip(*rows, strict=True) if rows else [()] * len(head), strict=True):
        number = all(cell[:1].isdigit() or cell == "-" for cell in column)
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=10_000, color_system=None)
    return ["".join(s.text for s in line).rstrip() for line in console.render_lines(table, pad=False)]


def folded(keys: Sequence[Hashable]) -> list[range]:
    """Positions of equal keys together, neighbours or at equal distances: [7, 8, 7, 8, 7] -> 0, 2, 4 and 1, 3.

    Every position is in one range; they are in order of their first."""
    left, runs = dict.fromkeys(range(len(keys))), list[range]()
    while left:
        first = next(iter(left))
        again = next((i for i in left if i > first and keys[i] == keys[first]), first + 1)
        stride, last = again - first, first
        while last + stride in left and keys[last + stride] == keys[first]:
            last += stride
        run = range(first, last + 1, stride) if stride == 1 or last > again else range(first, first + 1)
        runs.append(run)
        for i in run:
            del left[i]
    return runs


def spell(run: range) -> str:
    """`3`, `3-48`, or `3-47/2`: every second one."""
    if len(run) == 1:
        return f"{run[0]}"
    return f"{run[0]}-{run[-1]}" + (f"/{run.step}" if run.step > 1 else "")
