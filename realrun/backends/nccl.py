"""Processes with a GPU each, over NCCL: dispatch and combine on communicators and streams of their own.

torchrun starts them.  Links are as they are.  (Written without a GPU: not run.)"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from realrun.backend import Pool
from realrun.joined import joined, started_by_torchrun
from realrun.nccl import open_communicators
from realrun.rank import RankContext
from realrun.transport import Transport


@dataclass(frozen=True)
class Backend:
    """See realrun.backend.Backend."""

    name = "nccl"
    link = "port"

    def start(self, world: int, timeout_s: float = 60.0) -> AbstractContextManager[Pool]:
        """The ranks of this torchrun.  Raises ValueError if it did not start this process."""
        if not started_by_torchrun():
            raise ValueError(f"backend nccl: start it by torchrun --nproc-per-node {world}")
        return joined(timeout_s)

    def open_streams(
        self, context: RankContext, streams: Sequence[str]
    ) -> AbstractContextManager[dict[str, Transport]]:
        """See realrun.backend.Backend."""
        return open_communicators(context, streams)

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """Raises ValueError for any rate."""
        if bytes_per_s is not None:
            raise ValueError(f"backend nccl: links of {bytes_per_s:g} bytes/s cannot be made; leave the rate out")
