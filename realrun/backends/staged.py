"""Processes that share one GPU, over gloo: rows go through the host's memory.  The last resort, for correctness.

Every rank is a process on GPU 0 (without one: on the processor, where it is `paced` with a copy); its transfers first
copy rows to the host, which waits until the GPU has made them.  (On a GPU: written without one, not run.)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from realrun.backend import Pool
from realrun.pacing import pace
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.transport import Parcel, Pending, Stamps, Transport, open_streams


@dataclass(frozen=True)
class Backend:
    """See realrun.backend.Backend."""

    name = "staged"
    link = "pair"

    def start(self, world: int, timeout_s: float = 60.0) -> AbstractContextManager[Pool]:
        """A pool of processes on one device."""
        return Ranks(world, timeout_s, backend=self, device="cuda:0" if torch.cuda.is_available() else "cpu")

    @contextmanager
    def open_streams(self, context: RankContext, streams: Sequence[str]) -> Iterator[dict[str, Transport]]:
        """See realrun.backend.Backend."""
        host = replace(context, device=torch.device("cpu"))
        with open_streams(host, streams) as inner:
            yield {name: StagedTransport(transport, context.device) for name, transport in inner.items()}

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """Paces every connection that this process has now."""
        if context.world > 1:
            pace(bytes_per_s)


@dataclass(frozen=True)
class _StagedPending:
    inner: Pending
    device: torch.device

    @property
    def stamps(self) -> Stamps:
        return self.inner.stamps

    def wait(self) -> Parcel:
        parcel = self.inner.wait()
        return replace(parcel, rows_RD=parcel.rows_RD.to(self.device))

    def finish(self) -> None:
        self.inner.finish()


@dataclass(frozen=True)
class StagedTransport:
    """A Transport whose rows are on `device`, over one whose rows are on the host."""

    inner: Transport
    device: torch.device

    @property
    def rank(self) -> int:
        """See Transport."""
        return self.inner.rank

    @property
    def world(self) -> int:
        """See Transport."""
        return self.inner.world

    def counts(self, name: str, header: Tensor) -> Pending:
        """See Transport."""
        return self.inner.counts(name, header)

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """See Transport."""
        return _StagedPending(self.inner.dispatch(name, rows_RD.cpu(), header, counted), self.device)

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """See Transport."""
        return _StagedPending(self.inner.combine(name, rows_RD.cpu(), header, recv_rows), self.device)

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """See Transport."""
        return _StagedPending(self.inner.gather(name, rows_RD.cpu(), header), self.device)

    def barrier(self) -> None:
        """See Transport."""
        self.inner.barrier()

    def close(self) -> None:
        """See Transport."""
        self.inner.close()
