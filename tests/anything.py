"""Any schedule at all that the notation can write: random in everything, then laid out in any order that can be run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from itertools import product
from random import Random

from hypothesis import strategies as st

from sim.policy import Policy
from sim.schedule import COLLECTIVES, Op, Schedule

POLICIES = (
    Policy("random", seed=5),
    Policy("threshold", threshold=0.2, interval=2),
    Policy("debt", threshold=0.4, interval=3),
)


@st.composite
def anything(draw: st.DrawFn, deciding: bool = False) -> Schedule:
    """Any schedule: reads, slots, weights, counts, pieces, micro-batches, communicators, experts and patches in all
    places or shared out, work for nothing, waits; with policies only if `deciding`; in any possible order."""
    return any_schedule(Random(draw(st.integers(0, 2**32))), deciding)


def any_schedule(random: Random, deciding: bool = False) -> Schedule:
    """The same for one source of chance."""
    steps, layers, top_k, halves, pieces = (random.randint(1, most) for most in (4, 3, 2, 2, 2))
    header = Schedule(
        "anything", steps, layers, (), top_k, halves, pieces,
        experts=random.choice(["sharded", "sharded", "replicated"]),
        patches=random.choice(["whole", "whole", "sharded"]),
        policy=random.choice([None, *POLICIES]) if deciding else None,
    )  # fmt: skip
    schedule = in_any_order(replace(header, ops=tuple(_Drawn(header, random).ops())), random).trimmed()
    schedule = replace(schedule, ops=(*schedule.ops, *_for_nothing(schedule, random)))
    communicators = random.choice([1, 1, 3])
    decorated = tuple(
        op._replace(
            blocks=random.random() < 0.1,
            communicator=random.randrange(communicators) if op.kind in COLLECTIVES else 0,
        )
        for op in schedule.ops
    )
    return in_any_order(replace(schedule, ops=decorated), random)


@dataclass
class _Drawn:
    """The ops of one schedule, in no order: first what is sent, then what is read of it."""

    header: Schedule
    random: Random
    sure: dict[tuple[int, int, str], list[int]] = field(default_factory=dict)  # chain -> slots that surely travel
    asked: dict[tuple[int, int, str], list[int]] = field(default_factory=dict)

    def ops(self) -> Iterator[Op]:
        steps, layers = range(self.header.steps), range(self.header.layers)
        yield from (Op(kind, step) for kind in "PFZ" for step in steps)
        for s, l, part in product(steps, layers, self.header.parts):  # noqa: E741
            yield from self._chain(s, l, part)
        for s, l, part in product(steps, layers, self.header.parts):  # noqa: E741
            yield Op("S", s, l, part)
            yield self._residual(s, l, part)
        for s, part in product(steps, self.header.parts):
            yield from self._attention(s, part)

    def _chain(self, s: int, l: int, part: str) -> Iterator[Op]:  # noqa: E741
        ways = ["sure"] if s == 0 else ["sure", "sure", "not", *["asked"] * (2 if self.header.policy else 0)]
        way = [self.random.choice(ways) for _ in range(self.header.top_k)]
        sure, asked = ([k for k, is_ in enumerate(way) if is_ == how] for how in ("sure", "asked"))
        self.sure[s, l, part], self.asked[s, l, part] = sure, asked
        if not sure and not asked:
            return
        slots = tuple(sorted(sure + asked)) if asked or len(sure) < self.header.top_k else ()
        for piece in self.header.piece_numbers:
            for kind in "DEC" if self.header.sharded_experts else "E":
                head = kind == self.header.head
                yield Op(kind, s, l, part, slots if head else (), piece=piece, asked=tuple(asked) if head else ())
        if self.header.sharded_experts and self.random.random() < 0.3:
            yield Op("N", s, l, part)

    def _residual(self, s: int, l: int, part: str) -> Op:  # noqa: E741
        reads, newest = [], []
        for slot in range(self.header.top_k):
            plain = [r for r in range(max(0, s - 2), s + 1) if slot in self.sure[r, l, part]]
            newest.append(not plain or self.random.random() < (0.5 if self.header.policy else 0.1))
            reads.append(self.random.randint(max(0, s - 2), s) if newest[-1] else self.random.choice(plain))
        weights = self.random.choice([None, *range(s + 1)])
        return Op("R", s, l, part, reads=tuple(reads), newest=tuple(newest) if any(newest) else (), weights=weights)

    def _attention(self, s: int, part: str) -> Iterator[Op]:
        layers = range(self.header.layers)
        if not self.header.sharded_patches:
            yield from (Op("A", s, l, part) for l in layers)  # noqa: E741
            return
        first = 0
        for l in layers:  # noqa: E741
            read = self.random.randint(max(0, s - 2), s)
            yield from (Op("Q", s, l, part), Op("A", s, l, part, reads=(read,)))
            # what a layer reads of its own step cannot be gathered with that of the layers behind it
            if read == s or l == layers[-1] or self.random.random() < 0.5:
                yield Op("K", s, first, part, last=l if l > first else None)
                first = l + 1


def _for_nothing(schedule: Schedule, random: Random) -> Iterator[Op]:
    """Ops that are done once more, or in vain."""
    for op in schedule.ops:
        if random.random() < 0.1 and op.kind in ("KNEC" if schedule.sharded_experts else "KE"):
            yield op._replace(unused=True)
        if op.kind == "A" and schedule.sharded_experts and random.random() < 0.1:
            slots, asked = (0,), (0,) if schedule.policy and random.random() < 0.5 else ()
            if head := schedule.chain_head(op):  # with a used twin it carries what that carries
                slots, asked = head.slots, head.asked
            for piece in schedule.piece_numbers:
                yield Op("D", op.step, op.layer, op.part, slots, piece=piece, asked=asked, unused=True)


def in_any_order(schedule: Schedule, random: Random) -> Schedule:
    ops = {op.name: op for op in schedule.ops}
    sorter = TopologicalSorter({name: schedule.inputs(op) for name, op in ops.items()})
    sorter.prepare()
    ready, order = [], []
    while sorter.is_active():
        ready += sorter.get_ready()
        order.append(ready.pop(random.randrange(len(ready))))
        sorter.done(order[-1])
    return replace(schedule, ops=tuple(ops[name] for name in order))
