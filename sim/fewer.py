"""Fewer steps: how many a schedule may take to keep what is asked of it.

Three questions.  Of synchronous steps: how many does the latency of each stale schedule pay for?  Of schedules that are
too slow: what are the most steps in time?  Of those that lose less than they may: what are the fewest that still do?
Makespans grow with steps and distances fall with them, so that steps are sought from a guess by proportion; what is
found keeps its limit by its own numbers.  It knows steps; it refuses to know what is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache
from math import ceil

from sim.limits import missed
from sim.load import load_for
from sim.option import Asked, Option
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.sweeps.facts import FactBook
from sim.vectorised.engines import Case, evaluate

SOUGHT = 5  # schedules whose steps are sought for a limit: those that promise most


def fewer_steps(asked: Asked, options: Sequence[Option], tell: Callable[[str], None]) -> list[tuple[str, Schedule]]:
    """(source, schedule) of fewer steps than asked for, each once; of named schedules: a text has the steps it has."""
    shorter = _Shorter(asked, tell)
    found = [*_paid_for(asked, options, shorter), *_within(asked, options, shorter)]
    return [(source, shorter.plan(source, steps)) for source, steps in dict.fromkeys(found)]


def shortened(source: str, steps: int) -> str:
    """What a schedule of so many steps is called beside those that have them all."""
    return f"{source}, {steps} step{'s' if steps > 1 else ''}"


class _Shorter:
    """What becomes of a schedule of fewer steps: each is found once.  The machine's numbers are as they stand."""

    def __init__(self, asked: Asked, tell: Callable[[str], None]) -> None:
        self._asked, self._tell = asked, tell
        self.plan = cache(self._plan)
        self._makespan_s = cache(self._found_makespan_s)

    def in_time(self, source: str, steps: int, latency_s: float) -> bool:
        """False, too, where there is no such schedule."""
        return self._makespan_s(source, steps) <= latency_s

    def good(self, source: str, steps: int, limit: float) -> bool:
        """Whether it loses no more than `limit`; False, too, where there is no such schedule."""
        try:
            plan = self.plan(source, steps)
        except ValueError:  # a stride of more steps than there are
            return False
        assert self._asked.vulnerability is not None
        quality = FactBook(plan).quality(self._asked.workload, self._asked.vulnerability)
        return quality is not None and quality <= limit

    def _plan(self, source: str, steps: int) -> Schedule:
        self._tell(shortened(source, steps))
        return load_for(source, steps, self._asked.workload.model)

    def _found_makespan_s(self, source: str, steps: int) -> float:
        try:
            plan = self.plan(source, steps)
        except ValueError:
            return float("inf")
        outcome = evaluate(Case(plan, self._asked.workload, asdict(self._asked.cluster), 1))
        return float("inf") if outcome.error[0] is not None else float(outcome.makespan_s[0])


def furthest_kept(keeps: Callable[[int], bool], guess: int, steps: range) -> int | None:
    """The last of `steps` that keeps a limit which those before it keep, too; None if not even the first does.  Sought
    from `guess`, which may be wrong."""
    if not steps:
        return None
    at = steps.index(min(max(guess, min(steps)), max(steps)))
    if not keeps(steps[at]):
        return next((few for few in reversed(steps[:at]) if keeps(few)), None)
    while at + 1 < len(steps) and keeps(steps[at + 1]):
        at += 1
    return steps[at]


def _paid_for(asked: Asked, options: Sequence[Option], shorter: _Shorter) -> Iterator[tuple[str, int]]:
    """Synchronous steps, as many as the latency of each stale schedule within limits pays for."""
    sync = next((option for option in options if option.name == "sync"), None)
    paying = [option.makespan_s for option in options if option.why == "stale" and not option.against]
    for latency_s in paying:
        if sync is not None and latency_s < sync.makespan_s and (few := _most(asked, sync, latency_s, shorter)):
            yield sync.source, few


def _within(asked: Asked, options: Sequence[Option], shorter: _Shorter) -> Iterator[tuple[str, int]]:
    """The fewest steps of each that keep the limit of quality; or else the most that keep that of latency."""
    quality, latency_s = asked.limits.quality, asked.limits.latency_s
    for option in _promising(asked, options):
        few = None
        if quality is not None:
            few = _fewest(asked, option, quality, shorter)
        elif latency_s is not None and option.makespan_s > latency_s:
            few = _most(asked, option, latency_s, shorter)
        if few:
            yield option.source, few


def _promising(asked: Asked, options: Sequence[Option]) -> list[Option]:
    """sync, and others whose makespan times quality is least: the one goes with steps, the other against them, so that
    the product says what a limit of either will cost.  Where no quality is known, exact ones: they lose alike."""
    others = replace(asked.limits, latency_s=None, quality=None)
    able = [
        option
        for option in options
        if option.source.split()[0] in SCHEDULES
        and option.why != "fewer bytes"
        and (option.quality is not None or option.why == "exact")
        and not any(missed(others, option.makespan_s, option.facts, option.quality))
    ]
    return sorted(able, key=lambda option: (option.name != "sync", option.makespan_s * (option.quality or 1)))[:SOUGHT]


def _most(asked: Asked, option: Option, latency_s: float, shorter: _Shorter) -> int | None:
    guess = int(latency_s / option.makespan_s * asked.steps)
    return furthest_kept(lambda few: shorter.in_time(option.source, few, latency_s), guess, range(1, asked.steps))


def _fewest(asked: Asked, option: Option, limit: float, shorter: _Shorter) -> int | None:
    """None if all steps are not enough."""
    if option.quality is None or option.quality > limit:
        return None
    guess = ceil(option.quality / limit * asked.steps) if limit else asked.steps
    return furthest_kept(lambda few: shorter.good(option.source, few, limit), guess, range(asked.steps - 1, 0, -1))
