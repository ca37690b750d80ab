"""Transfers between ranks that are threads of one process: copies from rank to rank on lanes, in order of issue.

The n-th transfer of every rank on a communicator is one transfer.  The last rank to issue it knows all headers, and
issues for every rank, on that rank's communication lane: wait until the others' rows are ready, copy them, mark the
end.  So nothing waits on the host but for other ranks to *issue*, and what runs when is decided by lanes and marks
alone (realrun/lanes.py).  A link of a settable rate lets what comes to a rank through, first in first out.

Suffixes: as in realrun/transport.py."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import torch
from torch import Tensor

from realrun.lanes import Device, Lane, Mark
from realrun.messages import TransferError
from realrun.passage import Passage
from realrun.transport import Parcel, Pending, Stamps

_TAG = 3  # entries of a header before the counts


class Throttle(Protocol):
    """Makes what a lane does between two calls take as long as a link of a rate would."""

    def begin(self, lane: Lane) -> None:
        """The next work of `lane` is a transfer, when its link is free."""

    def end(self, lane: Lane, moved_bytes: int) -> None:
        """That was it: it holds the link for latency and bytes."""


@dataclass
class Offer:
    """What one rank puts into one transfer, and what comes back.  What it offered is let go when it has been issued."""

    name: str
    rows_RD: Tensor | None  # None: the header alone
    header_WH: Tensor  # int64, on the host
    ready: Mark
    gather: bool = False  # the same rows go to every rank
    issued: threading.Event = field(default_factory=threading.Event)
    passage: Passage = field(default_factory=lambda: Passage(Stamps()))
    parcel: Parcel | None = None
    error: str = ""


class Meeting:
    """One communicator: the transfers of all ranks, by number."""

    def __init__(self, lanes: Sequence[Lane], timeout_s: float, throttle: Throttle | None = None) -> None:
        self.lanes, self.timeout_s, self.throttle = lanes, timeout_s, throttle
        self._lock = threading.Lock()
        self._offers: dict[int, dict[int, Offer]] = {}

    @property
    def world(self) -> int:
        """Number of ranks."""
        return len(self.lanes)

    def offer(self, number: int, rank: int, offer: Offer) -> None:
        """Rank's part of transfer `number`; the last one issues it for all."""
        with self._lock:
            mine = self._offers.setdefault(number, {})
            mine[rank] = offer
            if len(mine) < self.world:
                return
            del self._offers[number]
        offers = [mine[each] for each in range(self.world)]
        if len({each.name for each in offers}) > 1:
            for each in offers:
                each.error = f"ranks issue different transfers: {', '.join(o.name for o in offers)}"
        if not offers[0].error:
            reached = [self._reach(dst, each) for dst, each in enumerate(offers)]
            for dst in range(self.world):
                self._issue(dst, offers, reached)
        for each in offers:
            each.rows_RD = None
            each.issued.set()

    def _reach(self, rank: int, offer: Offer) -> Mark:
        """On the lane of `rank`: its rows are ready, and all that it transferred before has ended."""
        self.lanes[rank].after(offer.ready)
        offer.passage.reached = self.lanes[rank].mark()
        return offer.passage.reached

    def _issue(self, dst: int, offers: Sequence[Offer], reached: Sequence[Mark]) -> None:
        """On dst's lane, when all ranks have reached the transfer: everyone's rows for it, in the order of ranks."""
        lane, mine = self.lanes[dst], offers[dst]
        came_WH = torch.stack([offer.header_WH[dst] for offer in offers])
        for mark in reached:
            lane.after(mark)
        came_RD, sent = torch.empty(0), tuple[int, ...]()
        if mine.rows_RD is not None:
            sources = [_share(offer, dst) for offer in offers]
            came_RD = mine.rows_RD.new_empty((int(came_WH[:, _TAG:].sum()), *mine.rows_RD.shape[1:]))
            self._move(lane, sources, came_RD, dst)
            sent = _sent_bytes(mine, dst)
        mine.parcel = Parcel(came_RD, came_WH[:, _TAG:], came_WH[:, :_TAG], sent)
        mine.passage.carried(sent, came_RD.nbytes)
        mine.passage.ended = lane.mark()

    def _move(self, lane: Lane, sources: Sequence[Tensor], came_RD: Tensor, dst: int) -> None:
        for tensor in (*sources, came_RD):
            lane.keeps(tensor)
        away = sum(rows.nbytes for src, rows in enumerate(sources) if src != dst)
        if self.throttle is not None and away:
            self.throttle.begin(lane)
        lane.do(lambda: _copy(sources, came_RD))
        if self.throttle is not None and away:
            self.throttle.end(lane, away)


def _share(offer: Offer, dst: int) -> Tensor:
    """The rows of an offer that go to rank `dst`."""
    assert offer.rows_RD is not None
    if offer.gather:
        return offer.rows_RD
    ends = offer.header_WH[:, _TAG:].sum(dim=1).cumsum(0).tolist()
    return offer.rows_RD[ends[dst - 1] if dst else 0 : ends[dst]]


def _sent_bytes(offer: Offer, rank: int) -> tuple[int, ...]:
    return tuple(0 if dst == rank else _share(offer, dst).nbytes for dst in range(len(offer.header_WH)))


def _copy(sources: Sequence[Tensor], came_RD: Tensor) -> None:
    with torch.inference_mode():  # of this thread; rows may be tensors that inference made
        torch.cat([*sources], out=came_RD)


class MeetingPending:
    """A transfer under way."""

    def __init__(self, offer: Offer, timeout_s: float, device: Device) -> None:
        self.stamps = offer.passage.stamps
        self._offer, self._timeout_s, self._device = offer, timeout_s, device

    def wait(self) -> Parcel:
        """See realrun.transport.Pending.  Blocks the host until every rank has issued its part, and no longer."""
        parcel, ended = self._issued()
        ended.wait()
        self._device.keeps(parcel.rows_RD)
        return parcel

    def finish(self) -> None:
        """See realrun.transport.Pending."""
        self._issued()
        self._offer.passage.settle()

    def _issued(self) -> tuple[Parcel, Mark]:
        offer = self._offer
        if not offer.issued.wait(self._timeout_s):
            raise TransferError(f"{offer.name}: some rank did not issue it within {self._timeout_s:g} s")
        if offer.error:
            raise TransferError(f"{offer.name}: {offer.error}")
        assert offer.parcel is not None
        assert offer.passage.ended is not None
        return offer.parcel, offer.passage.ended


class MeetingTransport:
    """A Transport (realrun/transport.py) of one rank of a Meeting."""

    def __init__(self, meeting: Meeting, device: Device, rank: int) -> None:
        self.rank, self.world, self._meeting, self._device = rank, meeting.world, meeting, device
        self._number, self._under_way = 0, list[Passage]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def counts(self, name: str, header: Tensor) -> Pending:
        """See Transport."""
        return self._offer(name, None, header)

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """See Transport.  Headers meet on the host, so that nothing is saved by counting before."""
        return self._offer(name, rows_RD, header)

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """See Transport."""
        if len(recv_rows) != self.world:
            raise ValueError(f"{name}: recv_rows should be {self.world} numbers, not {list(recv_rows)}")
        return self._offer(name, rows_RD, header)

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """See Transport."""
        return self._offer(name, rows_RD, header, gather=True)

    def barrier(self) -> None:
        """See Transport; afterwards the stamps of all transfers are complete."""
        pending = self._offer("barrier", None, torch.zeros(self.world, _TAG, dtype=torch.int64))
        pending.wait()
        self._device.finish()
        self._meeting.lanes[self.rank].finish()
        for each in self._under_way:
            each.settle()
        self._under_way.clear()

    def close(self) -> None:
        """See Transport."""
        self._meeting.lanes[self.rank].close()

    def _offer(self, name: str, rows_RD: Tensor | None, header: Tensor, gather: bool = False) -> MeetingPending:
        _check(name, rows_RD, header, self.world, gather)
        rows = None if rows_RD is None else rows_RD.detach()
        offer = Offer(name, rows, header, self._device.here(), gather)
        pending = MeetingPending(offer, self._meeting.timeout_s, self._device)
        self._under_way.append(offer.passage)
        self._meeting.offer(self._number, self.rank, offer)
        self._number += 1
        return pending


def _check(name: str, rows_RD: Tensor | None, header: Tensor, world: int, gather: bool) -> None:
    if header.dtype != torch.int64 or header.ndim != 2 or len(header) != world or header.shape[1] < _TAG:
        found = f"{header.dtype} {list(header.shape)}"
        raise ValueError(f"{name}: the header should be int64 [{world} ranks, 3 or more], not {found}")
    due = int((header[:1] if gather else header)[:, _TAG:].sum())
    if rows_RD is not None and (len(rows_RD) != due or not rows_RD.is_contiguous()):
        raise ValueError(f"{name}: rows should be {due} (says the header), contiguous, not {list(rows_RD.shape)}")
