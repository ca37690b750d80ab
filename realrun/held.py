"""What a rank holds between ops: results until their last user is done, and the books of what of it are buffers.

It knows which op uses what of which result, and counts bytes; it refuses to know how results are made.

A result is kept under its op's name, except what A makes, which has users of several kinds ("A3.1/rows").  Rows that
came back are counted, and freed, slot by slot ("C3.1:0"): where a slot is used again later, only its rows stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from realrun.transport import Stamps
from sim.schedule import Op, Schedule


class Held(NamedTuple):
    """A buffer that waited between ops, alive from the op at position `born` through the op at `dies`.

    what: "sent dispatch", "received dispatch", "sent combine", "received combine", "expert outputs", "router weights"
    or "keys and values".  name: of the op that made it (the receiver's, for rows that came).  slot: None where rows
    of all slots share a lifetime.  bytes: of the tensors themselves; rows as they travel, without whose they are."""

    what: str
    name: str
    slot: int | None
    born: int
    dies: int
    bytes: int


def peak_bytes(held: Iterable[Held]) -> dict[str, int]:
    """What -> bytes, at the op at which most bytes are held."""
    change: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in held:
        change[one.born][one.what] += one.bytes
        change[one.dies + 1][one.what] -= one.bytes
    now: dict[str, int] = defaultdict(int)
    most: dict[str, int] = {}
    for position in sorted(change):
        for what, more in change[position].items():
            now[what] += more
        if sum(now.values()) > sum(most.values()):
            most = {what: n for what, n in now.items() if n}
    return most


@dataclass
class _Entry:
    what: str
    key: str
    slot: int | None
    born: int
    bytes: int | Tensor | Stamps  # stamps: of rows that may still be on their way
    dies: int


class Results:
    """The results that a later op will use, by key."""

    def __init__(self, schedule: Schedule) -> None:
        self._last = _last_uses(schedule)
        self._ending: dict[int, list[str]] = defaultdict(list)
        for key, at in self._last.items():
            self._ending[at].append(key)
        self._values: dict[str, Any] = {}
        self._books: list[_Entry] = []
        self.at = 0  # position of the op that runs

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def wanted(self, key: str) -> bool:
        """Whether anything will use it."""
        return key in self._last

    def keep(self, key: str, value: Any) -> None:
        """Keeps a result of the op that runs, if anything will use it."""
        if key in self._last or any(f"{key}:{slot}" in self._last for slot in getattr(value, "slots", ())):
            self._values[key] = value

    def note(self, what: str, key: str, size: int | Tensor | Stamps, slot: int | None = None) -> None:
        """Enters a result into the books: a buffer of so many bytes, or as many as will have come."""
        due = self._last.get(key if slot is None else f"{key}:{slot}", self.at)
        self._books.append(_Entry(what, key, slot, self.at, size, due))

    def drop(self) -> None:
        """Frees what the op that has run was the last to use."""
        by_slot: dict[str, list[int]] = defaultdict(list)
        for key in self._ending.pop(self.at, ()):
            name, _, slot = key.partition(":")
            if slot:
                by_slot[name].append(int(slot))
            else:
                self._values.pop(key, None)
        for name, gone in by_slot.items():
            result = self._values.pop(name)
            if left := [slot for slot in result.slots if slot not in gone]:
                self._values[name] = result.only(left)

    def held(self) -> list[Held]:
        """The books, when all transfers have ended."""
        return [
            Held(e.what, e.key.partition("/")[0], e.slot, e.born, e.dies,
                 e.bytes.came_bytes if isinstance(e.bytes, Stamps) else int(e.bytes))
            for e in self._books
        ]  # fmt: skip


def _last_uses(schedule: Schedule) -> dict[str, int]:
    """Key -> position of its last user."""
    last: dict[str, int] = {}
    returned: set[str] = set()
    for i, op in enumerate(schedule.ops):
        last.update((key, i) for name in schedule.inputs(op) for key in _keys(schedule, op, name))
        if op.kind == "R":
            came = {name for name in schedule.inputs(op) if name[0] == "C"} - returned
            # that what was made of it has come says that a send buffer is free
            last.update((schedule.inputs(schedule.ops[schedule.position[name]])[0], i) for name in came)
            returned |= came
    return last


def _keys(schedule: Schedule, op: Op, name: str) -> Iterator[str]:
    """The parts of the result `name` that `op`, whose input it is, uses."""
    own = f"A{op.step}.{op.layer}{op.part}"
    match op.kind, name[0]:
        case "S", _:
            yield f"{name}/h"
        case "N", _:
            yield f"{name}/places"
        case (("D" | "E"), "A"):
            yield from (f"{name}/places", f"{name}/rows")
        case "E", _:
            yield from (name, f"{own}/rows")  # free only when they have come
        case "R", "A":
            yield from [name] if name == own else []
            yield from [f"{name}/weights"] if name == f"A{schedule.weights_step(op)}.{op.layer}{op.part}" else []
        case "R", ("C" | "E"):
            yield from (f"{name}:{slot}" for slot in _slots_of(schedule, op, name))
        case _:
            yield name


def _slots_of(schedule: Schedule, add: Op, name: str) -> Iterator[int]:
    """The slots that an R takes of the outputs that came as `name`."""
    step = schedule.ops[schedule.position[name]].step
    yield from (slot for slot, steps in enumerate(schedule.sources(add)) if step in steps)
