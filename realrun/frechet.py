"""Frechet distance between two sets of features, as if both were normal (Heusel et al. 2017, arXiv 1706.08500).

Exact linear algebra in float64; torchmetrics' FrechetInceptionDistance gives the same (tests/test_quality.py), but
keeps no statistics that a bootstrap could use again.  From few samples it comes out too large, by about the trace of a
covariance over their number: compare only sets of equal size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """Mean [feature] and covariance [feature, feature] of samples."""

    mean: Array
    covariance: Array

    @staticmethod
    def of(features: npt.ArrayLike) -> Moments:
        """Of features [sample, feature].  Raises ValueError for fewer than 2 samples."""
        table = np.asarray(features, dtype=np.float64)
        if table.ndim != 2 or len(table) < 2:
            raise ValueError(f"features should be [sample, feature], of 2 samples or more, not {list(table.shape)}")
        return Moments(table.mean(axis=0), np.cov(table, rowvar=False).reshape(table.shape[1], -1))


def frechet(a: Moments, b: Moments) -> float:
    """|mean - mean|^2 + tr(A + B - 2 (A B)^(1/2)), with the root's trace from the symmetric B^(1/2) A B^(1/2)."""
    values, vectors = np.linalg.eigh(b.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ a.covariance @ root), 0.0)).sum()
    between = ((a.mean - b.mean) ** 2).sum()
    return float(between + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared)
