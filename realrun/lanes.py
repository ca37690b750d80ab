"""Lanes: what runs in order, beside other lanes.  A stream of a GPU is one; a thread stands in for it on a processor.

A lane does pieces of work one after the other; a mark passes when all that was given to its lane before has been done;
a lane can be told to wait for a mark of another.  The file knows order and time; it refuses to know what is done.

The stand-in is no slower model of a GPU: it exists so that everything built on lanes is tested without one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

_TRIES = 8  # to read two clocks at once


class Mark(Protocol):
    """A moment in a lane."""

    def wait(self) -> None:
        """The caller goes on after it: a processor's thread blocks, a GPU's current stream waits."""

    def finish(self) -> None:
        """Blocks the host until it has passed."""

    def at_s(self) -> float:
        """When it passed, in seconds of time.monotonic(); only to be asked when it has."""


class Lane(Protocol):
    """See the file's docstring."""

    def do(self, work: Callable[[], None]) -> None:
        """Gives it work, which is done some time after all that it was given before."""

    def after(self, mark: Mark) -> None:
        """What it is given from now on is done after `mark`."""

    def mark(self) -> Mark:
        """Passes when all that it was given so far has been done."""

    def keeps(self, tensor: Tensor) -> None:
        """Its work uses `tensor`, which other lanes must not overwrite before, even if nobody else holds it."""

    def finish(self) -> None:
        """Blocks the host until all its work has been done.  Raises what the work raised."""

    def close(self) -> None:
        """Lets it end."""


class Device(Protocol):
    """Where lanes come from."""

    def lane(self, name: str) -> Lane:
        """A new one."""

    def here(self) -> Mark:
        """This moment of the caller's own lane: after all that it has issued."""

    def keeps(self, tensor: Tensor) -> None:
        """The caller's own lane uses `tensor`, which another made."""

    def finish(self) -> None:
        """Blocks the host until the caller's own lane is empty."""

    def align(self) -> None:
        """Sets its clock by the host's; marks made from now on go by that."""


# ------------------------------------------------------------------------------------------- processors


class _Now(NamedTuple):
    """A mark that has passed."""

    seconds: float

    def wait(self) -> None:
        """It has passed."""

    def finish(self) -> None:
        """It has passed."""

    def at_s(self) -> float:
        return self.seconds


class _Passed:
    """A mark of a processor's lane."""

    def __init__(self) -> None:
        self._event, self._at_s = threading.Event(), float("nan")

    def settle(self) -> None:
        self._at_s = time.monotonic()
        self._event.set()

    def wait(self) -> None:
        self._event.wait()

    def finish(self) -> None:
        self.wait()

    def at_s(self) -> float:
        return self._at_s


class ThreadLane:
    """A thread that does what it is given, in order.  delay_s: before each piece of work, to try other orders."""

    def __init__(self, name: str, delay_s: Callable[[], float] = lambda: 0.0) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._delay_s = delay_s
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            if (delay_s := self._delay_s()) > 0:
                time.sleep(delay_s)
            try:
                work()
            except BaseException as error:  # `finish` raises it where somebody sees it
                self._error = self._error or error

    def do(self, work: Callable[[], None]) -> None:
        """See Lane."""
        self._queue.put(work)

    def after(self, mark: Mark) -> None:
        """See Lane."""
        self._queue.put(mark.wait)

    def mark(self) -> Mark:
        """See Lane."""
        passed = _Passed()
        self._queue.put(passed.settle)
        return passed

    def keeps(self, tensor: Tensor) -> None:
        """Nothing to do: a closure holds what it uses."""

    def finish(self) -> None:
        """See Lane."""
        self.mark().wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """See Lane."""
        self._queue.put(None)
        self._thread.join()


class Processor:
    """Lanes are threads, and the caller's own is the calling thread, which has done all that it issued."""

    def __init__(self, delay_s: Callable[[], float] = lambda: 0.0) -> None:
        self._delay_s = delay_s

    def lane(self, name: str) -> Lane:
        """See Device."""
        return ThreadLane(name, self._delay_s)

    def here(self) -> Mark:
        """See Device."""
        return _Now(time.monotonic())

    def keeps(self, tensor: Tensor) -> None:
        """Nothing to do."""

    def finish(self) -> None:
        """See Device."""

    def align(self) -> None:
        """The clock is the host's."""


# ------------------------------------------------------------------------------- GPUs (not run without one)


class _Event:
    """A CUDA event with a time, on the clock that `base` began."""

    def __init__(self, stream: torch.cuda.Stream, base: tuple[torch.cuda.Event, float]) -> None:
        self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)
        self._device, self._base = stream.device, base

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self.event)

    def finish(self) -> None:
        self.event.synchronize()

    def at_s(self) -> float:
        first, at_s = self._base
        return at_s + float(first.elapsed_time(self.event)) / 1e3


class StreamLane:
    """A stream of a GPU, of high priority: its kernels go before those of compute that are not resident yet."""

    def __init__(self, gpu: Gpu) -> None:
        self.stream, self._gpu = torch.cuda.Stream(gpu.device, priority=-1), gpu  # type: ignore[no-untyped-call]

    def do(self, work: Callable[[], None]) -> None:
        """See Lane.  (Issued at once.)"""
        with torch.cuda.stream(self.stream):
            work()

    def after(self, mark: Mark) -> None:
        """See Lane."""
        assert isinstance(mark, _Event)
        self.stream.wait_event(mark.event)

    def mark(self) -> Mark:
        """See Lane."""
        return _Event(self.stream, self._gpu.base)

    def keeps(self, tensor: Tensor) -> None:
        """See Lane."""
        _keep(tensor, self.stream)

    def finish(self) -> None:
        """See Lane."""
        self.stream.synchronize()

    def close(self) -> None:
        """Nothing to end."""


class Gpu:
    """Streams and events of one GPU; the caller's own lane is its thread's current stream.

    base: an event, and when it passed by the host's clock, to which every mark is related.  CUDA tells the time between
    events in float32, to a ten-millionth of it, and two clocks drift apart: so it is aligned again before every run."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.align()

    def align(self) -> None:
        """See Device.  The narrowest of some tries counts: the host may be held up between event and clock."""
        tries = [self._moment() for _ in range(_TRIES)]
        event, began_s, ended_s = min(tries, key=lambda moment: moment[2] - moment[1])
        self.base = event, (began_s + ended_s) / 2

    def _moment(self) -> tuple[torch.cuda.Event, float, float]:
        """An event on a stream that is empty, and two moments of the host between which it passed."""
        self.finish()
        event, began_s = torch.cuda.Event(enable_timing=True), time.monotonic()  # type: ignore[no-untyped-call]
        event.record(self._here)
        event.synchronize()
        return event, began_s, time.monotonic()

    @property
    def _here(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)

    def lane(self, name: str) -> Lane:
        """See Device."""
        return StreamLane(self)

    def here(self) -> Mark:
        """See Device."""
        return _Event(self._here, self.base)

    def keeps(self, tensor: Tensor) -> None:
        """See Device."""
        _keep(tensor, self._here)

    def finish(self) -> None:
        """See Device."""
        self._here.synchronize()


def _keep(tensor: Tensor, stream: torch.cuda.Stream) -> None:
    if tensor.numel():  # a header's rows are none, and not on the GPU
        tensor.record_stream(stream)


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """For a thread: a compute stream of its own on that GPU, which is also made its current one; nothing elsewhere.

    A thread that does not say so works on GPU 0, on the one stream that all such threads share."""
    if device.type != "cuda":
        return nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
