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
from realrun.ptx import load_kernels

_PTX = """
.version 6.4
.target sm_70
.address_size 64

// link[0]: when it is free; link[1]: when its transfer began
.visible .entry begin(.param .u64 link) {
  .reg .b64 %link, %now, %free;
  ld.param.u64 %link, [link];
  mov.u64 %now, %globaltimer;
  ld.global.u64 %free, [%link];
  max.u64 %now, %now, %free;
  st.global.u64 [%link+8], %now;
  ret;
}
.visible .entry end(.param .u64 link, .param .u64 nanoseconds) {
  .reg .b64 %link, %until, %takes, %now;
  .reg .pred %early;
  ld.param.u64 %link, [link];
  ld.param.u64 %takes, [nanoseconds];
  ld.global.u64 %until, [%link+8];
  add.u64 %until, %until, %takes;
again:
  mov.u64 %now, %globaltimer;
  setp.lt.u64 %early, %now, %until;
  @%early bra again;
  st.global.u64 [%link], %until;
  ret;
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
        self._begin, self._end = load_kernels(_PTX, "begin", "end")
        self._state: dict[int, torch.Tensor] = {}  # by lane: when its link is free, when its transfer began

    def begin(self, lane: Lane) -> None:
        """See realrun.meeting.Throttle."""
        assert isinstance(lane, StreamLane)
        if id(lane) not in self._state:
            self._state[id(lane)] = torch.zeros(2, dtype=torch.int64, device=self._device)
            lane.stream.wait_stream(torch.cuda.current_stream(self._device))
            lane.keeps(self._state[id(lane)])
        lane.do(lambda: self._begin(self._state[id(lane)].data_ptr()))

    def end(self, lane: Lane, moved_bytes: int) -> None:
        """See realrun.meeting.Throttle."""
        nanoseconds = round(1e9 * (self.latency_s + moved_bytes / self.bytes_per_s))
        lane.do(lambda: self._end(self._state[id(lane)].data_ptr(), nanoseconds))
