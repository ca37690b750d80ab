"""Transfers between real ranks: what comes, in which order, when, and what is said when it does not come."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from realrun.pacing import CONGESTION, pace
from realrun.rank import RankContext
from realrun.ranks import Ranks, RanksFailed
from realrun.transport import GlooTransport, Parcel, Pending, open_streams
from realrun.turns import at_once

WIDTH, EXPERTS = 3, 2  # of a row; on a rank
MB = 250_000  # elements of fp32

pools = pytest.mark.parametrize("ranks", [1, 2, 4], indirect=True)


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    with Ranks(getattr(request, "param", 2), timeout_s=20) as pool:
        yield pool


def tag(step: int, counts: Tensor) -> Tensor:
    """A header [dst, H]: (step, layer 1, part 0), then counts [dst, expert]."""
    return torch.cat([torch.tensor([[step, 1, 0]]).expand(len(counts), 3), counts], dim=1)


def uneven(world: int) -> Tensor:
    """Rows [src, dst, expert]: 0 to 4, with a rank that sends nothing and a rank that gets nothing from others."""
    counts = torch.randint(0, 5, (world, world, EXPERTS), generator=torch.Generator().manual_seed(7))
    counts[world // 2] = 0
    counts[: world - 1, world - 1] = 0
    return counts


def numbered(sent: Tensor, src: int, dtype: torch.dtype) -> Tensor:
    """Rows that rank src sends, each filled with a number that only it has (below 256: exact in bf16)."""
    number = 60 * src + torch.arange(int(sent.sum()))
    return number[:, None].expand(-1, WIDTH).to(dtype).contiguous()


def there_and_back(context: RankContext, dtype: torch.dtype, count_first: bool) -> list[Parcel]:
    """Rows to their experts and back, as they came."""
    counts = uneven(context.world)
    mine, rows = counts[context.rank], numbered(counts[context.rank], context.rank, dtype)
    with GlooTransport(context) as transport, torch.inference_mode():
        counted = transport.counts("N3.1", tag(3, mine)) if count_first else None
        came = transport.dispatch("D3.1", rows, tag(3, mine), counted).wait()
        header = torch.cat([came.tags, came.counts.sum(dim=1, keepdim=True)], dim=1)
        back = transport.combine("C3.1", came.rows_RD + 1, header, mine.sum(dim=1).tolist())
        return [came, back.wait(), back.wait()]


@pools
@pytest.mark.parametrize("count_first", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_uneven_rows_come_to_their_place(ranks: Ranks, dtype: torch.dtype, count_first: bool) -> None:
    counts = uneven(ranks.world)
    sent = [numbered(counts[src], src, dtype) for src in range(ranks.world)]
    pieces = [torch.split(rows, counts[src].sum(dim=1).tolist()) for src, rows in enumerate(sent)]
    for rank, (came, back, again) in enumerate(ranks.call(there_and_back, dtype, count_first)):
        assert torch.equal(came.rows_RD, torch.cat([piece[rank] for piece in pieces]))
        assert torch.equal(came.counts, counts[:, rank])
        assert came.tags.tolist() == [[3, 1, 0]] * ranks.world
        assert torch.equal(back.rows_RD, sent[rank] + 1)
        assert back.counts.flatten().tolist() == counts[rank].sum(dim=1).tolist()
        assert torch.equal(again.rows_RD, back.rows_RD)
        assert {came.rows_RD.dtype, back.rows_RD.dtype} == {dtype}


def gathered(context: RankContext) -> tuple[Parcel, tuple[int, ...], int]:
    """What came of 3 rows from each rank, and what the stamps say of their bytes."""
    rows = torch.full((3, WIDTH), float(context.rank), dtype=torch.bfloat16)
    with GlooTransport(context) as transport:
        pending = transport.gather("K3.1", rows, tag(3, torch.full((context.world, 1), 3)))
        parcel = pending.wait()
        return parcel, pending.stamps.sent_bytes, pending.stamps.came_bytes


@pools
def test_a_gather_brings_every_rank_the_same_in_the_order_of_the_ranks(ranks: Ranks) -> None:
    row_bytes = 2 * WIDTH
    for rank, (parcel, sent_bytes, came_bytes) in enumerate(ranks.call(gathered)):
        assert parcel.rows_RD[:, 0].tolist() == [float(src) for src in range(ranks.world) for _ in range(3)]
        assert parcel.tags.tolist() == [[3, 1, 0]] * ranks.world
        assert sent_bytes == tuple(0 if dst == rank else 3 * row_bytes for dst in range(ranks.world))
        assert came_bytes == 3 * ranks.world * row_bytes


class Seen(NamedTuple):
    """One transfer: the steps of its tags, and when it was issued, begun and over."""

    steps: list[int]
    issued_s: float
    reached_s: float
    end_s: float


def several(context: RankContext) -> list[Seen]:
    """Rank 0 is late; all issue in a burst."""
    with GlooTransport(context) as transport:
        transport.barrier()
        time.sleep(0.1 if context.rank == 0 else 0)
        pending: list[tuple[float, Pending]] = []
        for step, rows in enumerate([50_000, 1, 10_000, 0]):
            header = tag(step, torch.tensor([[rows]] * context.world))
            issued_s = time.monotonic()
            pending.append((issued_s, transport.dispatch("D", torch.zeros(rows * context.world, 4), header)))
        transport.barrier()
        return [Seen(p.wait().tags[:, 0].tolist(), at_s, p.stamps.reached_s, p.stamps.end_s) for at_s, p in pending]


@pools
def test_transfers_run_one_after_the_other_in_order_of_issue(ranks: Ranks) -> None:
    by_rank = ranks.call(several)
    for seen in by_rank:
        assert [each.steps for each in seen] == [[step] * ranks.world for step in range(4)]
        assert all(each.issued_s <= each.reached_s <= each.end_s for each in seen)
        assert all(before.end_s <= after.reached_s for before, after in pairwise(seen))
    last_s = max(seen[0].reached_s for seen in by_rank)
    assert all(seen[0].end_s >= last_s for seen in by_rank), "rows cannot come before they were sent"


def two_streams(context: RankContext) -> tuple[list[str], bool]:
    """Streams that were opened, and whether what was issued last on one came before what was issued first on the other,
    which rank 0 sends late: only because of it."""
    with open_streams(context, ("compute", "communication", "communication1")) as streams:
        header = tag(0, torch.ones(context.world, 1, dtype=torch.int64))
        rows = torch.zeros(context.world, WIDTH)
        if context.rank:
            slow = streams["communication"].dispatch("D0.0", rows, header)
        quick = streams["communication1"].dispatch("D1.0", rows, header)
        quick.wait()
        if not context.rank:
            slow = streams["communication"].dispatch("D0.0", rows, header)
        slow.wait()
        return [*streams], quick.stamps.end_s < slow.stamps.end_s


def test_communicators_do_not_wait_for_each_other(ranks: Ranks) -> None:
    assert ranks.call(two_streams) == [(["communication", "communication1"], True)] * 2


def paced(context: RankContext, bytes_per_s: float | None) -> tuple[int, float, list[float]]:
    """(links, seconds until the last of several was issued, seconds until each was over): 1 MB for every pair."""
    rows, header = torch.zeros(MB * context.world), tag(0, torch.tensor([[MB]] * context.world))
    with GlooTransport(context) as transport:
        transport.barrier()
        links = pace(bytes_per_s)
        transport.barrier()
        began_s = time.monotonic()
        pending = [transport.combine("C", rows, header, [MB] * context.world) for _ in range(4)]
        issued_s = time.monotonic() - began_s
        ends_s = [p.stamps.end_s - p.stamps.reached_s for p in pending if p.wait()]
        pace(None)
        return links, issued_s, ends_s


@pytest.mark.parametrize(("ranks", "bytes_per_s"), [(2, 12.5e6), (2, 50e6), (3, 12.5e6)], indirect=["ranks"])
def test_a_paced_link_has_its_rate_both_ways_while_the_caller_goes_on(ranks: Ranks, bytes_per_s: float) -> None:
    ideal_s = 4 * MB / bytes_per_s
    for links, issued_s, took_s in ranks.call(paced, bytes_per_s):
        assert links == ranks.world - 1
        assert issued_s < ideal_s, "issuing does not wait for four exchanges"
        assert sum(took_s) > 0.85 * 4 * ideal_s
        assert min(took_s) < 1.5 * ideal_s, "half-duplex links take twice the ideal"


def test_a_link_without_limit_is_fast_again(ranks: Ranks) -> None:
    assert all(min(took_s) < 0.04 for *_, took_s in ranks.call(paced, None))


def test_what_cannot_be_paced() -> None:
    with pytest.raises(ValueError, match=r"bytes_per_s=0 should be at least 1"):
        pace(0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as link:
            assert pace(1e6) == 1
            control = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert control.rstrip(b"\0").decode() == CONGESTION, "no other keeps to a rate that it has not estimated"
            with pytest.raises(RuntimeError, match="nothing to pace"):
                pace(None, skip_ports=[port])


def test_threads_that_transfer_do_not_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[int] = []

    def look() -> None:
        policies.append(os.sched_getscheduler(0))

    def thread() -> None:
        with at_once():
            mine = threading.Thread(target=look)
            mine.start()
        mine.join()
        look()

    thread()
    assert policies in ([os.SCHED_RR, os.SCHED_OTHER], [os.SCHED_OTHER] * 2)  # as far as this process may
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    thread()
    assert policies[2:] == [os.SCHED_OTHER] * 2


def forbidden(*_: object) -> None:
    raise PermissionError


def fail_under_way(context: RankContext, how: str, moment: str) -> None:
    """Rank 1 gets a signal before or in the middle of a transfer; rank 0 says what it was told, and when."""
    rows, header = torch.zeros(32 * MB), tag(3, torch.tensor([[16 * MB], [16 * MB]]))
    with GlooTransport(context) as transport:
        transport.barrier()
        pace(80 * MB)  # so that 16 MB take 0.8 s; the kernel itself would still send the last few MB of a dead rank
        if context.rank == 1 and moment == "before":
            os.kill(os.getpid(), signal.Signals[how])
        pending, behind = transport.dispatch("D3.1", rows, header), transport.counts("N3.2", header)
        time.sleep(0.2)
        if context.rank == 1:
            os.kill(os.getpid(), signal.Signals[how])
        with pytest.raises(RuntimeError) as first:
            pending.wait()
        began_s = time.monotonic()
        for late in (behind, transport.counts("N3.3", header)):
            with pytest.raises(RuntimeError, match=f"^{first.value}$"):
                late.wait()
        assert time.monotonic() - began_s < 0.1, "after a failure nothing is tried"
        raise first.value


@pytest.mark.parametrize(
    ("how", "moment", "message"),
    [
        ("SIGKILL", "before", "D3.1: rank 1 closed its connection"),
        ("SIGKILL", "amid", "D3.1: rank 1 closed its connection"),
        ("SIGSTOP", "before", r"D3.1: rank 0 waited 1.\d s for header of rank 1"),
        ("SIGSTOP", "amid", r"D3.1: rank 0 waited 1.\d s for rows of rank 1"),
    ],
)
def test_an_error_names_the_op_and_the_rank(how: str, moment: str, message: str) -> None:
    with (
        Ranks(2, timeout_s=1) as ranks,
        pytest.raises(RanksFailed, match=f"rank 0: TransferError: {message}; rank 1: "),
    ):
        ranks.call(fail_under_way, how, moment)


def after_the_end(context: RankContext) -> None:
    with GlooTransport(context) as transport:
        transport.barrier()
    transport.close()
    with pytest.raises(RuntimeError, match=r"barrier: this transport is closed"):
        transport.barrier()


def test_a_closed_transport_does_not_hang(ranks: Ranks) -> None:
    ranks.call(after_the_end)


def misuse(context: RankContext, how: str) -> None:
    header = tag(0, torch.tensor([[1], [2]]))
    with GlooTransport(context) as transport:
        if how == "rows":
            transport.dispatch("D3.1", torch.zeros(4, 2), header)
        if how == "strides":
            transport.dispatch("D3.1", torch.zeros(2, 3).T, header)
        if how == "header":
            transport.counts("N3.1", header[:1])
        transport.combine("C3.1", torch.zeros(3, 2), header, [3])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("rows", r"D3.1: rows should be 3 \(says the header\), contiguous, on cpu, not \[4, 2\] with strides \[2, 1\]"),
        ("strides", r"D3.1: rows should be 3 .* not \[3, 2\] with strides \[1, 3\]"),
        ("header", r"N3.1: the header should be int64 \[2 ranks, 3 or more\], not torch.int64 \[1, 4\]"),
        ("due", r"C3.1: recv_rows should be 2 numbers, not \[3\]"),
    ],
)
def test_misuse_is_shown(ranks: Ranks, how: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks.call(misuse, how)
