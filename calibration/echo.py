"""A transport that moves nothing: what a rank sends comes back to it at once, as if every peer had sent the same.

With it the runner computes what it always computes, in its own order and with warm and cold caches as they fall, and
never waits: so compute ops are timed alone, on the very code that a real run takes.  Each collective is posted, with
nobody to wait for, on a real stream, so that what posting costs is seen.  The numbers computed are not
those of a real run; the rows, and so the work, are as many as if each rank's tokens were this rank's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realrun.transport import Parcel, Pending, Stamps, Transport


@dataclass(frozen=True)
class _Arrived:
    """A transfer that took no time.  The rows are made when they are asked for: not where collectives are posted."""

    make: Callable[[], Parcel]
    posted: Pending

    @property
    def stamps(self) -> Stamps:
        return self.posted.stamps

    def wait(self) -> Parcel:
        return self.make()

    def finish(self) -> None:
        self.posted.finish()


class EchoTransport:
    """A Transport of one rank of a world, without peers; collectives are posted on `stream`, of a world of one."""

    def __init__(self, rank: int, world: int, stream: Transport) -> None:
        self.rank, self.world, self._stream = rank, world, stream

    def counts(self, name: str, header: Tensor) -> Pending:
        return self._arrive(name, header, lambda: torch.empty(0))

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """This rank's rows for its own experts, once from every rank."""

        def rows() -> Tensor:
            ends = header[:, 3:].sum(dim=1).cumsum(0).tolist()
            start = ends[self.rank - 1] if self.rank else 0
            return rows_RD[start : ends[self.rank]].repeat(self.world, 1)

        return self._arrive(name, header, rows)

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """As many rows as are due; which ones does not matter."""
        due, have = sum(recv_rows), len(rows_RD)
        return self._arrive(
            name,
            header,
            lambda: rows_RD.repeat(-(-due // have), 1)[:due] if have else rows_RD.new_zeros(due, rows_RD.shape[1]),
        )

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """This rank's rows, once from every rank."""
        return self._arrive(name, header, lambda: rows_RD.repeat(self.world, 1))

    def barrier(self) -> None:
        """Nobody to meet, but what was posted has ended."""
        self._stream.barrier()

    def close(self) -> None:
        """Nothing to give up."""

    def _arrive(self, name: str, header: Tensor, rows: Callable[[], Tensor]) -> Pending:
        mine = header[self.rank].expand(self.world, -1)
        posted = self._stream.counts(name, header[self.rank : self.rank + 1])
        return _Arrived(lambda: Parcel(rows().contiguous(), mine[:, 3:], mine[:, :3]), posted)
