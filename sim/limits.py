"""Limits of an advice: what is asked of a schedule, and what one misses of it.

It knows numbers and how to tell them apart from a limit; it refuses to know where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sim.sweeps.facts import Facts
from sim.units import readable, told_apart

_DIGITS = 6  # of a limit, as somebody wrote it


@dataclass(frozen=True)
class Limits:
    """What is asked for; None: no limit.  quality: of a vulnerability's distance."""

    mean_age: float | None = None
    quality: float | None = None
    memory_bytes: float | None = None
    latency_s: float | None = None

    def told(self) -> Iterator[str]:
        """A few words each."""
        words = {"mean_age": "mean age", "quality": "quality", "memory_bytes": "memory", "latency_s": "makespan"}
        for name, what in words.items():
            if (value := getattr(self, name)) is not None:
                yield f"{what} at most {readable(name, value, _DIGITS)}"


def missed(limits: Limits, makespan_s: float, facts: Facts, quality: float | None) -> Iterator[str]:
    """Limits that are not kept, and with what: told with digits enough to see it."""
    age, memory_bytes = facts.mean_age_steps, float(facts.memory_bytes)
    if limits.mean_age is not None and age > limits.mean_age:
        yield f"mean age {told_apart('mean_age', age, limits.mean_age, 3)}"
    if limits.mean_age is not None and facts.oldest_attention_steps:
        yield "attention is stale"
    if limits.quality is not None and (quality is None or quality > limits.quality):
        told = "not known" if quality is None else told_apart("quality", quality, limits.quality, 3)
        yield f"quality {told}"
    if limits.memory_bytes is not None and memory_bytes > limits.memory_bytes:
        yield f"memory {told_apart('memory_bytes', memory_bytes, limits.memory_bytes)}"
    if limits.latency_s is not None and makespan_s > limits.latency_s:
        yield "too slow"
