"""Robust lines with bootstrapped uncertainty: seconds as non-negative amounts of some features.

Least squares on relative residuals with a robust loss (soft L1, scipy), quadratic below 5 %, so that an outlier pulls
but does not decide.  Standard errors are bootstrapped: those of a robust fit's Jacobian are wrong (0.73 for about
0.10 in a trial with lmfit).  The condition of the scaled Jacobian tells what the data cannot tell apart.  The file
knows numbers; it refuses to know what they measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

Array = npt.NDArray[np.float64]
RESAMPLES = 40
TRIMMED = 0.05  # left out at either end of what adds up over a run, whose tail therefore counts
_TELLABLE = 100.0  # condition up to which coefficients are told apart: 1 % of noise then becomes that of a coefficient


@dataclass(frozen=True, eq=False)
class Line:
    """seconds = features @ coefficients, all coefficients at least 0."""

    coefficients: Array
    draws: Array  # [resample, coefficient], bootstrapped
    scatter: float  # standard deviation of log(seconds / fitted)
    condition: float  # of the Jacobian of relative residuals, columns scaled to length 1; of the features that vary

    @property
    def errors(self) -> Array:
        """Standard errors."""
        return np.asarray(self.draws.std(axis=0))

    @property
    def tellable(self) -> bool:
        """Whether the data tell the coefficients apart."""
        return self.condition <= _TELLABLE

    def at(self, features: Array) -> Array:
        """Seconds of features [sample, coefficient]."""
        seconds: Array = features @ self.coefficients
        return seconds


def fit_line(features: Array, seconds: Array, rng: np.random.Generator, resamples: int = RESAMPLES) -> Line:
    """Robust line through seconds [sample] over features [sample, coefficient]."""
    best = robust(features, seconds)
    picks = rng.integers(len(seconds), size=(resamples, len(seconds)))
    draws = np.array([robust(features[pick], seconds[pick]) for pick in picks]).reshape(resamples, features.shape[1])
    return Line(best, draws, scatter(features @ best, seconds), condition(features, seconds))


def robust(features: Array, seconds: Array) -> Array:
    """Coefficients >= 0 that minimise a soft-L1 loss of relative residuals; quadratic below 5 %."""
    largest = np.abs(features).max(axis=0)
    scale = np.divide(np.median(seconds), largest, out=np.zeros_like(largest), where=largest > 0)  # 0: no such feature
    scaled: Array = features * scale / seconds[:, None]
    start = np.full(features.shape[1], 1.0 / features.shape[1])

    def residuals(x: Array) -> Array:
        relative: Array = scaled @ x - 1
        return relative

    def jacobian(_: Array) -> Array:
        return scaled

    found = least_squares(residuals, start, jac=jacobian, bounds=(0, np.inf), loss="soft_l1", f_scale=0.05)
    coefficients: Array = found.x * scale
    return coefficients


def scatter(fitted: Array, seconds: Array) -> float:
    """Standard deviation of the logarithm, of all samples: a slow op holds other ranks up, outlier or not."""
    return float(np.log(seconds / fitted).std())


def condition(features: Array, seconds: Array) -> float:
    """Largest over smallest singular value of the Jacobian of relative residuals, its columns scaled to length 1."""
    relative = features / seconds[:, None]
    lengths = np.linalg.norm(relative, axis=0)
    used: Array = relative[:, lengths > 0] / lengths[lengths > 0]
    return float(np.linalg.cond(used))
