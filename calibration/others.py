"""Whether others use the processors meanwhile: a measurement on a machine that is shared says how much it was.

It reads Linux's counters; it refuses to know what was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Watch:
    """Counters at one moment: seconds of all processors in which somebody worked, and in which `pids` did."""

    pids: tuple[int, ...]
    at_s: float
    all_s: float
    own_s: float

    @staticmethod
    def begin(pids: Iterable[int]) -> Watch:
        """From now on."""
        pids = tuple(pids)
        return Watch(pids, time.monotonic(), _all_s(), sum(map(_own_s, pids)))

    def others(self) -> float:
        """Share of the processors that others had since `begin`, stolen time included (resolution: 10 ms).

        What the kernel does for a process outside of it (timers, packets) is counted as others'."""
        now = Watch.begin(self.pids)
        whole_s = (now.at_s - self.at_s) * len(os.sched_getaffinity(0))
        return max(0.0, (now.all_s - self.all_s) - (now.own_s - self.own_s)) / whole_s


def wait_until_quiet(share: float, patience_s: float, look_s: float = 0.5) -> bool:
    """Waits until all processes together leave 1 - share of the processors idle; False if they never did."""
    end_s = time.monotonic() + patience_s
    while True:
        watch = Watch.begin(())
        time.sleep(look_s)
        if watch.others() <= share:
            return True
        if time.monotonic() > end_s:
            return False


def _all_s() -> float:
    try:
        words = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, words[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _own_s(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / _TICKS_PER_S
