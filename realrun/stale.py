"""Schedules in which only what one names is stale: for measuring what each part's staleness costs.

They wait for every all-to-all and then do not use it: nobody would run them for their speed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sim.schedule import Schedule


class Ages(NamedTuple):
    """Of what one R adds: each slot's outputs, best first, and the router weights.  In steps; at most as many as there
    have been."""

    slots: tuple[int, ...]
    weights: int


def with_ages(name: str, steps: int, layers: int, ages: Callable[[int, int], Ages], top_k: int = 2) -> Schedule:
    """Synchronous but for the ages(step, layer) of what is added."""
    rows = [
        f"P{s} {' '.join(_cell(s, layer, ages(s, layer)) for layer in range(layers))} F{s} Z{s}" for s in range(steps)
    ]
    header = f"{name} steps={steps} layers={layers} top_k={top_k}"
    return Schedule.parse("\n".join([header, *rows])).trimmed().check()


def _cell(s: int, l: int, ages: Ages) -> str:  # noqa: E741
    reads = ",".join(str(max(0, s - age)) for age in ages.slots)
    weights = max(0, s - ages.weights)
    return f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{reads}@{weights}"
