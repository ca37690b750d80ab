"""A policy replayed: which rows it lets travel, and how old what is added gets, from recorded or modelled routing.

The same Ledgers that a real run asks (sim/policy.py) are asked here, token by token, so that ages predicted from
recorded scores are those measured.  It knows tokens; it refuses to know bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.op import Op
from sim.policy import POLICIES, Ledger
from sim.routing import Routing
from sim.schedule import Schedule

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Replay:
    """travelling [step, layer, part, slot, src, expert]: counts of a routing, of the tokens that are sent, if any are.
    ages [step, layer, slot, age]: for how many records, of all ranks, what R adds is so old."""

    travelling: Array
    ages: Numbers

    @property
    def staleness(self) -> Numbers:
        """[step, layer, slot]: the oldest age of any record."""
        steps = self.ages.shape[-1]
        return np.asarray(steps - 1 - np.argmax(self.ages[..., ::-1] > 0, axis=-1), dtype=np.int64)


def replay(schedule: Schedule, routing: Routing, token_numbers: Numbers) -> Replay:
    """`schedule`'s policy over every step; token_numbers [src, token] as in `Workload.token_numbers`.

    Raises ValueError if the policy looks at scores and the routing has none."""
    assert schedule.policy is not None, "without a policy every token is alike"
    if "threshold" in POLICIES[schedule.policy.name] and routing.scores is None:
        need = f"schedule {schedule.name} decides by router scores (policy={schedule.policy.name})"
        raise ValueError(f"{need}, and routing {routing.source} has none: record it on real ranks, or model it")
    ranks, tokens = token_numbers.shape
    if routing.records is not None and (sample := routing.records.experts.shape[3]) != tokens:
        token_numbers = np.arange(ranks * sample).reshape(ranks, sample)  # which of a rank's tokens it is, is not known
    steps, layers, slots = schedule.steps, schedule.layers, schedule.top_k
    travelling = np.zeros((steps, layers, schedule.micro_batches, slots, ranks, routing.counts.shape[-1]))
    ages = np.zeros((steps, layers, slots, steps), dtype=np.int64)
    heads = {op[1:4]: schedule.chain_head(op) for op in schedule.ops if op.kind == "A"}
    adds = {op[1:4]: op for op in schedule.ops if op.kind == "R"}
    for layer in range(layers):
        for number, part in enumerate(schedule.parts):
            tokens = np.array_split(token_numbers, schedule.micro_batches, axis=1)[number]
            chain = _Chain(schedule, routing, layer, number, tokens)
            for step in range(steps):
                if head := heads.get((step, layer, part)):
                    travelling[step, layer, number] = chain.send(head)
                chain.keep(step)
                ages[step, layer] += chain.ages(adds[step, layer, part])
    return Replay(travelling, ages)


class _Chain:
    """The tokens of all ranks in one layer and micro-batch, from step to step."""

    def __init__(self, schedule: Schedule, routing: Routing, layer: int, part: int, tokens: Numbers) -> None:
        self.schedule, self.routing, self.layer, self.part, self.tokens = schedule, routing, layer, part, tokens
        self.ledger = Ledger(schedule.policy, layer, tokens.ravel(), schedule.top_k)
        self.history: list[dict[int, Numbers]] = []  # [step]: slot -> when it last travelled

    def send(self, head: Op) -> Array:
        """Counts [slot, src, expert] of what travels at the step of `head`."""
        experts, scores = self._records(head.step)
        masks = self.ledger.send(head.step, self.schedule.slots_sent(head), head.asked, scores, not head.unused)
        counts = self.routing.at(head.step, self.layer, self.part)
        sent = np.zeros((self.schedule.top_k, len(self.tokens), counts.shape[-1]))
        for slot, mask in masks.items():
            if experts is None or self.routing.records is None:  # by the share of a rank's tokens that travel
                sent[slot] = counts[slot] * mask.reshape(self.tokens.shape).mean(axis=1)[:, None]
            else:
                sent[slot] = self._counted(experts[:, slot], mask, counts.shape[-1]) * self.routing.records.share
        return sent

    def keep(self, step: int) -> None:
        """Remembers when each slot last travelled, at the end of `step`."""
        self.history.append({slot: last.copy() for slot, last in self.ledger.last_N.items()})

    def ages(self, add: Op) -> Numbers:
        """[slot, age]: of how many tokens what `add` adds is so old."""
        found = np.zeros((self.schedule.top_k, self.schedule.steps), dtype=np.int64)
        reads = zip(self.schedule.steps_read(add), self.schedule.reads_newest(add), strict=True)
        for slot, (step, newest) in enumerate(reads):
            age = add.step - (self.history[step][slot] if newest else np.full(self.tokens.size, step))
            found[slot] = np.bincount(age, minlength=self.schedule.steps)
        return found

    def _records(self, step: int) -> tuple[Any, Any]:
        """experts and scores [token of all ranks, slot] of this micro-batch at `step`; None where there are none."""
        if self.routing.records is None:
            return None, None
        experts, scores = self.routing.records.at(step, self.layer)
        return self._mine(experts), self._mine(scores)

    def _mine(self, records: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
        """[token of all ranks, slot] of records [src, token, slot]."""
        if records is None:
            return None
        part = np.array_split(records, self.schedule.micro_batches, axis=1)[self.part]
        return np.broadcast_to(part, (len(self.tokens), *part.shape[1:])).reshape(self.tokens.size, -1)

    def _counted(self, expert_N: npt.NDArray[Any], mask_N: npt.NDArray[np.bool_], number: int) -> Numbers:
        """[src, expert] of the tokens in `mask_N`."""
        src_N = np.repeat(np.arange(len(self.tokens)), self.tokens.shape[1])
        cells = (src_N * number + expert_N.astype(np.int64))[mask_N]
        return np.bincount(cells, minlength=len(self.tokens) * number).reshape(len(self.tokens), number)
