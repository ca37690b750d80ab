"""A trace: when every op of a schedule ran on every rank.  Simulation and real run both return one.

It holds spans and what can be counted from them; it has no opinion on whether they are good, and does not know
whether a model or a machine made them, beyond the word in `origin`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.output import whole_file
from sim.schedule import Op, Schedule, ScheduleError

Array = npt.NDArray[np.float64]
HOSTS = {True: "computes itself", False: "runs ahead"}  # what `about` says of the host: is it synchronous?
_COLUMNS = "rank\tstream\top\treached_s\tstart_s\tend_s"
_SPAN = re.compile(r"([0-9]+)\t(\w+)\t(\S+)" + r"\t(-?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?)" * 3)


@dataclass(frozen=True, eq=False)
class Trace:
    """Spans of a run, in seconds since its first op began.

    reached_s [rank, op]: when this rank was ready for the op; start_s [rank, op]: when it began, for a collective not
    before every rank had reached it; end_s [rank, op].  The op axis is `schedule.ops`.
    staleness [step, layer, slot]: oldest age in steps of what was added; a simulation takes it from the schedule, a
    real run reads it off the tags that travelled with the buffers.  ages [step, layer, slot, age], where a policy
    decides: for how many tokens it was which; None where all tokens are alike.  attention_staleness [step, layer]: age
    of the other ranks' keys and values; None where these do not travel."""

    schedule: Schedule
    origin: str  # "simulated" or "measured"
    reached_s: Array
    start_s: Array
    end_s: Array
    staleness: npt.NDArray[np.int64]
    about: Mapping[str, str] = field(default_factory=dict)  # workload, cluster or machine, seed, versions
    ages: npt.NDArray[np.int64] | None = None
    attention_staleness: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name in ("reached_s", "start_s", "end_s"):
            array = getattr(self, name)
            if array.shape != (self.ranks, len(self.schedule.ops)) or not np.isfinite(array).all():
                raise ValueError(f"{name} should be finite, of shape [rank, op], not {array.shape}")
        for rank, op in np.argwhere(self.end_s < self.start_s):
            raise ValueError(f"{self.schedule.ops[op].name} on rank {rank} ends before it starts")
        ages = (self.schedule.steps, self.schedule.layers, self.schedule.top_k)
        if self.staleness.shape != ages:
            raise ValueError(f"staleness should be of shape [step, layer, slot] {ages}, not {self.staleness.shape}")
        for name, given, due, axes in [
            ("ages", self.ages, self.schedule.policy is not None, (*ages, self.schedule.steps)),
            ("attention_staleness", self.attention_staleness, self.schedule.sharded_patches, ages[:2]),
        ]:
            if (given is not None) != due or (given is not None and given.shape != axes):
                found = None if given is None else given.shape
                raise ValueError(f"{name} should be {f'of shape {axes}' if due else 'None'}, not {found}")
        for key, value in self.about.items():
            if " = " in key or len(f"{key} = {value}".splitlines()) > 1:
                raise ValueError(f"about {key!r}: {value!r} is not a line of text")

    # ---------------------------------------------------------------------------------------- metrics

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.start_s)

    @property
    def makespan_s(self) -> float:
        """Seconds from the first op's start to the last op's end, over all ranks."""
        return float(self.end_s.max() - self.start_s.min())

    @cached_property
    def on_communication(self) -> npt.NDArray[np.bool_]:
        """[op]: whether the op runs on the communication stream."""
        return np.array(self.schedule.on_communication)

    def busy_s(self, stream: str) -> Array:
        """[rank]: seconds in which `stream` ran an op; "communication": in which any communicator did."""
        mine = self._on(stream)
        return np.array([_covered_s(b[mine], e[mine]) for b, e in zip(self.start_s, self.end_s, strict=True)])

    def _on(self, stream: str) -> npt.NDArray[np.bool_]:
        """[op]: whether it runs on `stream`; "communication": on any communicator."""
        if stream == "communication":
            return self.on_communication
        return np.array([op.stream == stream for op in self.schedule.ops])

    @cached_property
    def exposed_s(self) -> Array:
        """[rank]: seconds in which a collective was under way, or waited for another rank, and nothing was computed."""
        return np.array([self._exposed_s(rank) for rank in range(self.ranks)])

    def _exposed_s(self, rank: int) -> float:
        computing, end = ~self.on_communication, self.end_s[rank]
        begin = np.where(computing, self.start_s[rank], self.reached_s[rank])
        return _covered_s(begin, end) - _covered_s(begin[computing], end[computing])

    def order(self, rank: int, stream: str) -> list[str]:
        """Names of the ops that `stream` of `rank` ran, in the order in which they began."""
        mine = np.flatnonzero([op.stream == stream for op in self.schedule.ops])
        return [self.schedule.ops[i].name for i in mine[np.argsort(self.start_s[rank, mine], kind="stable")]]

    def span_s(self, rank: int, op: Op) -> tuple[float, float]:
        """Start and end of one op on one rank."""
        at = self.schedule.position[op.name]
        return float(self.start_s[rank, at]), float(self.end_s[rank, at])

    @cached_property
    def step_s(self) -> Array:
        """[step]: seconds of each step, from the solver step before it to its own, on the slowest rank."""
        ends = [self.end_s[:, self.schedule.position[f"Z{s}"]].max() for s in range(self.schedule.steps)]
        return np.diff(np.array([self.start_s.min(), *ends]))

    @cached_property
    def layer_s(self) -> Array:
        """[step, layer]: seconds of each layer, from the residual before it (the embedding) to its own, on the slowest
        rank and micro-batch.  What a schedule runs there of other layers' ops counts too."""
        ends = np.empty((self.schedule.steps, self.schedule.layers + 1))
        ends[:, 0] = [self.end_s[:, self.schedule.position[f"P{s}"]].max() for s in range(self.schedule.steps)]
        residuals = np.full((self.schedule.steps, self.schedule.layers), -np.inf)
        for i, op in enumerate(self.schedule.ops):
            if op.kind == "R":
                residuals[op.step, op.layer] = max(residuals[op.step, op.layer], self.end_s[:, i].max())
        ends[:, 1:] = residuals
        return np.diff(ends, axis=1)

    @cached_property
    def all_to_all_s(self) -> Array:
        """[rank]: seconds in which a dispatch or a combine was under way, waits for other ranks left out."""
        mine = np.array([op.kind in "DC" for op in self.schedule.ops])
        return np.array([_covered_s(b[mine], e[mine]) for b, e in zip(self.start_s, self.end_s, strict=True)])

    @cached_property
    def mean_age(self) -> Array:
        """[step]: mean age in steps of what is added, over layers and slots, and over tokens where a policy decides."""
        if self.ages is None:
            return np.asarray(self.staleness.mean(axis=(1, 2)))
        counts = self.ages.sum(axis=(1, 2))  # [step, age]
        return np.asarray(counts @ np.arange(counts.shape[1]) / counts.sum(axis=1))

    def table(self) -> list[tuple[str, float, float]]:
        """(kind of op, seconds, share of the makespan), of the mean rank; then exposed communication."""
        spans = (self.end_s - self.start_s).mean(axis=0)
        kinds = np.array([op.kind for op in self.schedule.ops])
        seconds = [(str(kind), float(spans[kinds == kind].sum())) for kind in dict.fromkeys(kinds)]
        rows = [*seconds, ("exposed communication", float(self.exposed_s.mean()))]
        return [(kind, s, s / self.makespan_s) for kind, s in rows]

    # ------------------------------------------------------------------------------------------- text

    def __str__(self) -> str:
        """Everything: a heading of `#` lines with the schedule in it, then a line a span, in exact seconds."""
        about = [f"# {key} = {value}" for key, value in self.about.items()]
        ages = ["# staleness " + " ".join(map(str, step)) for step in self._staleness_rows()]
        text = [f"#> {line}" for line in str(self.schedule).splitlines()]
        return "\n".join([f"# trace {self.origin}", *about, *ages, *text, _COLUMNS, *self._rows()]) + "\n"

    def _staleness_rows(self) -> list[list[int]]:
        """A line a step: ages by layer and slot, then of attention by layer, then counts by layer, slot and age."""
        parts = [a for a in (self.staleness, self.attention_staleness, self.ages) if a is not None]
        rows: list[list[int]] = np.concatenate([a.reshape(self.schedule.steps, -1) for a in parts], axis=1).tolist()
        return rows

    def _rows(self) -> list[str]:
        names = [(op.stream, op.name) for op in self.schedule.ops]
        return [
            f"{rank}\t{stream}\t{name}\t{reached!r}\t{start!r}\t{end!r}"
            for rank in range(self.ranks)
            for (stream, name), reached, start, end in zip(
                names, *(a[rank].tolist() for a in (self.reached_s, self.start_s, self.end_s)), strict=True
            )
        ]

    def save(self, path: Path | str) -> None:
        """Writes the text; `load` reads it back without loss."""
        with whole_file(path) as part:
            part.write_text(str(self))

    @staticmethod
    def load(path: Path | str) -> Trace:
        """Reads what `save` wrote.  Raises ValueError naming the first line that is not as it should be."""
        try:
            text = Path(path).read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a trace: {error}") from None
        return Trace.parse(text, str(path))

    @staticmethod
    def parse(text: str, source: str = "trace") -> Trace:
        """The inverse of `str()`."""
        lines = text.splitlines()
        if _COLUMNS not in lines or not lines[0].startswith("# trace "):
            raise ValueError(f"{source}: not a trace: it should begin with '# trace ' and have the line\n{_COLUMNS}")
        head = lines[: lines.index(_COLUMNS)]
        try:  # every other line left blank, so that errors give the line of this text
            schedule = Schedule.parse("\n".join(" " * 3 + x[3:] if x.startswith("#> ") else "" for x in head)).check()
        except ScheduleError as error:
            raise ValueError(f"{source}: {error}") from None
        about = dict(line[2:].split(" = ", 1) for line in head if " = " in line and line.startswith("# "))
        reached, start, end = _spans(lines, len(head) + 1, schedule, source)
        ages = _ages(head, schedule, source)
        return Trace(
            schedule, lines[0].removeprefix("# trace "), reached, start, end, ages.pop("staleness"), about, **ages
        )


def _ages(head: list[str], schedule: Schedule, source: str) -> dict[str, npt.NDArray[np.int64]]:
    """staleness, attention_staleness and ages of a Trace, a line a step."""
    steps, layers, top_k = schedule.steps, schedule.layers, schedule.top_k
    shapes: dict[str, tuple[int, ...]] = {"staleness": (layers, top_k)}
    shapes |= {"attention_staleness": (layers,)} if schedule.sharded_patches else {}
    shapes |= {"ages": (layers, top_k, steps)} if schedule.policy else {}
    sizes = [math.prod(shape) for shape in shapes.values()]
    rows = []
    for number, line in enumerate(head, 1):
        if line.startswith("# staleness "):
            rows.append(line.split()[2:])
            if len(rows[-1]) != sum(sizes) or not all(map(str.isdecimal, rows[-1])):
                raise ValueError(f"{source}, line {number}: expected an age a layer and slot\n    {line}")
    if len(rows) != steps:
        raise ValueError(f"{source}: {len(rows)} lines of staleness for {steps} steps")
    columns = np.split(np.array(rows, dtype=np.int64).reshape(steps, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    return {name: part.reshape(steps, *shapes[name]) for name, part in zip(shapes, columns, strict=True)}


def _spans(lines: list[str], first: int, schedule: Schedule, source: str) -> Array:
    """[3, rank, op] reached, start, end from a trace's text from `lines[first]` on."""
    ops, values = schedule.ops, []
    for i, line in enumerate(lines[first:]):
        rank, op = i // len(ops), ops[i % len(ops)]
        found = _SPAN.fullmatch(line)
        if found is None or found.groups()[:3] != (str(rank), op.stream, op.name):
            want = f"expected the span of {op.name} on the {op.stream} stream of rank {rank}"
            raise ValueError(f"{source}, line {first + i + 1}: {want}\n    {line}")
        values.append(found.groups()[3:])
    if not values or len(values) % len(ops):
        raise ValueError(f"{source}: {len(values)} spans do not make whole ranks of {len(ops)} ops")
    return np.ascontiguousarray(np.array(values, dtype=np.float64).T.reshape(3, -1, len(ops)))


def _covered_s(begin: Array, end: Array) -> float:
    """Seconds that lie in at least one of the spans."""
    if not len(begin):
        return 0.0
    order = np.argsort(begin, kind="stable")
    begin, until = begin[order], np.maximum.accumulate(end[order])
    gaps = np.maximum(0.0, begin[1:] - until[:-1])
    return max(0.0, float(until[-1] - begin[0] - gaps.sum()))  # not a rounding below none
