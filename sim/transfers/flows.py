"""Max-min fair sharing: rates of flows that pass shared resources, and when each flow ends.

Pure functions of numbers; they refuse to know what a flow or a resource is.  A matrix `passes` [resource, flow] is 1
where a flow passes a resource, 0 elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_TOGETHER = 1e-9  # flows that end within this share of the time until then end together: sums round


def max_min_rates(passes: Array, bytes_per_s: Array, flowing: Array | None = None) -> Array:
    """Bytes a second [flow]: no resource carries more than its rate, and no flow can be faster without making one
    slower that is no faster than it (Bertsekas and Gallager, Data Networks, 1992, 6.5.2: progressive filling).

    flowing [set, flow], 1 or 0: rates [set, flow] if only those of a set flow; without it, all do.  All rates of a set
    rise together; where a resource is full, its flows stop there.  Every flow passes some resource."""
    growing = np.ones((1, passes.shape[1])) if flowing is None else flowing.astype(np.float64)
    rates, left = np.zeros(growing.shape), np.tile(bytes_per_s.astype(np.float64), (len(growing), 1))
    ways = passes.T.copy()
    while growing.any():
        sharing = growing @ ways
        share = np.divide(left, sharing, out=np.full(left.shape, np.inf), where=sharing > 0)
        step = share.min(axis=1, keepdims=True)
        full = (share <= step * (1 + _TOGETHER)).astype(np.float64)
        step[np.isinf(step)] = 0.0  # of a set that is done
        rates += step * growing
        left = np.maximum(left - step * sharing, 0.0)
        growing[full @ passes > 0] = 0.0
    return rates[0] if flowing is None else rates


def binding(passes: Array, bytes_per_s: Array) -> npt.NDArray[np.bool_]:
    """[resource]: whether it can ever be the one that decides.

    It cannot where nothing passes it, or where all that does passes another one too which has no more room."""
    often = passes.sum(axis=1)
    within = passes @ passes.T == often[:, None]  # [a, b]: all flows of a pass b
    slower = bytes_per_s[:, None] - bytes_per_s  # [a, b]: how much more room a has
    alike = within & within.T & (slower == 0)
    earlier = np.tri(len(passes), k=-1, dtype=bool)
    idle = within & (slower >= 0) & (~alike | earlier)
    np.fill_diagonal(idle, False)
    decides: npt.NDArray[np.bool_] = (often > 0) & ~idle.any(axis=1)
    return decides


def completions_s(flow_bytes: Array, passes: Array, bytes_per_s: Array) -> Array:
    """Seconds [flow] until each of `flow_bytes` has flowed, all starting at once; rates are shared anew at each end."""
    left, ends, now = flow_bytes.astype(np.float64), np.zeros(len(flow_bytes)), 0.0
    flowing = np.flatnonzero(left > 0)
    while len(flowing):
        rates = max_min_rates(passes[:, flowing], bytes_per_s)
        needs = left[flowing] / rates
        step = needs.min()
        over = needs <= step * (1 + _TOGETHER)
        now += step
        left[flowing] -= rates * step
        ends[flowing[over]] = now
        flowing = flowing[~over]
    return ends
