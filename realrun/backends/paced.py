"""Processes on this machine's processors, over gloo on plain loopback; a rate paces their sockets (realrun/pacing.py).

Every ordered pair of ranks, in every communicator, has a link of its own.  Needs Linux for a rate, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from realrun.backend import Pool
from realrun.pacing import pace
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.transport import Transport, open_streams


@dataclass(frozen=True)
class Backend:
    """See realrun.backend.Backend."""

    name = "paced"
    link = "pair"

    def start(self, world: int, timeout_s: float = 60.0) -> AbstractContextManager[Pool]:
        """A pool of `world` processes, one thread each for matrix products, each on a core if there are enough."""
        return Ranks(world, timeout_s, pin=True, backend=self)

    def open_streams(
        self, context: RankContext, streams: Sequence[str]
    ) -> AbstractContextManager[dict[str, Transport]]:
        """See realrun.backend.Backend."""
        return open_streams(context, streams)

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """Paces every connection that this process has now: call it when all streams are open."""
        if context.world > 1:
            pace(bytes_per_s)
