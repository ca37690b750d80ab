"""Transfers between ranks: what every backend offers, and the backend for processors (gloo).

A transfer is an uneven all-to-all, or an all-gather, with a header.  The header tells each peer whose tokens these are
(step, layer, part) and how many rows follow for each of its experts; it travels in a message beside the rows, so that
whoever receives them learns their age from them and not from a schedule.  The file knows ranks, rows and their order;
it refuses to know experts, weights and why anything is sent.

Suffixes: W ranks; R rows of any trailing shape D; H = 3 + L entries of a header, for L experts a rank (combine: 1)."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple, Protocol, Self

import torch
import torch.distributed as dist
from torch import Tensor

from realrun.messages import Leg, Messages, TransferError
from realrun.profile import labelled
from realrun.rank import RankContext
from realrun.turns import at_once

_TAG = 3  # entries of a header before the counts: step, layer, part


@dataclass(frozen=True)
class Parcel:
    """What one rank received in one transfer."""

    rows_RD: Tensor  # contiguous, grouped by the rank that they came from, this rank's own rows among them
    counts: Tensor  # [src, L] int64: rows from each rank, by expert
    tags: Tensor  # [src, 3] int64: (step, layer, part) as each peer wrote them
    sent_bytes: tuple[int, ...] = ()  # [dst]: of the rows that this rank sent over links meanwhile


@dataclass
class Stamps:
    """When a transfer ran, in seconds of time.monotonic(), and how much it carried; complete once it has ended.

    They outlive the rows: to keep them for a trace does not keep the buffers."""

    reached_s: float = float("nan")  # it was issued, and everything before it on this rank's stream had ended
    end_s: float = float("nan")  # its last row had come, and its own rows had been taken
    sent_bytes: tuple[int, ...] = ()  # [dst]: of rows, over links
    came_bytes: int = 0  # of all rows, this rank's own among them


class Pending(Protocol):
    """A transfer under way."""

    @property
    def stamps(self) -> Stamps: ...

    def wait(self) -> Parcel:
        """What came.  Blocks the host until it is there (on a GPU: makes the compute stream wait instead).

        May be called any number of times.  Raises TransferError if a peer failed."""

    def finish(self) -> None:
        """Blocks the host until it has ended, on a GPU too: the stamps are then complete."""


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

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """The same rows to every rank, this one too; as many come from each, in the order of the ranks."""

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

    def finish(self) -> None:
        """See Pending."""
        self.wait()

    def end(self, outcome: Parcel | TransferError) -> None:
        """Called once, by the stream."""
        self._outcome = outcome
        if isinstance(outcome, Parcel):
            self.stamps.sent_bytes, self.stamps.came_bytes = outcome.sent_bytes, outcome.rows_RD.nbytes
        self.stamps.end_s = time.monotonic()
        self._ended.set()


class _Transfer(NamedTuple):
    name: str
    run: Callable[[], Parcel]
    pending: GlooPending


@contextmanager
def open_streams(context: RankContext, streams: Sequence[str]) -> Iterator[dict[str, Transport]]:
    """A transport for each communicator of a schedule's `streams`, by name; "communication" always.

    The first works over the group that all ranks are in anyway; every other has a group, and so connections and a
    thread, of its own: what two of them carry is ordered by nothing but waiting.  All ranks must call this alike."""
    groups = {"communication": context.group}
    for stream in streams:
        if stream != "compute" and stream not in groups:
            with at_once():
                groups[stream] = dist.new_group(backend="gloo", timeout=timedelta(seconds=context.timeout_s))
    with ExitStack() as stack:
        transports = {s: GlooTransport(replace(context, group=group), s) for s, group in groups.items()}
        yield {stream: stack.enter_context(transport) for stream, transport in transports.items()}
    for group in [*groups.values()][1:]:  # not after a failure: what is still under way there would end in an abort
        dist.destroy_process_group(group)


class GlooTransport:
    """Transfers of CPU tensors over a gloo group, strictly first-in first-out, on one thread of its own.

    That thread is the rank's communication stream: a transfer begins when the one before has ended, and goes on
    while the caller computes.  After a failure every later transfer fails at once, for the same reason.  It runs
    from `with` to the end of the block, or to `close`."""

    def __init__(self, context: RankContext, stream: str = "communication") -> None:
        self.rank, self.world = context.rank, context.world
        self._wire = _Wire(context)
        self._queue: queue.SimpleQueue[_Transfer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=stream, daemon=True)

    def __enter__(self) -> Self:
        with at_once():
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
        self._check(name, header)
        self._check_rows(name, rows_RD, sum(_row_counts(header)))
        return self._issue(name, partial(self._wire.dispatch, name, rows_RD.detach(), header, counted))

    def combine(self, name: str, rows_RD: Tensor, header: Tensor, recv_rows: Sequence[int]) -> Pending:
        """See Transport."""
        self._check(name, header)
        self._check_rows(name, rows_RD, sum(_row_counts(header)))
        if len(recv_rows) != self.world:
            raise ValueError(f"{name}: recv_rows should be {self.world} numbers, not {list(recv_rows)}")
        return self._issue(name, partial(self._wire.combine, name, rows_RD.detach(), header, list(recv_rows)))

    def gather(self, name: str, rows_RD: Tensor, header: Tensor) -> Pending:
        """See Transport."""
        self._check(name, header)
        self._check_rows(name, rows_RD, int(header[0, _TAG:].sum()))
        return self._issue(name, partial(self._wire.gather, name, rows_RD.detach(), header))

    def barrier(self) -> None:
        """See Transport."""
        self.counts("barrier", torch.zeros(self.world, _TAG, dtype=torch.int64)).wait()

    def close(self) -> None:
        """See Transport."""
        self._queue.put(None)
        self._thread.join()

    def _check(self, name: str, header: Tensor) -> None:
        if header.dtype != torch.int64 or header.ndim != 2 or len(header) != self.world or header.shape[1] < _TAG:
            found = f"{header.dtype} {list(header.shape)}"
            raise ValueError(f"{name}: the header should be int64 [{self.world} ranks, 3 or more], not {found}")

    @staticmethod
    def _check_rows(name: str, rows_RD: Tensor, due: int) -> None:
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
            with labelled(transfer.name):
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


class _Wire:
    """The forms of a transfer, as messages; every method returns when they have come and gone."""

    def __init__(self, context: RankContext) -> None:
        self._messages = Messages(context)

    def counts(self, name: str, header_WH: Tensor) -> Parcel:
        came_WH = torch.empty_like(header_WH, memory_format=torch.contiguous_format)
        self._messages.exchange(name, [Leg("header", 0, header_WH.contiguous().unbind(), came_WH.unbind())])
        return Parcel(torch.empty(0), came_WH[:, _TAG:], came_WH[:, :_TAG])

    def dispatch(self, name: str, rows_RD: Tensor, header_WH: Tensor, counted: Pending | None) -> Parcel:
        came = self.counts(name, header_WH) if counted is None else counted.wait()
        return self.combine(name, rows_RD, header_WH, came.counts.sum(dim=1).tolist())

    def combine(self, name: str, rows_RD: Tensor, header_WH: Tensor, recv_rows: list[int]) -> Parcel:
        return self._rows(name, torch.split(rows_RD, _row_counts(header_WH)), header_WH, recv_rows)

    def gather(self, name: str, rows_RD: Tensor, header_WH: Tensor) -> Parcel:
        world = len(header_WH)
        return self._rows(name, [rows_RD] * world, header_WH, [len(rows_RD)] * world)

    def _rows(self, name: str, send: Sequence[Tensor], header_WH: Tensor, recv_rows: list[int]) -> Parcel:
        came_WH = torch.empty_like(header_WH, memory_format=torch.contiguous_format)
        came_RD = send[0].new_empty((sum(recv_rows), *send[0].shape[1:]))
        rows = Leg("rows", 1, send, torch.split(came_RD, recv_rows))
        self._messages.exchange(name, [rows, Leg("rows", 0, header_WH.contiguous().unbind(), came_WH.unbind())])
        if _row_counts(came_WH) != recv_rows:
            raise TransferError(f"{name}: {recv_rows} rows should come from the ranks, not {_row_counts(came_WH)}")
        return Parcel(came_RD, came_WH[:, _TAG:], came_WH[:, :_TAG], self._messages.sent_bytes(rows))


def _row_counts(header_WH: Tensor) -> list[int]:
    counts: list[int] = header_WH[:, _TAG:].sum(dim=1).tolist()
    return counts
