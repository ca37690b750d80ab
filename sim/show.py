"""Schedules and traces as text: tables that fit a terminal, and the names under which several traces stand together.

What `show_schedule` writes is itself a schedule file: its tables are comments.  The file knows how things are laid
out; it refuses to know anything that Schedule and Trace do not say of themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import fields
from itertools import accumulate, groupby
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from sim.compose import Settings
from sim.schedule import KINDS, Op, Schedule
from sim.schedules import SCHEDULES
from sim.units import readable

if TYPE_CHECKING:
    from sim.trace import Trace

_WIDTH = 94  # columns of a table, so that a page fits 100
_RECEIVED = ("received dispatch", "received combine")
_SENT = ("sent dispatch", "sent combine")


# ------------------------------------------------------------------------------------------- schedules


def show_schedule(schedule: Schedule) -> str:
    """The exact text of `schedule` (checked), then its staleness and its buffers as `#` comments."""
    notes = ["", *staleness_lines(schedule), "", *buffer_lines(schedule)]
    return str(schedule) + "".join(f"# {line}".rstrip() + "\n" for line in notes)


def staleness_lines(schedule: Schedule) -> list[str]:
    """Age of what each (step, layer) adds; equal neighbours share a row or a column."""
    ages = schedule.staleness()
    cells = [[_age(slots) for slots in layers] for layers in ages]
    rows, columns = folded([*map(tuple, cells)]), folded([*zip(*cells, strict=True)])
    lines = ["staleness: age in steps of the expert outputs that a layer adds (slot 0,slot 1 where they differ)"]
    for some in _fitting(columns, cells):
        head = ["step", *(f"layer\n{_span(column)}" for column in some)]
        lines += grid(head, [[_span(row), *(cells[row[0]][column[0]] for column in some)] for row in rows])
    every = [age for layers in ages for slots in layers for age in slots]
    share = f"{max(every)} of {schedule.steps} steps ({max(every) / schedule.steps:.0%} of the run)"
    return [*lines, f"oldest: {share}; mean: {sum(every) / len(every):.2f}"]


def buffer_lines(schedule: Schedule) -> list[str]:
    """What each step keeps for the next, and the most that is alive at one of its ops; equal neighbours share a row."""
    steps = _memory(schedule)
    rows = []
    for run in folded([step.shape for step in steps]):
        first, last = steps[run[0]], steps[run[-1]]
        received, apart = first.kept[:2], first.kept[2:]
        numbers = (*received, sum(received), *apart, first.peak_received, first.peak)
        where = first.at.name if first is last else f"{first.at.name} to {last.at.name}"
        rows.append([_span(run), *(f"{round(n, 2):g}" for n in numbers), where])
    head = ["step", "received\ndispatch", "received\ncombine", "\ntogether", "sent\ndispatch", "sent\ncombine",
            "router\nweights", "peak of\nreceived", "peak\nof all", "\nat op"]  # fmt: skip
    return [
        "buffers: what a step keeps for the next, and the peak inside it (of all: received and sent rows)",
        "1 = one layer: top_k x n x hidden elements with n tokens a rank (router weights: top_k x n)",
        *grid(head, rows),
    ]


def schedules_table() -> list[str]:
    """Table of the named schedules."""
    rows = [[name, (make.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")] for name, make in SCHEDULES.items()]
    return grid(["schedule", "what it is"], rows)


def settings_table() -> list[str]:
    """Table of the settings: what each means where none is given, and what it is for."""
    rows = [[f.name, str(f.default), f.metadata["help"]] for f in fields(Settings) if f.metadata]
    return grid(["setting", "if not given", "what it is"], rows)


class _Memory(NamedTuple):
    """Buffers of one step, in layers' worth."""

    step: int
    kept: tuple[float, ...]  # into the next step: _RECEIVED, _SENT, router weights
    peak_received: float
    peak: float  # of received and sent rows together
    at: Op  # the first op at which that peak is reached

    @property
    def shape(self) -> Hashable:
        """Equal for steps that differ in nothing but their number."""
        return self.kept, self.peak_received, self.peak, self.at._replace(step=self.at.step - self.step, reads=())


def _memory(schedule: Schedule) -> list[_Memory]:
    """One a step, of a checked schedule."""
    layer = schedule.top_k * schedule.micro_batches  # buffers that make one layer's worth
    received, rows = _alive(schedule, _RECEIVED), _alive(schedule, (*_RECEIVED, *_SENT))
    starts = [schedule.position[f"P{step}"] for step in range(schedule.steps)]
    steps = []
    for step, (begin, end) in enumerate(zip(starts, [*starts[1:], len(schedule.ops)], strict=True)):
        kept = Counter(buffer.what for buffer in schedule.persistent(step))
        sizes = tuple(kept[what] / layer for what in (*_RECEIVED, *_SENT, "router weights"))
        top = max(range(begin, end), key=rows.__getitem__)
        steps.append(_Memory(step, sizes, max(received[begin:end]) / layer, rows[top] / layer, schedule.ops[top]))
    return steps


def _alive(schedule: Schedule, what: Sequence[str]) -> list[int]:
    """[op]: how many of the buffers called `what` are alive while each op runs."""
    change = [0] * (len(schedule.ops) + 1)
    for buffer in schedule.buffers:
        if buffer.what in what:
            change[buffer.born] += 1
            change[buffer.dies + 1] -= 1
    return [*accumulate(change)]


def _age(slots: Sequence[int]) -> str:
    """An age for all slots, or one a slot, as an R writes them."""
    return ",".join(map(str, slots if len(set(slots)) > 1 else slots[:1]))


def _fitting(columns: Sequence[range], cells: Sequence[Sequence[str]]) -> list[Sequence[range]]:
    """The columns of the staleness table in groups that fit the page."""
    widest = max(len("layer"), *(len(cell) for row in cells for cell in row), *(len(_span(c)) for c in columns))
    fit = (_WIDTH - len("step  ")) // (widest + 2)
    return [columns[first : first + fit] for first in range(0, len(columns), fit)]


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
    """Table with a line a trace; speed-ups are over the first that is called sync, or over the first."""
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
                     str(trace.staleness.max()), f"{trace.staleness.mean():.2f}"])  # fmt: skip
    return grid(head, rows)


def kinds_table(traces: Sequence[Trace], names: Sequence[str]) -> list[str]:
    """Table with a line a kind of op: seconds on the mean rank, and their share of the makespan."""
    tables = [{kind: (seconds, share) for kind, seconds, share in trace.table()} for trace in traces]
    every = dict.fromkeys(kind for table in tables for kind in table)
    rows = [[kind_name(kind), *(_time(table.get(kind)) for table in tables)] for kind in every]
    return grid(["op", *names], rows)


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
    for title, column in zip(head, zip(*rows, strict=True), strict=True):
        number = all(cell[:1].isdigit() or cell == "-" for cell in column)
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=10_000, color_system=None)
    return ["".join(s.text for s in line).rstrip() for line in console.render_lines(table, pad=False)]


def folded(keys: Sequence[Hashable]) -> list[range]:
    """Runs of equal neighbours: [7, 7, 8] -> [range(0, 2), range(2, 3)]."""
    runs = [[*run] for _, run in groupby(range(len(keys)), keys.__getitem__)]
    return [range(run[0], run[-1] + 1) for run in runs]


def _span(run: range) -> str:
    """`3`, or `3-48`."""
    return f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}"
