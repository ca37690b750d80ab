"""A sample: one timed thing, raw.  Nothing is thrown away; what counts as an outlier is marked, and the fit's business.

The file knows what a sample is and where this process runs; how samples are kept is in calibration/bundle.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from realrun.machine import machine as about_machine

ROOT = Path(__file__).parent.parent
OUTLIER = 5.0  # robust standard deviations (1.48 times the median deviation) of the logarithm of seconds


@dataclass(frozen=True)
class Sample:
    """One timed thing on one rank.

    what "op": subject is the kind, size its FLOPs.  what "transfer": subject is "dispatch" or "combine", size the
    bytes of the fullest link to or from this rank, across_bytes those through the fullest card of a host, on
    machines that have hosts; `number` is the same on all ranks of a transfer, within a job.  what "gap": subject is
    "launch", "collective" or "wake" (`Host`), size 0.
    load: share of the time in which the other stream of the rank was busy.  queued: the link was busy until this
    transfer began.  uneven: ranks sent different amounts.  team: how many ranks took part, the first ones; 0: all.
    round: of measuring, on a machine that drifts.  outlier: see `mark`.  others: share of the processors that other
    programs had meanwhile.  clock_hz, temperature_c: of the GPU, just before."""

    what: str
    subject: str
    size: float
    seconds: float
    rank: int
    load: float = 0.0
    link_bytes_per_s: float | None = None
    queued: bool = False
    round: int = 0
    across_bytes: float = 0.0
    uneven: bool = False
    number: int = 0
    team: int = 0
    outlier: bool = False
    others: float = 0.0
    clock_hz: float | None = None
    temperature_c: float | None = None

    @property
    def alone(self) -> bool:
        """Whether the other stream rested."""
        return self.load == 0.0

    @property
    def sort(self) -> tuple[object, ...]:
        """Equal for samples of the same thing."""
        rate = self.link_bytes_per_s or 0.0
        return self.what, self.subject, self.size, self.load, rate, self.queued, self.rank, self.uneven, self.team


def mark(samples: Iterable[Sample]) -> list[Sample]:
    """The samples, those far from the median of their sort marked as outliers; of two or fewer none is."""
    marked = []
    for _, same in groupby(sorted(samples, key=lambda s: s.sort), key=lambda s: s.sort):
        mine = [*same]
        logs = np.log([max(s.seconds, 1e-12) for s in mine])
        away = np.abs(logs - np.median(logs))
        limit = OUTLIER * 1.48 * float(np.median(away))
        marked += [
            replace(s, outlier=bool(len(mine) > 2 and limit > 0 and a > limit)) for s, a in zip(mine, away, strict=True)
        ]
    return marked


def machine() -> dict[str, str]:
    """What this process can say about where it runs."""
    command = " ".join(["python", _program(Path(sys.argv[0])), *sys.argv[1:]])
    return {**about_machine(command, ("torch", "numpy", "simpy")), "commit": commit(), **gpu()}


def commit(path: Path = ROOT) -> str:
    """The commit that the program was at, "+ changes" if files differ from it, "unknown" outside of a repository."""
    try:
        words = ["git", "-C", str(path), "describe", "--always", "--abbrev=10", "--dirty= + changes", "--exclude=*"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def gpu() -> dict[str, str]:
    """Name and driver of the first GPU; nothing where there is none."""
    said = _nvidia("name,driver_version")
    return dict(zip(("gpu", "driver"), said, strict=True)) if said else {}


def gpu_state() -> tuple[float | None, float | None]:
    """(clock_hz of the multiprocessors, temperature_c) of the first GPU; None where there is none."""
    said = _nvidia("clocks.sm,temperature.gpu")
    return (1e6 * float(said[0]), float(said[1])) if said else (None, None)


def _nvidia(query: str) -> list[str]:
    """What the driver answers for the first GPU; nothing where there is no driver."""
    words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [word.strip() for word in done.stdout.split(",")] if done.returncode == 0 else []


def _program(path: Path) -> str:
    """`-m calibration` or `benchmarks/prediction.py`: what was run, wherever it lies."""
    return f"-m {path.parent.name}" if path.name == "__main__.py" else "/".join(path.parts[-2:])
