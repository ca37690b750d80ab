"""Search over the order of ops itself, and over micro-batches, slots and forced steps, beyond the named families.

An order is a number for each kind of op, by which it is issued earlier or later than the schedule says; ops then come
in the order of place plus number as far as their inputs allow, so every order can be run (`Schedule.check` says so
again).  Steps of the search change one number, or one setting; what is faster, and whose images are no staler than the
start's, stays.

It knows schedules and a number to be small; it refuses to know how long ops take, which the caller says."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from sim.schedule import Op, Schedule, ScheduleError

KINDS = ("NA", "D", "S", "E", "C", "R")  # what is shifted together
FARTHEST = 12  # ops
SETTINGS: Mapping[str, tuple[object, ...]] = {
    "micro_batches": (1, 2, 3),
    "stride": (0, 4, 5, 8, 10),
    "warm_up": (0, 1, 2),
    "intervals": ("none", "1,2", "1,3", "2,2", "2,4", "3,3"),
    "synchronous": ("none", "deep", "shallow", "staggered"),
}


def reordered(schedule: Schedule, shifts: Mapping[str, float]) -> Schedule:
    """The same ops, each issued `shifts` [kind, or kind and parity of its layer, as "D0"] places later (below 0:
    earlier), as far as what it needs allows."""
    needs, ops = schedule.needs, schedule.ops
    readers: list[list[int]] = [[] for _ in ops]
    for i, inputs in enumerate(needs):
        for j in inputs:
            readers[j].append(i)
    missing = [len(inputs) for inputs in needs]
    ready = [(i + _shift(op, shifts), i) for i, op in enumerate(ops) if not missing[i]]
    heapq.heapify(ready)
    order: list[Op] = []
    while ready:
        _, i = heapq.heappop(ready)
        order.append(ops[i])
        for reader in readers[i]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (reader + _shift(ops[reader], shifts), reader))
    return replace(schedule, ops=tuple(order)).check()


def _shift(op: Op, shifts: Mapping[str, float]) -> float:
    if op.layer is None:
        return 0.0
    return shifts.get(op.kind, 0.0) + shifts.get(f"{op.kind}{op.layer % 2}", 0.0)


@dataclass(frozen=True)
class Candidate:
    """settings of the schedule that is reordered, and by how much each kind is shifted."""

    settings: Mapping[str, object] = field(default_factory=dict)
    shifts: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [f"{key}={value}" for key, value in self.settings.items()]
        moved = [f"{kind}{shift:+g}" for kind, shift in sorted(self.shifts.items()) if shift]
        return " ".join([*words, *moved]) or "as it was"

    def neighbour(self, random: Random, settings: Mapping[str, tuple[object, ...]]) -> Candidate:
        """One setting, or the place of one kind, changed."""
        if settings and random.random() < 0.3:
            key = random.choice([*settings])
            value = random.choice([each for each in settings[key] if each != self.settings.get(key, settings[key][0])])
            usual = value == settings[key][0]
            others = {name: each for name, each in self.settings.items() if name != key}
            return replace(self, settings=others if usual else {**others, key: value})
        kind = random.choice(KINDS)[-1] + random.choice(["", "", "0", "1"])
        shift = random.randint(-FARTHEST, FARTHEST) + 0.5
        return replace(self, shifts={**self.shifts, kind: shift} if shift != 0.5 else {
            name: each for name, each in self.shifts.items() if name != kind})  # fmt: skip


@dataclass(frozen=True)
class Improved:
    """The best so far, and the trial that found it (0: the start).  cost: what must not exceed the start's."""

    candidate: Candidate
    seconds: float
    cost: float
    trial: int


Build = Callable[[Mapping[str, object]], Schedule]


def local_search(
    build: Build,
    timed: Callable[[Schedule], float],
    cost: Callable[[Schedule], float],
    trials: int,
    seed: int,
    settings: Mapping[str, tuple[object, ...]] = SETTINGS,
    earlier: Sequence[Improved] = (),
    done: int = 0,
) -> Iterator[Improved]:
    """The best so far, after the start and after each trial: whatever is faster than all before and costs no more than
    the start does.

    build: the schedule of some settings; raises ValueError where there is none such.  From time to time it goes on
    from the best but one change, or three, so that it can leave a valley.  earlier: what was found in order, of the
    `done` trials of the same search before it was stopped: those are drawn again, neither timed nor told, so that what
    follows is what it would have been."""
    random, first = Random(seed), build({})
    limit = cost(first) * (1 + 1e-9)
    known = {each.trial: each for each in earlier}
    if (best := known.get(0)) is None:
        best = Improved(Candidate(), timed(first), cost(first), 0)
        yield best
    seen = {str(best.candidate)}
    for trial in range(1, trials + 1):
        candidate = best.candidate
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            candidate = candidate.neighbour(random, settings)
        if trial <= done:
            best = known.get(trial, best)
        elif str(candidate) not in seen:
            best = _tried(build, timed, cost, limit, candidate, trial, best)
        seen.add(str(candidate))
        if trial > done:
            yield best


def _tried(
    build: Build, timed: Callable[[Schedule], float], cost: Callable[[Schedule], float], limit: float,
    candidate: Candidate, trial: int, best: Improved,
) -> Improved:  # fmt: skip
    """The candidate, if there is such a schedule, no dearer than `limit` and faster than the best; else the best."""
    try:
        plan = reordered(build(candidate.settings), candidate.shifts)
        if (spent := cost(plan)) > limit or (seconds := timed(plan)) >= best.seconds * (1 - 1e-9):
            return best
    except (ScheduleError, ValueError):
        return best
    return Improved(candidate, seconds, spent, trial)
