"""A schedule: the order in which every rank issues the ops of one sampling run, as text and as data.

An op is named by the step *whose tokens it carries*, not by when it runs: `D3.1` dispatches the tokens of step 3 in
layer 1, whenever it is issued.  So a schedule is nothing but an order, and staleness needs no flag: it is the step
that an R reads, subtracted from its own.  Expert parallelism is SPMD: one list serves every rank, and collectives
cannot be issued in different orders on different ranks.

    sync         A3.1 D3.1 S3.1 E3.1 C3.1 R3.1<3     waits for both all-to-alls
    displaced    A3.1 D3.1 S3.1 E2.1 C2.1 R3.1<1     each all-to-all has a step of slack
    interweaved  A3.1 D3.1 S3.1 E3.0 C3.0 R3.1<2     the experts of layer 0 run inside layer 1

A whole schedule is a header and ops, between blanks and line ends; P, F and Z (embedding, final layer, solver step)
frame each step, and `#` begins a comment:

    mine steps=2 layers=1 top_k=2         # and micro_batches=2, where the batch is cut
    P0  A0.0 D0.0 S0.0 E0.0 C0.0 R0.0<0  F0 Z0
    P1  A1.0 S1.0 R1.0<0                 F1 Z1      # step 1 adds the outputs of step 0 again: age 1

    D3.1a       an op of micro-batch a (none written: the whole batch)
    D3.1:0      sends slot 0 (a token's best expert) only; E and C of the same chain follow
    R4.1<3,2    adds slot 0 of step 3 and slot 1 of step 2 (`<3`: every slot of step 3)
    R4.1<3@4    weighs them with the router weights of step 4 (none written: those of the newest step read)
    N3.1!       the host waits for this op before it issues the next

The file knows what is needed, and by whom: `Schedule.inputs` is the only statement of dependence there is.  It
refuses to know how long anything takes, how many ranks there are, and which schedules have names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, NoReturn

KINDS = {
    "P": "patches, timestep and label embedded",
    "A": "attention, router, rows packed for dispatch",
    "N": "token counts exchanged (without it they travel with the dispatch)",
    "D": "dispatch: tokens to the ranks of their experts (all-to-all)",
    "S": "shared experts",
    "E": "routed experts",
    "C": "combine: expert outputs back to the tokens' ranks (all-to-all)",
    "R": "residual: weighted expert outputs and shared experts added",
    "F": "final layer",
    "Z": "guidance and solver step",
}
PER_STEP = "PFZ"  # kinds without a layer: one op a step, for the whole batch
COLLECTIVES = "NDC"  # kinds that run on the communication stream and start when every rank has reached them

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_NUMBERS = rf"{_NUMBER}(?:,{_NUMBER})*"
_OP = re.compile(
    rf"(?P<kind>[A-Z])(?P<step>{_NUMBER})(?:\.(?P<layer>{_NUMBER})(?P<part>[a-z])?)?"
    rf"(?::(?P<slots>{_NUMBERS}))?(?:<(?P<reads>{_NUMBERS})(?:@(?P<weights>{_NUMBER}))?)?(?P<blocks>!)?"
)
_HEADER = re.compile(r"(?P<name>[A-Za-z][\w+.-]*)(?P<settings>(?:[ \t]+[\w-]+=\S*)+)[ \t]*")
_SETTINGS = ("steps", "layers", "top_k", "micro_batches")


class ScheduleError(ValueError):
    """A schedule that cannot be read or cannot be run; the message draws the place."""


class Op(NamedTuple):
    """One op, the same on every rank.  `str(op)` is its text, `op.name` the part of it that identifies it."""

    kind: str
    step: int
    layer: int | None = None
    part: str = ""  # micro-batch: "", or "a", "b", ...
    slots: tuple[int, ...] = ()  # D only: the slots that travel; () = all
    reads: tuple[int, ...] = ()  # R only: the step read, for every slot or one a slot
    weights: int | None = None  # R only: the step of the router weights; None = the newest step read
    blocks: bool = False  # the host waits for the op

    @property
    def name(self) -> str:
        """`D3.1a`: what profilers, traces and errors call the op."""
        return _name(self.kind, self.step, self.layer, self.part)

    @property
    def stream(self) -> str:
        """`communication` for collectives, else `compute`."""
        return "communication" if self.kind in COLLECTIVES else "compute"

    def __str__(self) -> str:
        slots = ":" + ",".join(map(str, self.slots)) if self.slots else ""
        reads = "<" + ",".join(map(str, self.reads)) if self.reads else ""
        weights = f"@{self.weights}" if self.weights is not None else ""
        return f"{self.name}{slots}{reads}{weights}{'!' if self.blocks else ''}"

    @staticmethod
    def parse(text: str) -> Op:
        """The op that `text` writes; raises ScheduleError with what is wrong with it."""
        found = _OP.fullmatch(text)
        if found is None:
            raise ScheduleError(f"cannot read {text!r}; an op is written like A3.1, D3.1a:0, R4.1<3,2@4 or N3.1!")
        kind, layer, weights = found["kind"], found["layer"], found["weights"]
        if kind not in KINDS:
            raise ScheduleError(f"unknown kind {kind!r} in {text!r}; the kinds are {' '.join(KINDS)}")
        if (layer is None) != (kind in PER_STEP):
            form = f"{kind}3" if kind in PER_STEP else f"{kind}3.1"
            raise ScheduleError(f"{text!r} should look like {form}: {KINDS[kind]}")
        if found["slots"] is not None and kind != "D":
            raise ScheduleError(f"{text!r}: slots (':0') belong to D; E and C carry what their D carries")
        if (found["reads"] is not None) != (kind == "R"):
            raise ScheduleError(f"{text!r}: R, and only R, says which step it reads, as in R3.1<2")
        return Op(
            kind,
            int(found["step"]),
            None if layer is None else int(layer),
            found["part"] or "",
            _numbers(found["slots"]),
            _numbers(found["reads"]),
            None if weights is None else int(weights),
            found["blocks"] is not None,
        )


class Buffer(NamedTuple):
    """Rows that wait between two ops, for one slot: n x hidden elements of a micro-batch on average.

    Alive from the op at position `born` (its receive is posted, its rows are made) through the op at `dies`, its
    last user.  A send buffer is known to be free when something that came of it is used."""

    what: str  # "received dispatch", "received combine", "sent dispatch", "sent combine", "router weights"
    step: int
    layer: int
    part: str
    slot: int
    born: int
    dies: int


@dataclass(frozen=True)
class Schedule:
    """Ops in the order in which every rank issues them.  `str()` and `parse` are inverse to each other."""

    name: str
    steps: int
    layers: int
    ops: tuple[Op, ...]
    top_k: int = 2
    micro_batches: int = 1

    # ------------------------------------------------------------------------------------------- text

    def __str__(self) -> str:
        return self.header + "\n" + "\n".join(" ".join(map(str, line)) for _, line in self._lines()) + "\n"

    @property
    def header(self) -> str:
        """`sync steps=5 layers=3 top_k=2`, and the number of micro-batches where there are several."""
        micro_batches = f" micro_batches={self.micro_batches}" if self.micro_batches > 1 else ""
        return f"{self.name} steps={self.steps} layers={self.layers} top_k={self.top_k}{micro_batches}"

    @staticmethod
    def parse(text: str) -> Schedule:
        """Reads a header and ops, separated by blanks and line ends; `#` begins a comment.

        Raises ScheduleError with line and column of the first thing that is not exactly a header or an op."""
        header: dict[str, str] | None = None
        ops: list[Op] = []
        for number, line in enumerate(text.splitlines(), 1):
            code = line.split("#", 1)[0]
            if header is None:
                if code.strip():
                    header = _header(code.strip(), number)
                continue
            for token in re.finditer(r"\S+", code):
                try:
                    ops.append(Op.parse(token[0]))
                except ScheduleError as error:
                    pointer = " " * token.start() + "^" * len(token[0])
                    place = f"line {number}, column {token.start() + 1}"
                    raise ScheduleError(f"{place}: {error}\n    {line}\n    {pointer}") from None
        if header is None:
            raise ScheduleError("no header; a schedule begins with a line like: sync steps=5 layers=3 top_k=2")
        name = header.pop("name")
        return Schedule(name, ops=tuple(ops), **{key: int(value) for key, value in header.items()})

    def _lines(self) -> Iterator[tuple[int, tuple[Op, ...]]]:
        """The ops in lines, each with the position of its first: a line begins at P, at F and at a layer's first A."""
        first = [i for i, op in enumerate(self.ops) if op.kind in "PF" or (op.kind == "A" and op.part in ("", "a"))]
        starts = sorted({0, *first})
        for start, end in zip(starts, [*starts[1:], len(self.ops)], strict=True):
            yield start, self.ops[start:end]

    # ------------------------------------------------------------------------------------- dependence

    @property
    def parts(self) -> tuple[str, ...]:
        """The micro-batches' letters; `("",)` where the batch is whole."""
        return tuple("abcdefghijklmnopqrstuvwxyz"[: self.micro_batches]) if self.micro_batches > 1 else ("",)

    @cached_property
    def position(self) -> dict[str, int]:
        """Where each op stands in `ops`, by name."""
        return {op.name: i for i, op in enumerate(self.ops)}

    def inputs(self, op: Op) -> tuple[str, ...]:
        """Names of the ops whose results `op` uses: the only statement of dependence there is."""
        s, l, p = op.step, op.layer, op.part  # noqa: E741
        if l is None:
            if op.kind == "P":
                return (f"Z{s - 1}",) if s else ()
            return (f"F{s}",) if op.kind == "Z" else tuple(f"R{s}.{self.layers - 1}{p}" for p in self.parts)
        if op.kind == "A":
            return (f"R{s}.{l - 1}{p}",) if l else (f"P{s}",)
        if op.kind == "D":
            counts = f"N{s}.{l}{p}"
            return (f"A{s}.{l}{p}", counts) if counts in self.position else (f"A{s}.{l}{p}",)
        if op.kind == "R":
            return (
                f"A{s}.{l}{p}",
                f"S{s}.{l}{p}",
                *(f"C{r}.{l}{p}" for r in dict.fromkeys(op.reads)),
                *((f"A{w}.{l}{p}",) if (w := self.weights_step(op)) != s else ()),
            )
        return (f"{'D' if op.kind == 'E' else 'E' if op.kind == 'C' else 'A'}{s}.{l}{p}",)

    def weights_step(self, op: Op) -> int:
        """The step whose router weights an R uses: as written, or the newest that it reads."""
        return max(op.reads) if op.weights is None else op.weights

    def steps_read(self, op: Op) -> tuple[int, ...]:
        """The step that an R reads, slot by slot."""
        return op.reads * self.top_k if len(op.reads) == 1 else op.reads

    def slots_sent(self, op: Op) -> tuple[int, ...]:
        """The slots that a D carries, best first."""
        return op.slots or tuple(range(self.top_k))

    @cached_property
    def needs(self) -> tuple[tuple[int, ...], ...]:
        """`inputs` of every op, as positions (of a schedule that has passed `check`)."""
        return tuple(tuple(self.position[name] for name in self.inputs(op)) for op in self.ops)

    def trimmed(self) -> Schedule:
        """The same without repeats and without what nobody reads: generators may write both and drop them here."""
        first: dict[str, Op] = {}
        for op in self.ops:
            first.setdefault(op.name, op)
        once = replace(self, ops=tuple(first.values()))
        used = {f"Z{self.steps - 1}"}
        kept = []
        for op in reversed(once.ops):
            if op.name in used:
                used.update(once.inputs(op))
                kept.append(op)
        return replace(self, ops=tuple(reversed(kept)))

    # ------------------------------------------------------------------------------------------ check

    def check(self) -> Schedule:
        """Returns the schedule itself if every rank can run it to the end, and every op for a purpose.

        Raises ScheduleError that draws the schedule and points at the op: an op out of range, issued twice, issued
        before something it needs, that reads a slot which was not sent, or whose result nobody uses."""
        return self._checked

    @cached_property
    def _checked(self) -> Schedule:
        for key in _SETTINGS:
            if getattr(self, key) < 1:
                raise ScheduleError(f"{self.name}: {key}={getattr(self, key)} should be at least 1")
        if _HEADER.fullmatch(self.header) is None:
            raise ScheduleError(f"{self.name!r} should be a name: a letter, then letters, digits and any of _ + . -")
        if self.micro_batches > 26:
            raise ScheduleError(f"{self.name}: micro_batches={self.micro_batches}, but letters end at 26")
        unread: dict[str, int] = {}  # what was made and not yet used -> position of its maker
        made: dict[str, int] = {}
        for i, op in enumerate(self.ops):
            self._check_range(i, op)
            if op.name in made:
                self._fail(i, f"{op.name} is issued twice")
            for name in self.inputs(op):
                if name not in made:
                    when = "issued later" if name in self.position else "never issued"
                    self._fail(i, f"{op.name} needs {name}, which is {when}")
                unread.pop(name, None)
            made[op.name] = i
            unread[op.name] = i
            for slot in self.slots_sent(op) if op.kind == "D" else ():
                made[f"{op.name}:{slot}"] = unread[f"{op.name}:{slot}"] = i
            for slot, step in enumerate(self.steps_read(op)):
                sent = f"D{step}.{op.layer}{op.part}:{slot}"
                if sent not in made:
                    self._fail(
                        i, f"{op.name} reads slot {slot} of step {step}, which {sent.split(':')[0]} does not send"
                    )
                unread.pop(sent, None)
        end = f"Z{self.steps - 1}"
        if end not in made:
            self._fail(len(self.ops) - 1, f"the schedule ends without {end}: {KINDS['Z']}")
        del unread[end]
        for name, i in sorted(unread.items(), key=lambda item: ":" in item[0]):  # an op says more than its slots
            self._fail(i, f"nobody uses {name}: leave it out")
        return self

    def _check_range(self, i: int, op: Op) -> None:
        for what, value, limit in [
            ("step", op.step, self.steps),
            ("layer", op.layer, self.layers),
            *(("slot", slot, self.top_k) for slot in op.slots),
            *(("router weights of step", w, op.step + 1) for w in [op.weights]),
        ]:
            if value is not None and value >= limit:
                self._fail(i, f"{op}: {what} {value} is out of range, 0 to {limit - 1}")
        if op.layer is not None and op.part not in self.parts:
            whole = "none, since micro_batches=1" if self.micro_batches == 1 else ", ".join(self.parts)
            self._fail(i, f"{op}: micro-batch {op.part or 'missing'}; this schedule has {whole}")
        if list(op.slots) != sorted(set(op.slots)):
            self._fail(i, f"{op}: slots should rise and not repeat")
        if op.kind == "R" and len(op.reads) not in (1, self.top_k):
            self._fail(i, f"{op} reads {len(op.reads)} slots; write one step for all, or top_k={self.top_k} steps")

    def _fail(self, position: int, why: str) -> NoReturn:
        raise ScheduleError(f"{self.name}: {why}\n{self.draw(position, why)}")

    def draw(self, position: int, note: str, around: int = 2) -> str:
        """The lines near the op at `position`, with a pointer to it that bears `note`."""
        lines = list(self._lines())
        here = max((n for n, (start, _) in enumerate(lines) if start <= position), default=0)
        drawn = [f"    {self.header}"]
        for n in range(max(0, here - around), min(len(lines), here + around + 1)):
            start, ops = lines[n]
            drawn.append("    " + " ".join(map(str, ops)))
            if n == here and ops:
                before = sum(len(str(op)) + 1 for op in ops[: position - start])
                drawn.append("    " + " " * before + "^" * len(str(self.ops[position])) + f" <-- {note}")
        return "\n".join(drawn)

    # -------------------------------------------------------------------------- staleness and buffers

    def staleness(self) -> list[list[list[int]]]:
        """Age in steps [step][layer][slot] of what is added: own step minus step read; the oldest micro-batch's."""
        ages = [[[0] * self.top_k for _ in range(self.layers)] for _ in range(self.steps)]
        for op in self.ops:
            if op.kind == "R" and op.layer is not None:
                old = ages[op.step][op.layer]
                ages[op.step][op.layer] = [max(a, op.step - r) for a, r in zip(old, self.steps_read(op), strict=True)]
        return ages

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """Every buffer between two ops, one a slot, in order of birth."""
        last: dict[str, int] = {}  # last user of "C3.1:0" (a slot), or of "D3.1" (a whole result)
        weighed: dict[str, int] = {}  # last R that uses the router weights of "A3.1"
        for i, op in enumerate(self.ops):
            last |= dict.fromkeys(self.inputs(op), i)
            if op.kind == "R":
                weighed[_name("A", self.weights_step(op), op.layer, op.part)] = i
                last |= {f"C{step}.{op.layer}{op.part}:{slot}": i for slot, step in enumerate(self.steps_read(op))}
        first_use = {name: i for i, op in reversed([*enumerate(self.ops)]) for name in self.inputs(op)}
        return tuple(
            Buffer(what, op.step, op.layer, op.part, slot, born, dies)
            for born, op in enumerate(self.ops)
            if op.layer is not None and op.kind in "ADEC"
            for slot in self.chain_slots(op)
            for what, dies in _lifetimes(op, slot, last, first_use, weighed)
        )

    def chain_slots(self, op: Op) -> tuple[int, ...]:
        """The slots of the chain A D E C that `op` belongs to; () for an A whose tokens are not dispatched."""
        at = self.position.get(_name("D", op.step, op.layer, op.part))
        return () if at is None else self.slots_sent(self.ops[at])

    def alive(self, position: int) -> list[Buffer]:
        """The buffers alive while the op at `position` runs."""
        return [b for b in self.buffers if b.born <= position <= b.dies]

    def persistent(self, step: int) -> list[Buffer]:
        """The buffers alive from `step` into the next: what staleness costs in memory.

        Received rows, a layer and slot: 2 for displaced, 1 for interweaved (arXiv 2411.16786: half)."""
        border = self.position.get(f"P{step + 1}", len(self.ops))
        return [b for b in self.buffers if b.born < border <= b.dies]


def _name(kind: str, step: int, layer: int | None, part: str = "") -> str:
    return f"{kind}{step}" if layer is None else f"{kind}{step}.{layer}{part}"


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",")) if text else ()


def _header(line: str, number: int) -> dict[str, str]:
    """`sync steps=5 layers=3` -> {"name": "sync", "steps": "5", "layers": "3"}"""
    found = _HEADER.fullmatch(line)
    if found is None:
        raise ScheduleError(
            f"line {number}: cannot read the header\n    {line}\nit should look like: sync steps=5 layers=3 top_k=2"
        )
    settings: dict[str, str] = {"name": found["name"]}
    for setting in found["settings"].split():
        key, value = setting.split("=", 1)
        if key not in _SETTINGS or key in settings or not re.fullmatch(_NUMBER, value):
            known = ", ".join(f"{k}=N" for k in _SETTINGS)
            raise ScheduleError(f"line {number}: {setting!r} in the header; it takes, once each, {known}\n    {line}")
        settings[key] = value
    if missing := {"steps", "layers"} - settings.keys():
        raise ScheduleError(f"line {number}: the header lacks {' and '.join(sorted(missing))}\n    {line}")
    return settings


def _lifetimes(
    op: Op, slot: int, last: dict[str, int], first_use: dict[str, int], weighed: dict[str, int]
) -> Iterable[tuple[str, int]]:
    """(what, last user) of the buffers that `op` makes for `slot`."""
    chain = (op.step, op.layer, op.part)
    if op.kind == "A":
        yield "sent dispatch", last[_name("D", *chain)]
        if op.name in weighed:
            yield "router weights", weighed[op.name]
    elif op.kind == "D":
        yield "received dispatch", last[op.name]
    elif op.kind == "E":
        yield "sent combine", first_use[_name("C", *chain)]
    elif op.kind == "C":
        yield "received combine", last[f"{op.name}:{slot}"]
