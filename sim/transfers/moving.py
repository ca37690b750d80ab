"""A transfer as flows: bytes between pairs of ranks, and what comes before they move.

It knows one part of one collective; it refuses to know clocks and what else is in flight (sim/transfers/sharing.py)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
import numpy.typing as npt

from sim.transfers.fabric import Fabric

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moving:
    """One transfer of a collective: start_ticks, then a flow for each pair of ranks that has bytes; each tick of both
    takes `factor` of the clock, alone."""

    fabric: Fabric
    moved_bytes: Array  # [src, dst]
    start_ticks: float
    moving_ticks: float  # by the closed form
    factor: float
    name: Hashable  # equal for equal transfers
    ranks: tuple[int, ...]  # that take part

    @cached_property
    def flows(self) -> npt.NDArray[np.int64]:
        """Sender and receiver [end, flow] of each pair of ranks that has bytes."""
        return np.array(np.nonzero(self.moved_bytes * self.fabric.weight))

    @cached_property
    def flow_bytes(self) -> Array:
        """[flow], as they count on their way."""
        found: Array = (self.moved_bytes * self.fabric.weight)[self.flows[0], self.flows[1]]
        return found

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """[end, flow]: ranks that are not done before the flow has ended."""
        return self.flows[1:] if self.fabric.receives_only else self.flows

    @cached_property
    def ways(self) -> list[tuple[tuple[int, int], float]]:
        """Of two ranks: (sender, receiver), and how many ticks earlier their bytes have come than the most."""
        a, b = self.ranks
        moved = {(a, b): float(self.moved_bytes[a, b]), (b, a): float(self.moved_bytes[b, a])}
        most = max(moved.values())
        whole = self.moving_ticks * self.factor if most else 0.0
        return [(way, whole * (1 - some / (most or 1.0))) for way, some in moved.items()]

    def pairs(self, ticks_per_s: float) -> Iterator[tuple[frozenset[int], Moving]]:
        """The same by pairs of ranks: what the two send each other, each started up by itself, counts before."""
        start_s = self.fabric.start_s(self.moved_bytes, self.fabric.moving_s(self.moved_bytes))
        counts = self.start_ticks - start_s * ticks_per_s
        for pair in combinations(self.ranks, 2):
            between = np.zeros_like(self.moved_bytes)
            between[pair], between[pair[::-1]] = self.moved_bytes[pair], self.moved_bytes[pair[::-1]]
            moving_s = self.fabric.moving_s(between)
            start = counts + self.fabric.start_s(between, moving_s) * ticks_per_s
            moving = float(moving_s.max()) * ticks_per_s
            yield (
                frozenset(pair),
                replace(self, moved_bytes=between, start_ticks=start, moving_ticks=moving, ranks=pair),
            )

    @cached_property
    def shape(self) -> Hashable:
        """Equal for transfers between the same pairs."""
        return self.flows.tobytes()
