"""A schedule described: its text, and as comments how stale it gets, what it keeps and what it sends.

What `describe` writes is itself a schedule file.  The file knows how things are laid out; it refuses to know anything
that a Schedule does not say of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import fields
from itertools import accumulate
from typing import NamedTuple

from sim.buffers import worth
from sim.compose import Settings
from sim.schedule import Op, Schedule
from sim.schedules import SCHEDULES
from sim.show import folded, grid, spell

_WIDTH = 94  # columns of a table, so that a page fits 100
_RECEIVED = ("received dispatch", "received combine", "expert outputs")
_SENT = ("sent dispatch", "sent combine")
_APART = ("router weights", "keys and values")


def describe(schedule: Schedule) -> str:
    """The exact text of `schedule` (checked), then its staleness, its buffers and its rows as `#` comments."""
    notes = ["", *staleness_lines(schedule), "", *buffer_lines(schedule), "", sent_line(schedule)]
    return str(schedule) + "".join(f"# {line}".rstrip() + "\n" for line in notes)


def staleness_lines(schedule: Schedule) -> list[str]:
    """Age of what each (step, layer) adds, and of the keys and values that it takes; equal ones share a row."""
    oldest, youngest = schedule.staleness(), schedule.staleness_at_least()
    cells = [[_age(*pair) for pair in zip(*layers, strict=True)] for layers in zip(oldest, youngest, strict=True)]
    lines = ["staleness: age in steps of the expert outputs that a layer adds (slot 0,slot 1 where they differ)"]
    if schedule.policy:
        lines.append("(youngest-oldest where the policy decides: sim/policy.py)")
    lines += _age_table(cells)
    every = [age for layers in oldest for slots in layers for age in slots]
    share = f"{max(every)} of {schedule.steps} steps ({max(every) / schedule.steps:.0%} of the run)"
    lines.append(f"oldest: {share}; mean: {sum(every) / len(every):.2f}" + " at most" * (schedule.policy is not None))
    if schedule.sharded_patches:
        gathered = schedule.attention_staleness()
        lines += ["", "attention's staleness: age in steps of the other ranks' keys and values"]
        lines += _age_table([[str(age) for age in layers] for layers in gathered])
    return lines


def _age_table(cells: Sequence[Sequence[str]]) -> list[str]:
    rows, columns = folded([*map(tuple, cells)]), folded([*zip(*cells, strict=True)])
    lines = []
    for some in _fitting(columns, cells):
        head = ["step", *(f"layer\n{spell(column)}" for column in some)]
        lines += grid(head, [[spell(row), *(cells[row[0]][column[0]] for column in some)] for row in rows])
    return lines


def _age(oldest: Sequence[int], youngest: Sequence[int]) -> str:
    """An age for all slots, or one a slot, as an R writes them; a range where a policy decides."""
    ages = [str(old) if old == young else f"{young}-{old}" for old, young in zip(oldest, youngest, strict=True)]
    return ",".join(ages if len({*ages}) > 1 else ages[:1])


def _fitting(columns: Sequence[range], cells: Sequence[Sequence[str]]) -> list[Sequence[range]]:
    """The columns of the staleness table in groups that fit the page."""
    widest = max(len("layer"), *(len(cell) for row in cells for cell in row), *(len(spell(c)) for c in columns))
    fit = (_WIDTH - len("step     ")) // (widest + 2)
    return [columns[first : first + fit] for first in range(0, len(columns), fit)]


def buffer_lines(schedule: Schedule) -> list[str]:
    """What each step keeps for the next, and the most that is alive at one of its ops; equal steps share a row."""
    steps = _memory(schedule)
    kinds = [what for what in (*_RECEIVED, *_SENT, *_APART) if any(step.kept[what] for step in steps)]
    rows = []
    for run in folded([step.shape for step in steps]):
        first, last = steps[run[0]], steps[run[-1]]
        received = sum(first.kept[what] for what in _RECEIVED)
        numbers = (*(first.kept[what] for what in kinds), received, first.peak_received, first.peak)
        where = first.at.name if first is last else f"{first.at.name}-{last.at.name}"
        rows.append([spell(run), *(f"{round(n, 2):g}" for n in numbers), where])
    names = [_two_lines(what) for what in kinds]
    head = ["step", *names, "both\nreceived", "most\nreceived", "most\nof all", "\nat op"]
    return [
        "buffers: what a step keeps for the next, and the peak inside it (of all: received and sent rows)",
        "1 = one layer: top_k x n x hidden elements with n tokens a rank (router weights: top_k x n)",
        *(["keys and values: 1 = those of all ranks for one layer"] * schedule.sharded_patches),
        *grid(head, rows),
    ]


def _two_lines(what: str) -> str:
    """A heading: "keys and values" breaks before its last word."""
    return "\n".join(what.rsplit(" ", 1))


class _Memory(NamedTuple):
    """Buffers of one step, in layers' worth."""

    step: int
    kept: dict[str, float]  # into the next step
    peak_received: float
    peak: float  # of received and sent rows together
    at: Op  # the first op at which that peak is reached

    @property
    def shape(self) -> Hashable:
        """Equal for steps that differ in nothing but their number."""
        at = self.at._replace(step=self.at.step - self.step, reads=())
        return *self.kept.items(), self.peak_received, self.peak, at


def _memory(schedule: Schedule) -> list[_Memory]:
    """One a step, of a checked schedule."""
    received, rows = _alive(schedule, _RECEIVED), _alive(schedule, (*_RECEIVED, *_SENT))
    starts = [schedule.position[f"P{step}"] for step in range(schedule.steps)]
    steps = []
    for step, (begin, end) in enumerate(zip(starts, [*starts[1:], len(schedule.ops)], strict=True)):
        kept: dict[str, float] = dict.fromkeys((*_RECEIVED, *_SENT, *_APART), 0.0)
        for buffer in schedule.persistent(step):
            kept[buffer.what] += worth(schedule, buffer)
        top = max(range(begin, end), key=rows.__getitem__)
        steps.append(_Memory(step, kept, max(received[begin:end]), rows[top], schedule.ops[top]))
    return steps


def _alive(schedule: Schedule, what: Sequence[str]) -> list[float]:
    """[op]: layers' worth of the buffers called `what` that are alive while each op runs."""
    change: dict[int, float] = defaultdict(float)
    for buffer in schedule.buffers:
        if buffer.what in what:
            change[buffer.born] += worth(schedule, buffer)
            change[buffer.dies + 1] -= worth(schedule, buffer)
    return [round(n, 9) for n in accumulate(change[i] for i in range(len(schedule.ops)))]


def sent_line(schedule: Schedule) -> str:
    """How many rows are dispatched, in all and beside a schedule that sends every slot at every step."""
    heads = [op for op in schedule.ops if op.kind == schedule.head]
    every = schedule.steps * schedule.layers * schedule.top_k * schedule.micro_batches * schedule.pieces
    most = sum(len(schedule.slots_sent(op)) for op in heads) / every
    least = sum(len({*schedule.slots_sent(op)} - {*op.asked}) for op in heads) / every
    word = "dispatched" if schedule.sharded_experts else "computed"
    share = f"{most:.1%}" if least == most else f"{least:.1%} to {most:.1%}"
    return f"rows {word}: {share} of top_k x n a step and layer"


# --------------------------------------------------------------------------------------- what there is


def schedules_table() -> list[str]:
    """Table of the named schedules."""
    rows = [[name, (make.__doc__ or "").split("\n\n")[0].replace("\n    ", " ")] for name, make in SCHEDULES.items()]
    return grid(["schedule", "what it is"], rows)


def settings_table() -> list[str]:
    """Table of the settings: what each is where none is given, and what it is for."""
    rows = [[f.name, str(f.default), f.metadata["help"]] for f in fields(Settings) if f.metadata]
    return grid(["setting", "if not given", "what it is"], rows)
