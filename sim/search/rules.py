"""Rules of thumb for which half of the layers waits (deep, shallow, staggered), and what a search finds where each
stands.

It knows rules, and how far what was found lies from them; it refuses to know how a search finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.load import load_schedule
from sim.schedule import Schedule
from sim.search.layers import Choice, Found, LayerSearch, Unreached
from sim.search.layerwise import Mode

RULES = ("deep", "shallow", "staggered")


@dataclass(frozen=True, eq=False)
class Rule:
    """Interweaved, with half of the layers synchronous.  waits [layer]: whether it is one of these."""

    name: str
    schedule: Schedule
    waits: tuple[bool, ...]

    def choice(self, modes: Sequence[Mode]) -> Choice | None:
        """The rule as one of `modes` for each layer; None where they cannot say it."""
        wanted = [Mode(stale=not each) for each in self.waits]
        return np.array([modes.index(mode) for mode in wanted]) if {*wanted} <= {*modes} else None


@dataclass(frozen=True, eq=False)
class Stand:
    """Where a rule stands, its cost and timed seconds, and what was found there: as_fast, the least cost that takes no
    longer; at_cost, the fastest that costs no more; None where the search's modes reach neither."""

    rule: str
    seconds: float
    cost: float
    as_fast: Found | None
    at_cost: Found | None


def rules(steps: int, layers: int, top_k: int = 2) -> list[Rule]:
    """The rules of thumb, but those of which a search of layers cannot say anything: a single layer that is stale."""
    plans = [load_schedule("interweaved", steps, layers, top_k=top_k, synchronous=name) for name in RULES]
    ages = [np.array(plan.staleness()) for plan in plans]  # [rule][step, layer, slot]
    found = [Rule(name, plan, tuple((age == 0).all(axis=(0, 2)).tolist()))
             for name, plan, age in zip(RULES, plans, ages, strict=True)]  # fmt: skip
    return [rule for rule in found if rule.waits.count(False) != 1]


def know(search: LayerSearch, some: Sequence[Rule]) -> None:
    """Nothing is found from here on that one of the rules beats, as far as the search's modes can say them."""
    for rule in some:
        if (choice := rule.choice(search.modes)) is not None:
            search.known(choice)


def stand(search: LayerSearch, rule: Rule, cost: float, tries: int = 12) -> Stand:
    """What `search` finds where a rule of that cost stands."""
    seconds = search.timed(rule.schedule)
    return Stand(rule.name, seconds, cost, _reached(search.best, seconds, tries),
                 _reached(search.fastest, cost, tries))  # fmt: skip


def _reached(find: Callable[[float, int], Found], limit: float, tries: int) -> Found | None:
    try:
        return find(limit, tries)
    except Unreached:
        return None


def beyond(found_s: float, cost: float, stands: Sequence[Stand]) -> Iterator[tuple[str, float, float | None]]:
    """(rule, share of its time, share of its cost) by which something found lies above it; below 0: it is better."""
    for each in stands:
        yield each.rule, found_s / each.seconds - 1, cost / each.cost - 1 if each.cost else None
