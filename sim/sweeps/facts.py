"""What a point comes to without any clock: ages, bytes on the wire, memory.

With balanced routing, what a rank holds and sends grows in proportion to its tokens, so that one look at a schedule
serves every number of images, image size, wire and dtype.  It knows which facts depend on what; how they follow from a
schedule stands in sim/memory.py and sim/report.py."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.kernels import parameters
from sim.memory import Reserve, channel_bytes, memory
from sim.report import sent_bytes
from sim.schedule import Schedule
from sim.vulnerability import Vulnerability, quality_cost
from sim.workload import Workload

Array = npt.NDArray[np.float64]


class Facts(NamedTuple):
    """mean and oldest age in steps of what is added (over tokens, where a policy decides); of remote keys and values;
    bytes that a rank sends over links in the run, and that the fullest rank needs at once."""

    mean_age_steps: float
    oldest_age_steps: int
    oldest_attention_steps: int
    sent_bytes: float
    memory_bytes: float | Array


@dataclass(frozen=True)
class _Unit:
    """Of one schedule on one workload, an element taking one byte: what grows with tokens, and what does not."""

    ages: tuple[float, int, int]
    sent_rows: float
    growing: float
    channel: float
    tokens: int


class FactBook:
    """Facts of one schedule on many workloads."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._units: dict[Hashable, _Unit] = {}

    def facts(self, workload: Workload, element_bytes: int, channels: float | Array = 2) -> Facts:
        """Facts of `workload`; an element of weights and activations takes element_bytes, a communicator as many
        channels to each peer; of several numbers of channels, memory_bytes is as many.

        Raises ValueError if schedule and workload do not fit each other."""
        workload.fits(self.schedule)
        shape = replace(workload.model, latent=workload.model.patch)
        key = (shape, workload.ranks, workload.mesh, workload.guidance)
        if workload.routing is not None or workload.placement is not None:  # tokens count one by one
            unit = _unit(self.schedule, workload)
        elif key in self._units:
            unit = self._units[key]
        else:
            unit = self._units[key] = _unit(self.schedule, workload)
        share = workload.tokens / unit.tokens
        growing = unit.growing * share * element_bytes
        weights = parameters(workload.model, workload.held_experts(self.schedule)) * element_bytes
        held = weights + growing * (1 + Reserve().slack) + Reserve().context_bytes + channels * unit.channel
        return Facts(*unit.ages, unit.sent_rows * share * workload.row_bytes, held)

    def quality(self, workload: Workload, vulnerability: Vulnerability) -> float | None:
        """The estimated cost of staleness and of few steps; None where nobody knows (stale keys and values)."""
        replay = workload.fits(self.schedule).replay
        try:
            return quality_cost(self.schedule, vulnerability, None if replay is None else replay.ages)
        except ValueError:
            return None


def _unit(schedule: Schedule, workload: Workload) -> _Unit:
    needs = memory(schedule, workload, element_bytes=1).bytes_of
    growing = sum(size for what, size in needs.items() if what not in ("weights", *LIBRARY))
    sent = sum((each for each in sent_bytes(schedule, workload).values()), np.zeros(workload.ranks))
    return _Unit(_ages(schedule, workload), float(sent.mean()) / workload.row_bytes, growing,
                 channel_bytes(schedule, workload), workload.tokens)  # fmt: skip


LIBRARY = ("context", "communicators", "allocator slack", "VAE decoding")


def _ages(schedule: Schedule, workload: Workload) -> tuple[float, int, int]:
    gathered = max((age for step in schedule.attention_staleness() for age in step), default=0)
    played = workload.fits(schedule).replay
    if played is None:
        ages = np.array(schedule.staleness())
        return float(ages.mean()), int(ages.max()), gathered
    steps = np.arange(played.ages.shape[-1])
    return float((played.ages * steps).sum() / played.ages.sum()), int(played.staleness.max()), gathered
