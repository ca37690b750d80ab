"""Max-min fair sharing: rates of flows that pass shared resources, and when each flow ends.

Pure functions of numbers; they refuse to know what a flow or a resource is.  A matrix `passes` [resource, flow] is 1
where a flow passes a resource, 0 elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_TOGETHER = 1e-9  # flows that end within this share of the time until then end together: sums round


def max_min_rates(passes: Array, bytes_per_s: Array) -> Array:
    """Bytes a second [flow]: no resource carries more than its rate, and no flow can be faster without making one
    slower that is no faster than it (Bertsekas and Gallager, Data Networks, 1992, 6.5.2: progressive filling).

    All rates rise together; where a resource is full, its flows stop there.  Every flow passes some resource."""
    rates = np.zeros(passes.shape[1])
    growing = np.ones(passes.shape[1])
    left = bytes_per_s.astype(np.float64)
    while growing.any():
        sharing = passes @ growing
        share = np.divide(left, sharing, out=np.full(len(left), np.inf), where=sharing > 0)
        step = share.min()
        rates += step * growing
        left = np.maximum(left - step * sharing, 0.0)
        full = (share <= step * (1 + _TOGETHER)).astype(np.float64)
        growing[full @ passes > 0] = 0.0
    return rates


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
