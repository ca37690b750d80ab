"""Trimming: a schedule without repeats and without what nobody reads, so that generators may write both.

It knows who uses what, as the schedule says it; it refuses to know why an op was written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.op import FOR_NOTHING, Op

if TYPE_CHECKING:
    from sim.schedule import Schedule


def trimmed(schedule: Schedule, keep: bool = False) -> Schedule:
    """`schedule` without repeats and without what nobody reads.

    With `keep`, collectives and experts stay where they are, marked as unused: released code does them."""
    seen: dict[str, Op] = {}
    for op in schedule.ops:
        again = op.name in seen and keep and op.kind in FOR_NOTHING
        one = op._replace(unused=True) if again else op
        seen.setdefault(one.name, one)
    once = replace(schedule, ops=tuple(seen.values()))
    used, rows = {f"Z{schedule.steps - 1}"}, set[tuple[int, int | None, str, int]]()
    kept: list[Op] = []
    for op in reversed(once.ops):
        if op.name in used:
            used.update(once.inputs(op))
            if op.kind == "R":
                slots = enumerate(once.sources(op))
                rows.update((step, op.layer, op.part, slot) for slot, steps in slots for step in steps)
            kept.append(op if keep else _narrowed(once, op, rows))
        elif keep and op.kind in FOR_NOTHING:
            kept.append(op._replace(unused=True))
    policy = schedule.policy if any(op.asked for op in kept) else None
    return replace(schedule, ops=tuple(reversed(kept)), policy=policy)


def _narrowed(schedule: Schedule, op: Op, rows: Collection[tuple[int, int | None, str, int]]) -> Op:
    """`op` without the slots that nobody reads; `rows` are those read, as (step, layer, micro-batch, slot)."""
    if op.kind != schedule.head:
        return op
    sent = schedule.slots_sent(op)
    slots = tuple(slot for slot in sent if (op.step, op.layer, op.part, slot) in rows)
    return op if slots == sent else op._replace(slots=slots, asked=tuple(s for s in op.asked if s in slots))
