"""Ranks that are threads of one process, each with lanes of its own (realrun/lanes.py): the pool, and where they meet.

The file knows how threads begin, fail and end, and which communicators they share; what is sent is realrun/meeting.py's
business."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from realrun.lanes import Device, Lane, own_stream
from realrun.meeting import Meeting, MeetingTransport, Throttle
from realrun.rank import RankContext
from realrun.ranks import RanksFailed
from realrun.transport import Transport

if TYPE_CHECKING:
    from realrun.backend import Backend

T = TypeVar("T")


class Hall:
    """Where the ranks of one process open communicators together."""

    def __init__(self, world: int, timeout_s: float) -> None:
        self.world, self.timeout_s = world, timeout_s
        self._barrier = threading.Barrier(world, timeout=timeout_s)
        self._lanes: dict[str, dict[int, Lane]] = {}
        self._meetings: dict[str, Meeting] = {}

    @contextmanager
    def open(self, rank: int, streams: Sequence[str], device: Device) -> Iterator[dict[str, Transport]]:
        """A transport for each communicator; all ranks call this alike."""
        names = dict.fromkeys(["communication", *(s for s in streams if s != "compute")])
        self.meet()
        for name in names:
            self._lanes.setdefault(name, {})[rank] = device.lane(f"{name} of rank {rank}")
        if self.meet() == 0:
            lanes = {name: [self._lanes[name][r] for r in range(self.world)] for name in names}
            self._meetings = {name: Meeting(lanes[name], self.timeout_s) for name in names}
            self._lanes = {}
        self.meet()
        transports = {name: MeetingTransport(self._meetings[name], device, rank) for name in names}
        try:
            yield dict(transports)
        finally:
            for transport in transports.values():
                transport.close()

    def throttle(self, make: Callable[[], Throttle | None]) -> None:
        """Gives every open communicator a throttle of its own; all ranks call this alike."""
        if self.meet() == 0:
            for meeting in self._meetings.values():
                meeting.throttle = make()
        self.meet()

    def meet(self) -> int:
        """Blocks until all ranks are here; a number of its own for each.  Raises RuntimeError if one does not come."""
        try:
            return self._barrier.wait()
        except threading.BrokenBarrierError:
            raise RuntimeError(f"some rank did not come within {self.timeout_s:g} s, or failed") from None

    def leave(self) -> None:
        """Nobody waits any longer: a rank has failed."""
        self._barrier.abort()


class LogicalRanks:
    """A pool (realrun.backend.Pool) of threads.  Every call is a fresh start for all of them."""

    leads = True

    def __init__(self, world: int, timeout_s: float, device: torch.device, backend: Callable[[Hall], Backend]) -> None:
        if world < 1:
            raise ValueError(f"world={world} should be at least 1")
        self.world, self.timeout_s, self._device, self._backend = world, timeout_s, device, backend
        self._streams = [own_stream(device) for _ in range(world)]  # memory is kept by stream: for all calls the same
        self._kept: list[dict[Hashable, Any]] = [{} for _ in range(world)]

    def call(self, function: Callable[..., T], *args: Any) -> list[T]:
        """See Pool.  One function at a time; a rank that fails lets the others wait for a timeout at most."""
        hall = Hall(self.world, self.timeout_s)
        answers: dict[int, T] = {}
        errors: dict[int, BaseException] = {}

        def work(rank: int) -> None:
            context = RankContext(
                rank, self.world, self.timeout_s, self._device, None, self._backend(hall), self._kept[rank]
            )
            try:
                with self._streams[rank]:
                    answers[rank] = function(context, *args)
            except BaseException as error:  # whatever it is, the caller wants to know
                errors[rank] = error
                hall.leave()

        threads = [
            threading.Thread(target=work, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(self.world)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            _raise(errors, self.world)
        return [answers[rank] for rank in range(self.world)]


def _raise(errors: dict[int, BaseException], world: int) -> None:
    said = {str(error) for error in errors.values() if isinstance(error, ValueError)}
    happened = {r: f"{type(e).__name__}: {e}" if (e := errors.get(r)) else "finished" for r in range(world)}
    failure = RanksFailed(happened, {})
    failure.__cause__ = next(iter(errors.values()))
    if len(errors) == world and len(said) == 1 and all(isinstance(e, ValueError) for e in errors.values()):
        raise ValueError(said.pop()) from failure
    raise failure
