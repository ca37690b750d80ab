"""Which uncertain numbers of a machine matter, and how sure a ranking of schedules is.

One at a time: what a standard error up or down does to a schedule's makespan, and to how much faster it is than the
first.  Together: Sobol indices (Sobol 2001; scipy.stats.sobol_indices, Saltelli's estimator): the share of the
variance of log(makespan) that an input explains by itself (first order) and with all it does beside others (total).
It knows inputs and makespans; it refuses to know where they come from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.inputs import Input, factors

Array = npt.NDArray[np.float64]
Makespans = Callable[[dict[str, Array], int], Array]  # settings' factors [draw], draws -> seconds [draw]


@dataclass(frozen=True, eq=False)
class Influence:
    """Of one input on one schedule: relative change of the makespan when it is a standard error less, and more; Sobol
    indices of first order and in total, with the half width of their 95 % bootstrap intervals."""

    input: Input
    down: float
    up: float
    first: float
    first_error: float
    total: float
    total_error: float


def one_at_a_time(inputs: Sequence[Input], makespans: Makespans) -> Array:
    """[input, (down, up)]: relative change of the makespan."""
    count = len(inputs)
    normal = np.zeros((count, 2 * count + 1))
    for n in range(count):
        normal[n, 2 * n + 1], normal[n, 2 * n + 2] = -1.0, 1.0
    found = makespans(factors(inputs, normal), 2 * count + 1)
    changes: Array = (found[1:] / found[0] - 1).reshape(count, 2)
    return changes


def influences(inputs: Sequence[Input], makespans: Makespans, n: int, seed: int) -> list[Influence]:
    """Of every input; `n` (a power of 2) points of a Sobol sequence, n x (inputs + 2) evaluations.

    Raises ValueError for another n."""
    from scipy import stats

    if n < 2 or n & (n - 1):
        raise ValueError(f"{n} points should be a power of 2, from 2 up")
    changes = one_at_a_time(inputs, makespans)

    def logs(normal: Array) -> Array:
        shape = normal.shape[1:]
        flat = normal.reshape(len(inputs), -1)
        seconds: Array = np.log(makespans(factors(inputs, flat), flat.shape[1])).reshape(shape)
        return seconds[None]

    dists: list[Any] = [stats.norm()] * len(inputs)
    found = stats.sobol_indices(func=logs, n=n, dists=dists, rng=np.random.default_rng(seed))
    with np.errstate(all="ignore"), warnings.catch_warnings():  # an input without any influence has no spread
        warnings.simplefilter("ignore")
        spread = found.bootstrap(confidence_level=0.95, n_resamples=200)
    orders = {name: np.ravel(getattr(found, name)) for name in ("first_order", "total_order")}
    halves = {}
    for name in orders:
        interval = getattr(spread, name).confidence_interval
        halves[name] = np.nan_to_num((np.ravel(interval.high) - np.ravel(interval.low)) / 2)
    made = [
        Influence(each, float(changes[i, 0]), float(changes[i, 1]), orders["first_order"][i], halves["first_order"][i],
                  orders["total_order"][i], halves["total_order"][i])
        for i, each in enumerate(inputs)
    ]  # fmt: skip
    return sorted(made, key=lambda influence: -influence.total)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of schedules by makespan over draws of the machine's numbers, the same for all.

    best [schedule]: share of draws in which it is the fastest; faster [one, other]: in which one is faster; pairs: how
    likely two of them taken at random are in the order of the numbers as they stand."""

    best: Array
    faster: Array
    pairs: float


def ranking(seconds: Array) -> Ranking:
    """Of seconds [schedule, draw], whose first draw is the numbers as they stand."""
    winners = (seconds == seconds.min(axis=0)).astype(float)
    best = (winners / winners.sum(axis=0)).mean(axis=1)
    less = seconds[:, None, :] < seconds[None, :, :]
    same = seconds[:, None, :] == seconds[None, :, :]
    faster = (less + 0.5 * same).mean(axis=2)
    order = np.argsort(seconds[:, 0], kind="stable")
    pairs = [faster[a, b] for i, a in enumerate(order) for b in order[i + 1 :]]
    return Ranking(best, faster, float(np.mean(pairs)) if pairs else 1.0)
