"""Links of a settable rate between ranks of one process: what comes to a rank waits its turn and takes its time.

A link holds each transfer from when it is free until latency_s + bytes / bytes_per_s later, however fast the copy is:
first in, first out.  On a GPU two kernels of one thread do that around the copy, by the GPU's own clock; so a link
takes issue slots of one multiprocessor while it waits, and no host.  (The GPU's part was written without one: not run.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from realrun.lanes import Lane, StreamLane

_SOURCE = """
extern "C" __global__ void begin(unsigned long long* link) {
  unsigned long long now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  link[1] = now > link[0] ? now : link[0];
}
extern "C" __global__ void end(unsigned long long* link, unsigned long long nanoseconds) {
  unsigned long long until = link[1] + nanoseconds, now;
  do { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); } while (now < until);
  link[0] = until;
}
"""


@dataclass
class SleepingLink:
    """A link of every rank, kept by threads that sleep."""

    bytes_per_s: float
    latency_s: float = 0.0
    _began_s: dict[int, float] = field(default_factory=dict)  # by lane
    _free_s: dict[int, float] = field(default_factory=dict)

    def begin(self, lane: Lane) -> None:
        """See realrun.meeting.Throttle."""

        def begin() -> None:
            self._began_s[id(lane)] = max(time.monotonic(), self._free_s.get(id(lane), 0.0))

        lane.do(begin)

    def end(self, lane: Lane, moved_bytes: int) -> None:
        """See realrun.meeting.Throttle."""

        def end() -> None:
            until_s = self._began_s[id(lane)] + self.latency_s + moved_bytes / self.bytes_per_s
            self._free_s[id(lane)] = until_s
            time.sleep(max(0.0, until_s - time.monotonic()))

        lane.do(end)


class KernelLink:
    """The same on a GPU."""

    def __init__(self, device: torch.device, bytes_per_s: float, latency_s: float = 0.0) -> None:
        self.bytes_per_s, self.latency_s, self._device = bytes_per_s, latency_s, device
        self._begin, self._end = (torch.cuda._compile_kernel(_SOURCE, name) for name in ("begin", "end"))
        self._state: dict[int, torch.Tensor] = {}  # by lane: when its link is free, when its transfer began

    def begin(self, lane: Lane) -> None:
        """See realrun.meeting.Throttle."""
        assert isinstance(lane, StreamLane)
        if id(lane) not in self._state:
            self._state[id(lane)] = torch.zeros(2, dtype=torch.int64, device=self._device)
            lane.stream.wait_stream(torch.cuda.current_stream())
        state = self._state[id(lane)]
        lane.do(lambda: self._begin(grid=(1, 1, 1), block=(1, 1, 1), args=[state]))

    def end(self, lane: Lane, moved_bytes: int) -> None:
        """See realrun.meeting.Throttle."""
        nanoseconds = round(1e9 * (self.latency_s + moved_bytes / self.bytes_per_s))
        state = self._state[id(lane)]
        lane.do(lambda: self._end(grid=(1, 1, 1), block=(1, 1, 1), args=[state, nanoseconds]))
