"""Streams and events of a GPU that is not there: work is done when it is issued, on the processor, but the host knows
only what it has waited for.  So every line for GPUs runs, and these mistakes show: a time that is asked for too early,
a thread on the stream that all threads share, an event without a time, a tensor that no GPU can keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_here = threading.local()


class Stream:
    def __init__(self, device: Any = None, priority: int = 0) -> None:
        self.device, self.priority, self.cuda_stream = torch.device(device or "cpu"), priority, 7
        self._recorded: list[Event] = []
        self._lock = threading.Lock()

    def record(self, event: Event) -> None:
        with self._lock:
            self._recorded.append(event)

    def synchronize(self, upto: Event | None = None) -> None:
        with self._lock:
            while self._recorded:
                event = self._recorded.pop(0)
                event.known = True
                if event is upto:
                    break

    def wait_event(self, event: Event) -> None:
        assert event.at_s is not None, "an event that was never recorded"

    def wait_stream(self, stream: Stream) -> None:
        assert isinstance(stream, Stream)


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self.at_s: float | None = None
        self.known, self._timed = False, enable_timing

    def record(self, stream: Stream | None = None) -> None:
        self.at_s, self.known = time.monotonic(), False
        self._stream = stream or current_stream()
        self._stream.record(self)

    def synchronize(self) -> None:
        if not self.known:
            self._stream.synchronize(self)

    def elapsed_time(self, later: Event) -> float:
        assert all(event._timed for event in (self, later)), "an event without a time"
        assert all(event.known for event in (self, later)), "device not ready"
        assert self.at_s is not None
        assert later.at_s is not None
        return 1e3 * (later.at_s - self.at_s)


_shared = Stream()


def current_stream(device: Any = None) -> Stream:
    stream: Stream | None = getattr(_here, "stream", None)
    if stream is None:
        assert threading.current_thread() is threading.main_thread(), "a thread without a stream of its own"
        return _shared
    return stream


@contextmanager
def stream(chosen: Stream) -> Iterator[None]:
    before = getattr(_here, "stream", None)
    _here.stream = chosen
    try:
        yield
    finally:
        _here.stream = before


class Again:
    """As torch's, it can be entered more than once."""

    def __init__(self, chosen: Stream) -> None:
        self._chosen = chosen

    def __enter__(self) -> None:
        self._inside = stream(self._chosen)
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)


def own_stream(device: torch.device) -> Again:
    """In place of realrun.lanes.own_stream, which has nothing to do on the processor."""
    return Again(Stream(device))


def record_stream(tensor: torch.Tensor, chosen: Stream) -> None:
    if not tensor.numel():
        raise NotImplementedError("aten::record_stream with arguments from the 'CPU' backend")
    assert isinstance(chosen, Stream)


def install(put: Callable[[Any, str, Any], None]) -> None:
    """Puts it in torch's place; `put` is setattr, or that of a monkeypatch."""
    import calibration.on_ranks
    import realrun.logical

    for name, fake in [("Stream", Stream), ("Event", Event), ("current_stream", current_stream), ("stream", Again)]:
        put(torch.cuda, name, fake)
    put(torch.Tensor, "record_stream", record_stream)
    for module in (calibration.on_ranks, realrun.logical):
        put(module, "own_stream", own_stream)
