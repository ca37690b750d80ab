"""What measured collectives take beside what a network's parameters say: factors by ranks and bytes.

It knows two tables and how to go between their points; it refuses to know where they come from and what is moved
(sim/transfers/fabric.py asks, benchmarks/network.py fits them)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Factors = Mapping[
    int, Mapping[float, float]
]  # ranks -> {bytes of a rank's send buffer, what it keeps included: factor}


def factor_at(factors: Factors, ranks: int, most_bytes: float) -> float:
    """The factor for `ranks` ranks of which the fullest sends or receives `most_bytes`.

    Between points a straight line over the logarithms of bytes, and of ranks; outside of the bytes, that of the nearest
    point.  More ranks than any measured: 1, since what joins them is another network; fewer: those of the fewest."""
    counts = sorted(factors)
    if not counts or ranks < 2 or ranks > counts[-1] or most_bytes <= 0:
        return 1.0
    logs = [_log_factor(factors[count], most_bytes) for count in counts]
    return math.exp(float(np.interp(math.log(ranks), np.log(counts), logs)))


def factor_problems(factors: object) -> Iterator[str]:
    """What is wrong with a table of factors that may hold anything."""
    if not isinstance(factors, Mapping):
        return
    for ranks, curve in factors.items():
        if not str(ranks).isdigit() or int(ranks) < 2:
            yield f"factors.{ranks}: should be a number of ranks from 2 up"
        for size in curve if isinstance(curve, Mapping) else ():
            if not _positive(size):
                yield f"factors.{ranks}.{size}: should be a number of bytes above 0"
        if isinstance(curve, Mapping) and not curve:
            yield f"factors.{ranks} is empty"


def _log_factor(curve: Mapping[float, float], most_bytes: float) -> float:
    sizes: Sequence[float] = sorted(curve)
    return float(np.interp(math.log(most_bytes), np.log(sizes), np.log([curve[size] for size in sizes])))


def _positive(value: object) -> bool:
    try:
        return 0 < float(str(value)) < math.inf
    except ValueError:
        return False
