"""A transport that moves nothing: what a rank sends comes back to it at once, as if every peer had sent the same.

With it the runner computes what it always computes, in its own order and with warm and cold caches as they fall, and
never waits: so compute ops are timed alone, on the very code that a real run takes.  The numbers computed are not
those of a real run; the rows, and so the work, are as many as if each rank's tokens were this rank's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from realrun.transport import Parcel, Pending, Stamps


@dataclass(frozen=True)
class _Arrived:
    """A transfer that took no time."""

    parcel: Parcel
    stamps: Stamps

    def wait(self) -> Parcel:
        return self.parcel


class EchoTransport:
    """A Transport without peers, of one rank of a world."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def counts(self, name: str, header: Tensor) -> Pending:
        return self._arrive(torch.empty(0), header)

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """This rank's rows for its own experts, once from every rank."""
        ends = header[:, 3:].sum(dim=1).cumsum(0).tolist()
        start = ends[self.rank - 1] if self.rank else 0
        return self._arrive(rows_RD[start : ends[self.rank]].repeat(self.world, 1), header)

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """As many rows as are due; which ones does not matter."""
        due, have = sum(recv_rows), max(len(rows_RD), 1)
        rows = rows_RD.repeat(-(-due // have), 1)[:due] if len(rows_RD) else rows_RD.new_zeros(due, rows_RD.shape[1])
        return self._arrive(rows, header)

    def barrier(self) -> None:
        """Nobody to meet."""

    def close(self) -> None:
        """Nothing to give up."""

    def _arrive(self, rows_RD: Tensor, header: Tensor) -> Pending:
        now_s = time.monotonic()
        mine = header[self.rank].expand(self.world, -1)
        return _Arrived(Parcel(rows_RD.contiguous(), mine[:, 3:], mine[:, :3]), Stamps(now_s, now_s))
