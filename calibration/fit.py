"""Samples in, Cluster out, with the uncertainty of every number.

Each kind of compute op is a line through its samples, fixed_s + FLOPs / flops_per_s, and so is a transfer, latency_s +
bytes / bytes_per_s less the burst of a link that has rested; both by least squares on relative residuals with a robust
loss (soft L1, scipy), so that an outlier pulls but does not decide.  Standard errors are bootstrapped: those of a
robust fit's Jacobian are wrong.  A factor of interference is the median of loaded over fitted alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.stats import trim_mean

from calibration.samples import Sample
from sim.cluster import COMPUTE_KINDS, Cluster, Host, Interference, Link, Rate
from sim.schedule import COLLECTIVES
from sim.units import readable

Array = npt.NDArray[np.float64]
NO_SLOPE = 1e18  # FLOP/s of a kind whose time does not grow with its FLOPs in the samples


@dataclass(frozen=True)
class Line:
    """seconds = features @ coefficients, all coefficients at least 0."""

    coefficients: Array
    errors: Array  # standard errors, bootstrapped
    scatter: float  # standard deviation of log(seconds / fitted)

    def at(self, features: Array) -> Array:
        """Seconds of features [sample, coefficient]."""
        seconds: Array = features @ self.coefficients
        return seconds


def fit(
    samples: Sequence[Sample], ranks: int, link_bytes_per_s: float, meta: Mapping[str, str], seed: int = 0
) -> Cluster:
    """The Cluster that the samples describe, with links of the given rate; `errors` holds standard errors.

    Raises ValueError that says which measurement is missing."""
    rng = np.random.default_rng(seed)
    lines = {kind: _op_line(samples, kind, rng) for kind in COMPUTE_KINDS}
    link = _link_line(samples, link_bytes_per_s, rng)
    slow = {kind: _slow_down(samples, kind, line, link_bytes_per_s) for kind, line in lines.items()}
    slow_transfer = _slow_transfer(samples, link, link_bytes_per_s)
    gaps = {subject: _gap(samples, subject) for subject in ("launch", "collective", "wake")}
    rates = {kind: Rate(float(line.coefficients[0]), _inverse(line.coefficients[1])) for kind, line in lines.items()}
    latency_s, counts_s, s_per_byte, burst_s = link.coefficients.tolist()
    return Cluster(
        name=f"{meta['processor']}, {ranks} ranks, {readable('_bytes_per_s', link_bytes_per_s)} a pair",
        ranks=ranks,
        compute=rates,
        link=Link(latency_s, 1 / s_per_byte, "pair", counts_s, burst_s / s_per_byte, buffered=True),
        host=Host(gaps["launch"], gaps["collective"], gaps["wake"], synchronous=True),
        interference=Interference(slow, slow_transfer),
        jitter={**{k: line.scatter for k, line in lines.items()}, **dict.fromkeys(COLLECTIVES, link.scatter)},
        errors=_errors(lines, link),
        source="; ".join(f"{key} {value}" for key, value in meta.items()),
    )


def fit_line(features: Array, seconds: Array, rng: np.random.Generator, resamples: int = 40) -> Line:
    """Robust line through seconds [sample] over features [sample, coefficient]."""
    best = _robust(features, seconds)
    picks = rng.integers(len(seconds), size=(resamples, len(seconds)))
    drawn = np.array([_robust(features[pick], seconds[pick]) for pick in picks])
    return Line(best, drawn.std(axis=0), _scatter(features @ best, seconds))


def _robust(features: Array, seconds: Array) -> Array:
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


def _op_line(samples: Sequence[Sample], kind: str, rng: np.random.Generator) -> Line:
    mine = [s for s in samples if s.what == "op" and s.subject == kind and not s.loaded]
    if not mine:
        raise ValueError(f"the samples hold no {kind} alone")
    flops, seconds = np.array([s.size for s in mine]), np.array([s.seconds for s in mine])
    if np.ptp(flops) < 0.1 * flops.max():  # one size: its time is all that is known
        flops = np.zeros_like(flops)
    return fit_line(np.stack([np.ones_like(flops), flops], axis=1), seconds, rng)


def _link_line(samples: Sequence[Sample], rate: float, rng: np.random.Generator) -> Line:
    features, seconds = _transfers(samples, rate, loaded=False)
    if not len(seconds):
        raise ValueError(f"the samples hold no transfer alone at {readable('_bytes_per_s', rate)}")
    line = fit_line(features, seconds, rng)
    # In a queue a late transfer makes the next one short: noise that cancels, and is not a collective's own.
    rested = np.array([not s.queued for s in samples if _is_transfer(s, rate, loaded=False)])
    return replace(line, scatter=_scatter(features[rested] @ line.coefficients, seconds[rested]))


def _scatter(fitted: Array, seconds: Array) -> float:
    """Standard deviation of the logarithm, of all samples: a slow op holds other ranks up, outlier or not."""
    return float(np.log(seconds / fitted).std())


def _is_transfer(sample: Sample, rate: float, loaded: bool) -> bool:
    return sample.what == "transfer" and sample.loaded == loaded and sample.link_bytes_per_s == rate


def _transfers(samples: Sequence[Sample], rate: float, loaded: bool) -> tuple[Array, Array]:
    """Features [sample, (1, is a dispatch, bytes, -1 where a burst passes)] and seconds [sample].

    A rested link lets a burst of a combine pass; a dispatch's counts go first, and wake the link."""
    mine = [s for s in samples if _is_transfer(s, rate, loaded)]
    rows = [(1.0, d := s.subject == "dispatch", s.size, -float(not (d or s.queued))) for s in mine]
    features = np.array(rows, dtype=np.float64).reshape(-1, 4)
    return features, np.array([s.seconds for s in mine])


def _slow_down(samples: Sequence[Sample], kind: str, line: Line, rate: float) -> float:
    mine = [s for s in samples if s.what == "op" and s.subject == kind and s.loaded and s.link_bytes_per_s == rate]
    if not mine:
        raise ValueError(f"the samples hold no {kind} under load at {readable('_bytes_per_s', rate)}")
    alone = line.at(np.array([[1.0, s.size] for s in mine]))
    return max(0.0, float(np.median(np.array([s.seconds for s in mine]) / alone)) - 1)


def _slow_transfer(samples: Sequence[Sample], link: Line, rate: float) -> float:
    features, seconds = _transfers(samples, rate, loaded=True)
    if not len(seconds):
        raise ValueError(f"the samples hold no transfer under load at {readable('_bytes_per_s', rate)}")
    return max(0.0, float(np.median(seconds / link.at(features))) - 1)


def _gap(samples: Sequence[Sample], subject: str) -> float:
    """The mean without the 5 % at either end: gaps are many and add up, so their tail counts."""
    mine = [s.seconds for s in samples if s.what == "gap" and s.subject == subject]
    if not mine:
        raise ValueError(f"the samples hold no gap called {subject}")
    return float(trim_mean(mine, 0.05))


def _inverse(s_per_flop: float) -> float:
    return 1 / float(s_per_flop) if s_per_flop > 1 / NO_SLOPE else NO_SLOPE


def _errors(lines: Mapping[str, Line], link: Line) -> dict[str, float]:
    """Standard errors by dotted key of the Cluster; of a rate by propagation from its inverse."""
    errors: dict[str, float] = {}
    for kind, line in lines.items():
        errors[f"compute.{kind}.fixed_s"] = float(line.errors[0])
        if (rate := _inverse(line.coefficients[1])) < NO_SLOPE:
            errors[f"compute.{kind}.flops_per_s"] = float(line.errors[1]) * rate**2
    errors["link.latency_s"], errors["link.counts_s"] = link.errors[:2].tolist()
    errors["link.burst_bytes"] = float(link.errors[3] / link.coefficients[2])
    errors["link.bytes_per_s"] = float(link.errors[2] / link.coefficients[2] ** 2)
    return errors
