"""Transfers between GPUs over NCCL, one communicator a stream of the schedule.  (Written without a GPU: not run.)

Rows go by an uneven all-to-all on the communicator's own stream.  Headers go ahead from host to host, over a gloo
group of their own: the host has to know how many rows will come before it can issue the all-to-all, and on the same
communicator they would wait for everything issued before, which is what limits the overlap of the DICE authors'
released code.

Suffixes: as in realrun/transport.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from realrun.lanes import Gpu, Lane, Processor
from realrun.messages import TransferError
from realrun.passage import Passage
from realrun.rank import RankContext
from realrun.transport import Parcel, Pending, Stamps, Transport

_TAG = 3  # entries of a header before the counts


@dataclass
class NcclPending:
    """A transfer under way."""

    parcel: Parcel
    work: Any  # None: nothing but a header
    passage: Passage

    @property
    def stamps(self) -> Stamps:
        """See realrun.transport.Pending."""
        return self.passage.stamps

    def wait(self) -> Parcel:
        """See realrun.transport.Pending.  The current stream waits, not the host."""
        if self.work is not None:
            self.work.wait()
        return self.parcel

    def finish(self) -> None:
        """See realrun.transport.Pending."""
        self.passage.settle()


class NcclTransport:
    """A Transport (realrun/transport.py) over one NCCL communicator; `control` carries headers from host to host."""

    def __init__(self, context: RankContext, rows: dist.ProcessGroup, control: dist.ProcessGroup, name: str) -> None:
        assert isinstance(context.lanes, Gpu)
        self.rank, self.world, self._device = context.rank, context.world, context.lanes
        self._rows, self._control = rows, control
        self._side: Lane = self._device.lane(f"{name}: notes when transfers end")
        self._under_way: list[Passage] = []
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def counts(self, name: str, header: Tensor) -> Pending:
        """See Transport.  Hosts do it: when this returns it has ended."""
        host = Processor()
        passage = Passage(Stamps(), host.here())
        came_WH = self._headers(name, header)
        passage.ended = host.here()
        return self._under_way_as(passage, Parcel(torch.empty(0), came_WH[:, _TAG:], came_WH[:, :_TAG]), None)

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """See Transport.  Without `counted` the host waits for the others' headers."""
        came_WH = self._headers(name, header) if counted is None else _header_of(counted.wait())
        return self._issue(name, rows_RD, header, came_WH)

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """See Transport."""
        came_WH = self._headers(name, header)
        if (found := came_WH[:, _TAG:].sum(dim=1).tolist()) != list(recv_rows):
            raise TransferError(f"{name}: {list(recv_rows)} rows should come from the ranks, not {found}")
        return self._issue(name, rows_RD, header, came_WH)

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """See Transport."""
        to_each = rows_RD.repeat(self.world, *[1] * (rows_RD.ndim - 1))
        return self._issue(name, to_each, header, self._headers(name, header))

    def barrier(self) -> None:
        """See Transport; afterwards the stamps of all transfers are complete."""
        self._device.finish()
        self._side.finish()
        self._headers("barrier", torch.zeros(self.world, _TAG, dtype=torch.int64))
        for passage in self._under_way:
            passage.settle()
        self._under_way.clear()

    def close(self) -> None:
        """See Transport."""
        self._side.close()

    def _connect(self) -> None:
        """A row to everyone: NCCL makes a communicator, and connects two ranks, when they first send, which takes it
        a second or so."""
        rows_W1 = torch.zeros(self.world, 1, device=self._device.device)
        dist.all_to_all_single(torch.empty_like(rows_W1), rows_W1, group=self._rows)
        self._device.finish()

    def _headers(self, name: str, header_WH: Tensor) -> Tensor:
        came_WH = torch.empty_like(header_WH)
        try:
            dist.all_to_all_single(came_WH, header_WH.contiguous(), group=self._control)
        except RuntimeError as error:
            raise TransferError(f"{name}: some rank sent no header: {error}") from error
        return came_WH

    def _issue(self, name: str, rows_RD: Tensor, header_WH: Tensor, came_WH: Tensor) -> NcclPending:
        came, sent = (table[:, _TAG:].sum(dim=1).tolist() for table in (came_WH, header_WH))
        self._side.after(self._device.here())
        passage = Passage(Stamps(), self._side.mark())  # what was issued before has ended, and the rows are there
        came_RD = rows_RD.new_empty((sum(came), *rows_RD.shape[1:]))
        try:
            work = dist.all_to_all_single(came_RD, rows_RD, came, sent, group=self._rows, async_op=True)
        except RuntimeError as error:
            raise TransferError(f"{name}: rank {self.rank} cannot send: {error}") from error
        self._side.do(work.wait)
        for tensor in (rows_RD, came_RD):  # torch lets go of them when the first stream waits, which is this one
            self._side.keeps(tensor)
        passage.ended = self._side.mark()
        row_bytes = rows_RD[:1].nbytes if len(rows_RD) else 0
        sent_bytes = tuple(0 if dst == self.rank else n * row_bytes for dst, n in enumerate(sent))
        passage.carried(sent_bytes, came_RD.nbytes)
        return self._under_way_as(passage, Parcel(came_RD, came_WH[:, _TAG:], came_WH[:, :_TAG], sent_bytes), work)

    def _under_way_as(self, passage: Passage, parcel: Parcel, work: Any) -> NcclPending:
        self._under_way.append(passage)
        return NcclPending(parcel, work, passage)


def _header_of(parcel: Parcel) -> Tensor:
    return torch.cat([parcel.tags, parcel.counts], dim=1)


@contextmanager
def open_communicators(context: RankContext, streams: Sequence[str]) -> Iterator[dict[str, Transport]]:
    """A transport for each communicator, each over an NCCL and a gloo group of its own; all ranks call this alike."""
    names = dict.fromkeys(["communication", *(stream for stream in streams if stream != "compute")])
    timeout, groups = timedelta(seconds=context.timeout_s), []
    transports: dict[str, Transport] = {}
    for name in names:
        rows, control = (dist.new_group(backend=backend, timeout=timeout) for backend in ("nccl", "gloo"))
        groups += [rows, control]
        transports[name] = NcclTransport(context, rows, control, name)
    yield transports
    for transport in transports.values():
        transport.close()
    for group in groups:  # not after a failure: what is still under way there would end in an abort
        dist.destroy_process_group(group)
