"""Several ranks in one process, on one GPU (or, without one, on a processor): threads with a compute and a
communication stream each, copies as messages, events as dependencies, links of a settable rate.

On a GPU this is the reference for time: true concurrency, and no socket in between; every rank's host is a thread, and
they share the interpreter, so that small ops are host-bound sooner than in processes.  (On a GPU: written without one,
not run.)  On a processor it tests everything but time.  Needs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import torch

from realrun.backend import Pool
from realrun.links import KernelLink, SleepingLink
from realrun.logical import Hall, LogicalRanks
from realrun.rank import RankContext
from realrun.transport import Transport


@dataclass(frozen=True)
class Backend:
    """latency_us: of every transfer over a link that has a rate."""

    latency_us: int = 0
    hall: Hall | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """See realrun.backend.Backend."""
        return f"logical latency_us={self.latency_us}" if self.latency_us else "logical"

    @property
    def link(self) -> str:
        """What comes to a rank."""
        return "port"

    @contextmanager
    def start(self, world: int, timeout_s: float = 60.0) -> Iterator[Pool]:
        """Threads, all on one device.

        A GPU that has not been used yet is told to run as many streams side by side as it can, instead of 8."""
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        yield LogicalRanks(world, timeout_s, device, lambda hall: replace(self, hall=hall))

    def open_streams(
        self, context: RankContext, streams: Sequence[str]
    ) -> AbstractContextManager[dict[str, Transport]]:
        """See realrun.backend.Backend."""
        assert self.hall is not None, "a rank's backend has one"
        return self.hall.open(context.rank, streams, context.lanes)

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """Every communicator has links of its own."""
        assert self.hall is not None, "a rank's backend has one"

        def make() -> KernelLink | SleepingLink | None:
            if bytes_per_s is None or context.world == 1:
                return None
            if context.device.type == "cuda":
                return KernelLink(context.device, bytes_per_s, self.latency_us / 1e6)
            return SleepingLink(bytes_per_s, self.latency_us / 1e6)

        self.hall.throttle(make)
