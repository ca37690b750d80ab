"""One matrix product [m, k] x [k, n] on one GPU: from its shape to seconds.

A GemmFit is a roofline (Williams 2009) with a surface of factors over it, fitted to measurements; Points are somebody's
own measurements, returned exactly where they were made and kriged in between (Krige 1951; weights from how far
shapes lie apart on log axes).  It knows shapes and rates; it refuses to know which GPU has them (sim/gpu.py), and what
a product is for (sim/kernels.py).

Errors against ai-dynamo/aiconfigurator 095f58a (bf16, six GPUs, 11,830 shapes), as benchmarks/gemm.py finds them, are
in benchmarks/results/gemm.json: leaving one point out, kriging the others; and those of the fitted surfaces alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.faults import CLOSED

Array = npt.NDArray[np.float64]
# How far along m, n, k a measurement tells of others.  Chosen on the six GPUs together; halved or doubled, the errors
# are the same to 0.1 %, and with 6, 6, 6 they are 3.2 % (median) and 11.1 % (90th percentile).
OCTAVES = (6.0, 3.0, 15.0)


@dataclass(frozen=True)
class GemmFit:
    """Seconds of a product: factor x (fixed_s + hypot(FLOPs / compute_share / peak, bytes / memory_share / bandwidth)).

    factor [m, n, k] is given at the nodes `m`, `n`, `k`; its logarithm is linear in those of m, n and k between them,
    and outside it is what it is at the border.  The nodes' ends are the ends of what was measured, in `dtype`."""

    compute_share: float
    memory_share: float
    fixed_s: float
    dtype: str
    m: tuple[int, ...]
    n: tuple[int, ...]
    k: tuple[int, ...]
    factor: tuple[tuple[tuple[float, ...], ...], ...]
    __pydantic_config__ = CLOSED

    def seconds(
        self, shape: tuple[Any, int, int], flops_per_s: float, bytes_per_s: float, element_bytes: int, matrices: Any = 1
    ) -> Array:
        """Seconds of (m, n, k), where m may be an array; 0 where m is 0.

        matrices: how many [k, n] share the m rows, in one kernel; that they come in tiles of their own is ignored.

        Median error 4 %, 90th percentile 14 %, over all shapes that were measured; a factor of 1.3 is not rare where
        a product needs a few more tiles than the GPU has multiprocessors, which the surface smoothes over."""
        rates = flops_per_s * self.compute_share, bytes_per_s * self.memory_share
        line = roofline_s(shape, *rates, element_bytes, matrices)
        seconds: Array = np.where(np.asarray(shape[0]) > 0, (self.fixed_s + line) * self._factor(shape), 0.0)
        return seconds

    def outside(self, shape: tuple[Any, int, int]) -> str:
        """Which of m, n, k is not within what was measured: "n, k"; "" if none."""
        axes = zip("mnk", (self.m, self.n, self.k), (np.asarray(size) for size in shape), strict=True)
        return ", ".join(
            name for name, nodes, size in axes if np.any((size > 0) & ((size < nodes[0]) | (size > nodes[-1])))
        )

    @property
    def measured(self) -> str:
        """The range of what was measured: "m 16 to 32768, ..."."""
        return ", ".join(
            f"{axis} {nodes[0]} to {nodes[-1]}" for axis, nodes in zip("mnk", (self.m, self.n, self.k), strict=True)
        )

    def _factor(self, shape: tuple[Any, int, int]) -> Array:
        weights = [hats(size, nodes) for size, nodes in zip(shape, (self.m, self.n, self.k), strict=True)]
        over_nk = np.einsum("abc,b,c->a", self._surface, *(w.reshape(-1) for w in weights[1:]))
        factor: Array = np.exp(weights[0] @ over_nk)
        return factor

    @cached_property
    def _surface(self) -> Array:
        """log(factor) [m, n, k]."""
        surface: Array = np.log(self.factor)
        return surface


def roofline_s(
    shape: tuple[Any, Any, Any], flops_per_s: float, bytes_per_s: float, element_bytes: int, matrices: Any = 1
) -> Array:
    """Seconds of (m, n, k) by arithmetic and memory together: the root of the sum of both's squares, a roofline whose
    corner is round.  Every operand is read once and the result written once."""
    m, n, k = (np.asarray(size, dtype=np.float64) for size in shape)
    moved = element_bytes * (m * k + matrices * k * n + m * n)
    seconds: Array = np.hypot(2 * m * n * k / flops_per_s, moved / bytes_per_s)
    return seconds


def hats(size: Any, nodes: Sequence[int]) -> Array:
    """Weights [..., node] of the nodes for linear interpolation in log2(size); beyond the ends, all is the end's."""
    at = np.log2(np.maximum(size, 1e-9))
    ends = np.log2(nodes)
    weights: Array = np.stack([np.interp(at, ends, row) for row in np.eye(len(nodes))], axis=-1)
    return weights


def fit_problems(fit: GemmFit) -> Iterator[str]:
    """What is wrong with the nodes and factors of a fit."""
    for axis in ("m", "n", "k"):
        nodes = getattr(fit, axis)
        if len(nodes) < 2 or nodes[0] < 1 or any(b <= a for a, b in pairwise(nodes)):
            yield f"gemm.{axis}={list(nodes)} should be two or more sizes, growing, from 1 up"
    sizes = (len(fit.m), len(fit.n), len(fit.k))
    rows = [row for plane in fit.factor for row in plane]
    shape = {(len(fit.factor), len(plane), len(row)) for plane in fit.factor for row in plane}
    if shape != {sizes}:
        yield f"gemm.factor should be [m, n, k] of {list(sizes)} nodes"
    if bad := [value for row in rows for value in row if not 0 < value < float("inf")]:
        yield f"gemm.factor={bad[0]:g} should be above 0"


@dataclass(frozen=True)
class Points:
    """Measured products, and what they say about others, over the seconds that a fit expects.

    Leaving one out, the others find it to 2 % (median) and 8 % (90th percentile) in benchmarks/results/gemm.json."""

    points: tuple[tuple[int, int, int, float], ...]  # m, n, k, seconds
    fitted_s: tuple[float, ...]  # of each point

    def seconds(self, shape: tuple[Any, int, int], fitted_s: Array) -> Array:
        """Seconds of (m, n, k): as measured, or else the fit's times what its neighbours took over theirs."""
        m = np.atleast_1d(np.asarray(shape[0], dtype=np.float64))
        at = _octaves(np.stack([m.ravel(), *(np.full(m.size, float(size)) for size in shape[1:])], axis=1))
        ratio = np.exp(np.exp(-_apart(at, self.at)) @ self._weights)
        measured = [self._exact.get((float(size), *shape[1:])) for size in m.ravel()]
        found = np.where([s is None for s in measured], ratio * np.ravel(fitted_s), [s or 0.0 for s in measured])
        return np.where(m > 0, found.reshape(m.shape), 0.0).reshape(np.shape(shape[0]))

    @cached_property
    def _exact(self) -> dict[tuple[float, int, int], float]:
        return {(float(m), n, k): s for m, n, k, s in self.points}

    @cached_property
    def at(self) -> Array:
        """Where the points lie [point, (m, n, k)], on axes where a distance of 1 is as far as a measurement tells."""
        return _octaves(np.array([point[:3] for point in self.points], dtype=np.float64))

    @cached_property
    def _weights(self) -> Array:
        residual = np.log([point[3] for point in self.points]) - np.log(self.fitted_s)
        weights: Array = np.linalg.solve(covariance(self.at), residual)
        return weights


def covariance(at: Array, noise: float = 1e-3) -> Array:
    """Of log-seconds at points `at` [point, axis], relative to how much they vary: exp(-distance), and the noise of a
    single measurement."""
    found: Array = np.exp(-_apart(at, at)) + noise * np.eye(len(at))
    return found


def _octaves(shapes: Array) -> Array:
    scaled: Array = np.log2(np.maximum(shapes, 1e-9)) / OCTAVES
    return scaled


def _apart(a: Array, b: Array) -> Array:
    squares: Array = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance: Array = np.sqrt(np.maximum(squares, 0.0))
    return distance
