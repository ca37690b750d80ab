"""Layers, each with a mode of its own: synchronous or interweaved, and how often each slot travels.

    layerwise(50, [Mode(False), Mode(True), Mode(True, (1, 2))])     layer 0 waits; of layer 2 the second-best expert
                                                                     travels every second step
    Mode.parse("stale 1,2"), str(mode)

What a mode costs in age does not depend on the other layers' modes, which is what makes a search over all of them
possible (sim/search/layers.py).  It knows schedules; it refuses to know how long they take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.passes import sent_when
from sim.schedule import Schedule, ScheduleError
from sim.schedules import interweaved, sync


@dataclass(frozen=True, order=True)
class Mode:
    """stale: interweaved, else synchronous.  intervals: steps after which each slot travels again, best first; (): all
    travel always."""

    stale: bool
    intervals: tuple[int, ...] = ()

    def __str__(self) -> str:
        return " ".join(["stale" if self.stale else "sync", *filter(None, [",".join(map(str, self.intervals))])])

    @staticmethod
    def parse(text: str) -> Mode:
        """The mode that `sync`, `stale` or `stale 1,2` writes.  Raises ScheduleError for anything else."""
        found = re.fullmatch(r"(sync|stale)(?: +([1-9][0-9]*(?:,[1-9][0-9]*)*))?", text.strip())
        if found is None:
            raise ScheduleError(f"cannot read the mode {text!r}; it is written like sync, stale or stale 1,2")
        intervals = tuple(map(int, found[2].split(","))) if found[2] else ()
        return Mode(found[1] == "stale", intervals if {*intervals} != {1} else ())

    def interval(self, slot: int) -> int:
        """Steps after which `slot` travels again."""
        return self.intervals[slot] if self.intervals else 1


def layerwise(steps: int, modes: Sequence[Mode], top_k: int = 2, name: str = "layerwise") -> Schedule:
    """A schedule of which each layer has its mode; step 0 is synchronous, and every slot travels.

    Raises ScheduleError for intervals that are not of `top_k` slots, and for a single stale layer: interweaving takes
    two, one after the other."""
    for layer, mode in enumerate(modes):
        if mode.intervals and len(mode.intervals) != top_k:
            raise ScheduleError(f"layer {layer}: mode {mode} should have top_k={top_k} intervals")
    waits = [layer for layer, mode in enumerate(modes) if not mode.stale]
    if len(waits) == len(modes) - 1:
        raise ScheduleError(f"layer {modes.index(max(modes))} alone is stale: interweaving takes two layers at least")
    if len(waits) == len(modes):
        plain = sync(steps, len(modes), top_k=top_k)
    else:
        synchronous = ",".join(map(str, waits)) or "none"
        plain = interweaved(steps, len(modes), top_k=top_k, synchronous=synchronous)
    made = sent_when(plain, lambda step, layer, slot: step % modes[layer].interval(slot) == 0)
    return replace(made, name=name).trimmed().check()


def mean_ages(steps: int, mode: Mode, top_k: int = 2) -> npt.NDArray[np.float64]:
    """[step, kind] age in steps of what a layer of that mode adds: of each slot's outputs, then of the router weights;
    the last of them as carried, the age of the newest slot's base step."""
    probe = layerwise(steps, [mode] * 2, top_k)
    found = np.zeros((steps, top_k + 1))
    found[:, :-1] = np.array(probe.staleness())[:, 0]
    for op in probe.ops:
        if op.kind == "R" and op.layer == 0:
            found[op.step, -1] = op.step - probe.weights_step(op)
    return found
