"""What is asked of an advice, and an option: one schedule on the machine, with all that speaks for it and against it.

It knows what a schedule came to; it refuses to know which are looked at and which is best (sim/advise.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster
from sim.limits import Limits
from sim.schedule import Schedule
from sim.sweeps.facts import Facts
from sim.vulnerability import Vulnerability
from sim.workload import WIRES, Workload

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Option:
    """One schedule on the machine: seconds [draw], the first undrawn; why it is here; what speaks against it."""

    name: str
    why: str
    schedule: Schedule
    workload: Workload
    seconds: Array
    engine: str
    facts: Facts
    quality: float | None
    against: tuple[str, ...]

    @property
    def makespan_s(self) -> float:
        """With the cluster's numbers as they stand."""
        return float(self.seconds[0])

    @property
    def interval_s(self) -> tuple[float, float]:
        """The middle 90 % of draws."""
        low, high = np.quantile(self.seconds, [0.05, 0.95])
        return float(low), float(high)

    @property
    def images_per_s(self) -> float:
        """Of all ranks."""
        return self.workload.images_in_all / self.makespan_s

    @property
    def source(self) -> str:
        """What `load_schedule` reads: the name without the wire or the steps that stand after it."""
        return self.name.partition(", ")[0]

    @property
    def unpriced(self) -> tuple[str, ...]:
        """What of it costs images something that is in none of its numbers."""
        costs = {
            "rounded rows": rounds(self.workload, self.facts),
            "stale keys and values": self.facts.oldest_attention_steps > 0,
            "fewer steps": self.why == "fewer steps" and self.quality is None,
        }
        return tuple(what for what, costly in costs.items() if costly)

    def in_time(self, latency_s: float) -> float:
        """Share of draws in which it takes no longer."""
        return float(np.mean(self.seconds <= latency_s))

    def faster_than(self, other: Option) -> float:
        """Share of draws in which it is; ties count half."""
        return float(np.mean((self.seconds < other.seconds) + 0.5 * (self.seconds == other.seconds)))


@dataclass(frozen=True)
class Asked:
    """Who asks for what.  also: sources of further candidates; draws: factors by setting (sim/inputs.py)."""

    workload: Workload
    cluster: Cluster
    steps: int
    limits: Limits
    draws: Mapping[str, Array]
    vulnerability: Vulnerability | None = None
    also: tuple[str, ...] = ()


def rounds(workload: Workload, facts: Facts) -> bool:
    """Whether anything travels that is rounded to a byte an element."""
    return WIRES[workload.wire].element_bytes == 1 and facts.sent_bytes > 0
