"""Passes: schedule in, schedule out.  Each changes one thing of any schedule, named or a user's own.

They know the notation and nothing of the methods (sim/schedules.py writes those).  A pass may leave repeats and
results that nobody reads; `Schedule.trimmed` drops them.  Sources: arXiv 2411.16786 (DICE) and its released code
(Cobalt-27/DICE 292938d) for conditional communication, counts and pieces; DistriFusion (arXiv 2402.19481) for patches.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from sim.op import IN_PIECES, Op, ScheduleError
from sim.policy import Policy
from sim.schedule import Schedule

Travels = Callable[[int, int, int], bool]  # (step, layer, slot) -> whether the slot is sent at all
Asks = Callable[[int, int, int], bool]  # (step, layer, slot) -> whether the policy is asked about it


def sent_when(
    schedule: Schedule, travels: Travels, asks: Asks = lambda *_: False, policy: Policy | None = None
) -> Schedule:
    """Slots are dispatched, computed and combined only where they travel; in between, R adds what was sent last.

    The router weights stay those of the step that R read before, whatever the age of a slot's own output."""
    heads = [op for op in schedule.ops if op.kind == schedule.head]
    sent: dict[tuple[int, int, str], tuple[int, ...]] = {}
    for op in heads:
        assert op.layer is not None
        slots = tuple(k for k in schedule.slots_sent(op) if travels(op.step, op.layer, k))
        sent[op.step, op.layer, op.part] = slots
    ops = []
    for op in schedule.ops:
        slots = sent.get((op.step, op.layer or 0, op.part), ())
        if op.kind == schedule.head:
            op = op._replace(slots=slots, asked=tuple(k for k in slots if asks(op.step, op.layer or 0, k)))
            op = op._replace(slots=()) if not op.asked and len(slots) == schedule.top_k else op
        elif op.kind == "R":
            op = _reading(schedule, op, sent, asks)
        if op.kind not in "NDEC" or slots:
            ops.append(op)
    asked = any(op.asked for op in ops)
    return replace(schedule, ops=tuple(ops), policy=policy if asked else None)


def _reading(schedule: Schedule, op: Op, sent: dict[tuple[int, int, str], tuple[int, ...]], asks: Asks) -> Op:
    """An R that reads, of each slot, the newest transfer at or before the step that it read."""
    assert op.layer is not None
    base, reads, newest = schedule.weights_step(op), [], []
    for slot, step in enumerate(schedule.steps_read(op)):
        while slot not in sent.get((step, op.layer, op.part), ()):
            step -= 1
            if step < 0:
                raise ScheduleError(f"{schedule.name}: slot {slot} of layer {op.layer} never travels before {op}")
        reads.append(step)
        newest.append(asks(step, op.layer, slot))
    one = len({*zip(reads, newest, strict=True)}) == 1
    reads, newest = (reads[:1], newest[:1]) if one else (reads, newest)
    weights = None if max(reads) == base else base
    return op._replace(reads=tuple(reads), newest=tuple(newest) if any(newest) else (), weights=weights)


def with_current_weights(schedule: Schedule) -> Schedule:
    """Stale outputs are weighed with the router weights of their reader's own step, matched by slot."""
    ops = (op._replace(weights=op.step if max(op.reads) < op.step else None) if op.kind == "R" else op
           for op in schedule.ops)  # fmt: skip
    return replace(schedule, ops=tuple(ops))


def with_counts(schedule: Schedule, blocking: bool) -> Schedule:
    """Token counts go ahead of every dispatch, as an exchange of their own; `blocking`: the host waits for them."""
    ops = []
    for op in schedule.ops:
        if op.kind == "D" and not op.piece:
            ops.append(Op("N", op.step, op.layer, op.part, blocks=blocking))
        ops.append(op)
    return replace(schedule, ops=tuple(ops))


def with_all_experts(schedule: Schedule) -> Schedule:
    """Every rank has all experts: no rows travel, and E follows A."""
    slots = {op[1:4]: (op.slots, op.asked) for op in schedule.ops if op.kind == "D"}
    ops = (op._replace(slots=slots[op[1:4]][0], asked=slots[op[1:4]][1]) if op.kind == "E" else op
           for op in schedule.ops if op.kind not in "NDC")  # fmt: skip
    return replace(schedule, ops=tuple(ops), experts="replicated")


def with_sharded_patches(schedule: Schedule, fresh: Collection[int], together: int = 1) -> Schedule:
    """Each rank has a share of every image's tokens.  At steps in `fresh` attention waits for the other ranks' keys
    and values; at others it takes those of the step before, gathered for `together` layers at once."""
    ops: list[Op] = []
    for op in schedule.ops:
        if op.kind != "A":
            ops.append(op)
            continue
        assert op.layer is not None
        ops.append(Op("Q", op.step, op.layer, op.part))
        first = op.layer - op.layer % together
        if op.step in fresh or together == 1:
            ops.append(Op("K", op.step, op.layer, op.part))
        elif op.layer == min(first + together, schedule.layers) - 1:
            ops.append(Op("K", op.step, first, op.part, last=op.layer if op.layer > first else None))
        ops.append(op._replace(reads=(op.step if op.step in fresh else op.step - 1,)))
    return replace(schedule, ops=tuple(ops), patches="sharded")


def in_pieces(schedule: Schedule, pieces: int) -> Schedule:
    """Dispatch, experts and combine are cut by experts: those of a piece may run as soon as its rows are there."""
    ops: list[Op] = []
    for cut, run in groupby(schedule.ops, lambda op: (op.kind in IN_PIECES, op[1:4], op.unused)):
        chain = [*run]
        pieced = [op._replace(piece=piece) for piece in range(pieces) for op in chain]
        ops += pieced if cut[0] else chain
    return replace(schedule, ops=tuple(ops), pieces=pieces)


def in_micro_batches(schedule: Schedule, micro_batches: int) -> Schedule:
    """The batch is cut; while a collective of one micro-batch is under way, the next one's ops are computed.

    Ops up to a collective are issued for one micro-batch after the other: R A D of half a, then R A D of half b."""
    ops: list[Op] = []
    for run in _stages(schedule.ops):
        parts = "abcdefghijklmnopqrstuvwxyz"[:micro_batches] if run[0].layer is not None else [""]
        ops += [op._replace(part=part) for part in parts for op in run]
    return replace(schedule, ops=tuple(ops), micro_batches=micro_batches)


def _stages(ops: Sequence[Op]) -> Iterator[list[Op]]:
    """Runs of ops that end in collectives, or at an op of the whole batch."""
    run: list[Op] = []
    for op in ops:
        if run and (op.layer is None or run[-1].layer is None or (run[-1].collective and not op.collective)):
            yield run
            run = []
        run.append(op)
    yield run


def on_communicators(schedule: Schedule, groups: Sequence[str]) -> Schedule:
    """Each group of kinds ("N", "DC") has a communicator of its own, in this order."""
    number = {kind: i for i, kinds in enumerate(groups) for kind in kinds}
    ops = (op._replace(communicator=number.get(op.kind, 0)) if op.collective else op for op in schedule.ops)
    return replace(schedule, ops=tuple(ops))
