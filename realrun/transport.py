"""Transfers between ranks: what every backend offers, and the backend for processors (gloo).

A transfer is an uneven all-to-all with a header.  The header tells each peer whose tokens these are (step, layer,
part) and how many rows follow for each of its experts; it travels in a message beside the rows, so that whoever
receives them learns their age from them and not from a schedule.  The file knows ranks, rows and their order; it
refuses to know experts, weights and why anything is sent.

Suffixes: W ranks; R rows of any trailing shape D; H = 3 + L entries of a header, for L experts a rank (combine: 1)."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from realrun.ranks import RankContext

_TAG = 3  # entries of a header before the counts: step, layer, part


class TransferError(RuntimeError):
    """A transfer that cannot end.  The message names op and rank: `D3.1: rank 1 closed its connection`."""


@dataclass(frozen=True)
class Parcel:
    """What one rank received in one transfer."""

    rows_RD: Tensor  # contiguous, grouped by the rank that they came from, this rank's own rows among them
    counts: Tensor  # [src, L] int64: rows from each rank, by expert
    tags: Tensor  # [src, 3] int64: (step, layer, part) as each peer wrote them


@dataclass
class Stamps:
    """When a transfer ran, in seconds of time.monotonic(); complete once it has ended.

    They outlive the rows: to keep them for a trace does not keep the buffers."""

    reached_s: float = float("nan")  # it was issued, and everything before it on this rank's stream had ended
    end_s: float = float("nan")  # its last row had come, and its own rows had been taken


class Pending(Protocol):
    """A transfer under way."""

    @property
    def stamps(self) -> Stamps: ...

    def wait(self) -> Parcel:
        """What came.  Blocks the host until it is there (on a GPU: makes the compute stream wait instead).

        May be called any number of times.  Raises TransferError if a peer failed."""


class Transport(Protocol):
    """The communication stream of one rank.

    Transfers are issued without waiting and run in the order of their issue, which must be the same on every rank.
    `name` is the op's (`D3.1`), for errors.  `header` [dst, H] int64 is step, layer and part, then the number of rows
    for each expert of rank dst.  rows_RD is contiguous, grouped by destination, and must not be changed before the
    transfer has ended.  A header or rows of another form raise ValueError."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def counts(self, name: str, header: Tensor) -> Pending:
        """The header alone; the parcel has no rows."""

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """Rows that nobody expects: the header goes ahead and says how many come.

        `counted`, an earlier `counts` with the same header, saves that round trip."""

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """Rows of which this rank knows that recv_rows [src] come: header and rows go together."""

    def barrier(self) -> None:
        """Blocks the host until every rank is here, and with it every transfer issued before has ended."""

    def close(self) -> None:
        """Lets what was issued end or fail, then gives up the stream."""


class GlooPending:
    """A transfer on the stream of a GlooTransport."""

    def __init__(self) -> None:
        self.stamps = Stamps()
        self._ended = threading.Event()
        self._outcome: Parcel | TransferError | None = None

    def wait(self) -> Parcel:
        """What came.  Raises TransferError if a peer failed."""
        self._ended.wait()
        if isinstance(self._outcome, Parcel):
            return self._outcome
        raise TransferError(str(self._outcome)) from self._outcome

    def end(self, outcome: Parcel | TransferError) -> None:
        """Called once, by the stream."""
        self._outcome = outcome
        self.stamps.end_s = time.monotonic()
        self._ended.set()


class _Transfer(NamedTuple):
    name: str
    run: Callable[[], Parcel]
    pending: GlooPending


class GlooTransport:
    """Transfers of CPU tensors over a gloo group, strictly first-in first-out, on one thread of its own.

    That thread is the rank's communication stream: a transfer begins when the one before has ended, and goes on
    while the caller computes.  After a failure every later transfer fails at once, for the same reason.  It runs
    from `with` to the end of the block, or to `close`."""

    def __init__(self, context: RankContext) -> None:
        self.rank, self.world = context.rank, context.world
        self._wire = _Wire(context)
        self._queue: queue.SimpleQueue[_Transfer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="communication", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def counts(self, name: str, header: Tensor) -> Pending:
        """See Transport."""
        self._check(name, header)
        return self._issue(name, partial(self._wire.counts, name, header))

    def dispatch(self, name: str, rows_RD: Tensor, header: Tensor, counted: Pending | None = None) -> Pending:
        """See Transport."""
        self._check(name, header, rows_RD)
        return self._issue(name, partial(self._wire.dispatch, name, rows_RD.detach(), header, counted))

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """See Transport."""
        self._check(name, header, rows_RD)
        if len(recv_rows) != self.world:
            raise ValueError(f"{name}: recv_rows should be {self.world} numbers, not {list(recv_rows)}")
        return self._issue(name, partial(self._wire.combine, name, rows_RD.detach(), header, list(recv_rows)))

    def barrier(self) -> None:
        """See Transport."""
        self.counts("barrier", torch.zeros(self.world, _TAG, dtype=torch.int64)).wait()

    def close(self) -> None:
        """See Transport."""
        self._queue.put(None)
        self._thread.join()

    def _check(self, name: str, header: Tensor, rows_RD: Tensor | None = None) -> None:
        if header.dtype != torch.int64 or header.ndim != 2 or len(header) != self.world or header.shape[1] < _TAG:
            found = f"{header.dtype} {list(header.shape)}"
            raise ValueError(f"{name}: the header should be int64 [{self.world} ranks, 3 or more], not {found}")
        if rows_RD is None:
            return
        due = sum(_row_counts(header))
        if len(rows_RD) != due or rows_RD.device.type != "cpu" or not rows_RD.is_contiguous():
            found = f"{list(rows_RD.shape)} with strides {list(rows_RD.stride())} on {rows_RD.device}"
            raise ValueError(f"{name}: rows should be {due} (says the header), contiguous, on cpu, not {found}")

    def _issue(self, name: str, run: Callable[[], Parcel]) -> Pending:
        if not self._thread.is_alive():
            raise RuntimeError(f"{name}: this transport is closed, or was not opened with `with`")
        pending = GlooPending()
        self._queue.put(_Transfer(name, run, pending))
        return pending

    def _serve(self) -> None:
        """The stream: one transfer after the other, until one fails; from then on none is tried."""
        failure: TransferError | None = None
        while (transfer := self._queue.get()) is not None:
            transfer.pending.stamps.reached_s = time.monotonic()
            outcome = failure or _attempt(transfer)
            failure = outcome if isinstance(outcome, TransferError) else None
            transfer.pending.end(outcome)
            del transfer, outcome  # or the rows of an ended transfer would live until the next is issued


def _attempt(transfer: _Transfer) -> Parcel | TransferError:
    try:
        return transfer.run()
    except TransferError as error:
        return error
    except Exception as error:  # a mistake of ours: `wait` raises it where somebody sees it
        failure = TransferError(f"{transfer.name}: {error!r}")
        failure.__cause__ = error
        return failure


class _Leg(NamedTuple):
    """A message to each peer and one from each; empty ones do not travel."""

    what: str
    channel: int  # gloo's tag
    send: Sequence[Tensor]  # [dst]
    into: Sequence[Tensor]  # [src]


class _Wire:
    """Messages between this rank and its peers; every method returns when they have come and gone.

    Every receive is posted before any send: gloo's notice that a receiver is ready queues behind data on the same
    connection and would make a link half-duplex (an even exchange between 2 ranks then takes 2.0 instead of 1.1
    times the ideal; 2-core machine, November 2026).  The header follows the rows and is waited for first, since
    gloo reports a lost connection at once to receives that have not begun, but only at the timeout to one that is
    under way.  No Work is waited for twice: gloo would hang."""

    def __init__(self, context: RankContext) -> None:
        self._rank, self._group, self._timeout_s = context.rank, context.group, context.timeout_s
        self._peers = [(context.rank + i) % context.world for i in range(1, context.world)]

    def counts(self, name: str, header_WH: Tensor) -> Parcel:
        came_WH = torch.empty_like(header_WH, memory_format=torch.contiguous_format)
        self._run(name, [_Leg("header", 0, header_WH.contiguous().unbind(), came_WH.unbind())])
        return Parcel(torch.empty(0), came_WH[:, _TAG:], came_WH[:, :_TAG])

    def dispatch(self, name: str, rows_RD: Tensor, header_WH: Tensor, counted: Pending | None) -> Parcel:
        came = self.counts(name, header_WH) if counted is None else counted.wait()
        return self.combine(name, rows_RD, header_WH, came.counts.sum(dim=1).tolist())

    def combine(self, name: str, rows_RD: Tensor, header_WH: Tensor, recv_rows: list[int]) -> Parcel:
        came_WH = torch.empty_like(header_WH, memory_format=torch.contiguous_format)
        came_RD = rows_RD.new_empty((sum(recv_rows), *rows_RD.shape[1:]))
        send = torch.split(rows_RD, _row_counts(header_WH))
        rows = _Leg("rows", 1, send, torch.split(came_RD, recv_rows))
        self._run(name, [rows, _Leg("rows", 0, header_WH.contiguous().unbind(), came_WH.unbind())])
        if _row_counts(came_WH) != recv_rows:
            raise TransferError(f"{name}: {recv_rows} rows should come from the ranks, not {_row_counts(came_WH)}")
        return Parcel(came_RD, came_WH[:, _TAG:], came_WH[:, :_TAG])

    def _run(self, name: str, legs: Sequence[_Leg]) -> None:
        what, peer, began_s = "", -1, time.monotonic()
        receives, sends = [], []
        try:
            for leg, peer in itertools.product(legs, self._peers):
                if leg.into[peer].numel():
                    work = self._group.recv([leg.into[peer]], peer, leg.channel)
                    receives.append((f"{leg.what} of", peer, work))
            for leg, peer in itertools.product(legs, self._peers):
                if leg.send[peer].numel():
                    work = self._group.send([leg.send[peer]], peer, leg.channel)
                    sends.append((f"its {leg.what} to reach", peer, work))
            for leg in legs:
                leg.into[self._rank].copy_(leg.send[self._rank])
            for what, peer, work in [*reversed(receives), *sends]:  # noqa: B007  # the error names them
                began_s = time.monotonic()
                work.wait()
        except RuntimeError as error:
            waited_s = time.monotonic() - began_s
            if waited_s < 0.9 * self._timeout_s:
                raise TransferError(f"{name}: rank {peer} closed its connection") from error
            reason = f"rank {self._rank} waited {waited_s:.1f} s for {what} rank {peer}"
            raise TransferError(f"{name}: {reason}") from error


def _row_counts(header_WH: Tensor) -> list[int]:
    counts: list[int] = header_WH[:, _TAG:].sum(dim=1).tolist()
    return counts
