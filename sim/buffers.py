"""Buffers: what waits between two ops of a schedule, from when it is made until its last user is done.

They follow from a schedule's text alone; how many bytes one has is the memory model's business (sim/memory.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sim.op import Op

if TYPE_CHECKING:
    from sim.schedule import Schedule


class Buffer(NamedTuple):
    """Rows that wait between two ops, for one slot: n x hidden elements of a micro-batch (and piece) on average.

    Alive from the op at position `born` (its receive is posted, its rows are made) through the op at `dies`, its
    last user.  A send buffer is known to be free when something that came of it is used.  "keys and values" are those
    of all ranks for one layer (slot 0)."""

    what: str  # "received dispatch", "received combine", "sent dispatch", "sent combine", "expert outputs",
    step: int  # "router weights", "keys and values"
    layer: int
    part: str
    slot: int
    born: int
    dies: int
    piece: int | None = None


def buffers_of(schedule: Schedule) -> tuple[Buffer, ...]:
    """Every buffer of `schedule`, in order of birth."""
    users = _Users(schedule)
    return tuple(
        Buffer(what, op.step, layer, op.part, slot, born, max(born, dies), op.piece)
        for born, op in enumerate(schedule.ops)
        for layer in schedule.layers_of(op)
        for slot in ((0,) if op.kind == "K" else range(schedule.top_k) if op.kind in "ADEC" else ())
        for what, dies in users.of(op, slot)
    )


def worth(schedule: Schedule, buffer: Buffer) -> float:
    """How much of a layer's rows of all slots, micro-batches and pieces `buffer` holds at most; 1 for all.

    Keys and values: of those of all ranks for one layer."""
    slots = 1 if buffer.what == "keys and values" else schedule.top_k
    return 1 / (slots * schedule.micro_batches * (1 if buffer.piece is None else schedule.pieces))


class _Users:
    """Who uses what last, as positions."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.last: dict[str, int] = {}  # user of "D3.1" (a whole result), of "C3.1:0" (a slot)
        self.weighed: dict[str, int] = {}  # R that uses the router weights of "A3.1"
        self.first: dict[str, int] = {}  # the first user
        for i, op in enumerate(schedule.ops):
            for name in schedule.inputs(op):
                self.last[name] = i
                self.first.setdefault(name, i)
            if op.kind == "R":
                self.weighed[Op("A", schedule.weights_step(op), op.layer, op.part).name] = i
                for slot, steps in enumerate(schedule.sources(op)):
                    tails = (name for step in steps for name in schedule.chain(schedule.tail, step, op.layer, op.part))
                    self.last |= {f"{name}:{slot}": i for name in tails}

    def of(self, op: Op, slot: int) -> Iterator[tuple[str, int]]:
        """(what, last user) of the buffers that `op` makes for `slot`; those of a K for several layers are one."""
        name, sharded = op.name, self.schedule.sharded_experts
        sent = op.kind in "ADEC" and slot in self.schedule.chain_slots(op)
        if op.kind == "K" and not op.unused:
            yield "keys and values", self.last.get(name, -1)
        elif op.kind == "A":
            sends = [self.schedule.position.get(name) for name in self._heads(op)]
            if sharded and sent:
                yield "sent dispatch", max(self.last.get(self.schedule.ops[at].name, at) for at in sends if at)
            if name in self.weighed:
                yield "router weights", self.weighed[name]
        elif not sent:
            return
        elif op.kind == "D":
            yield "received dispatch", self.last.get(name, -1)
        elif op.kind == "E" and not sharded:
            yield "expert outputs", self.last.get(f"{name}:{slot}", -1)
        elif op.kind == "E":
            combine = op._replace(kind="C").name
            yield "sent combine", self.first.get(combine, self.schedule.position.get(combine, -1))
        elif op.kind == "C":
            yield "received combine", self.last.get(f"{name}:{slot}", -1)

    def _heads(self, op: Op) -> Iterator[str]:
        for piece in self.schedule.piece_numbers:
            for unused in (False, True):
                yield Op(self.schedule.head, op.step, op.layer, op.part, piece=piece, unused=unused).name
