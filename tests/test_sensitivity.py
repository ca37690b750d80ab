"""Uncertain inputs, and sensitivity to them: draws, shares of variance, one at a time, rankings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from advices import CLUSTER

from sim.cluster import Cluster
from sim.gpu import Gpu
from sim.inputs import drawn, factors, inputs_of
from sim.sensitivity import influences, one_at_a_time, ranking


def test_stated_errors_are_used_and_others_assumed_and_said() -> None:
    stated = {each.name: each for each in inputs_of(CLUSTER)}
    key = "link.bytes_per_s"
    assert stated[key].error == CLUSTER.errors[key] / CLUSTER.link.bytes_per_s  # type: ignore[union-attr]
    assumed = inputs_of(Cluster.load("8x-h100"), 0.2)
    assert {each.error for each in assumed} == {0.2, 0.5}
    assert all("assumed" in each.source for each in assumed)
    with pytest.raises(ValueError, match="should be above 0 and below 1"):
        inputs_of(Cluster.load("8x-h100"), 1.5)


def test_no_draw_of_a_share_exceeds_1() -> None:
    gpu = Cluster.load("8x-h100").compute
    assert isinstance(gpu, Gpu)
    draws = drawn(inputs_of(Cluster.load("8x-h100"), 0.5), 1000, 3)
    shares = {"attention_share": gpu.attention_share, "gemm.compute_share": gpu.gemm.compute_share}
    for key, share in {**shares, "gemm.memory_share": gpu.gemm.memory_share}.items():
        values = share * draws[f"times.cluster.compute.{key}"]
        assert values.max() == pytest.approx(1.0)
        assert values.max() <= 1.0
        assert np.median(values) == pytest.approx(share, rel=0.05)


def test_no_draw_of_a_share_whose_error_is_stated_exceeds_1() -> None:
    cluster = replace(Cluster.load("8x-h100"), errors={"compute.gemm.memory_share": 0.2})
    key = "times.cluster.compute.gemm.memory_share"
    assert isinstance(cluster.compute, Gpu)
    assert drawn(inputs_of(cluster), 1000, 3)[key].max() * cluster.compute.gemm.memory_share <= 1.0


def test_draws_are_seeded_paired_and_centred() -> None:
    inputs = inputs_of(Cluster.load("8x-h100"))
    once, again = drawn(inputs, 1000, 3), drawn(inputs, 1000, 3)
    assert once.keys() == {key for each in inputs for key in each.keys}
    for key, values in once.items():
        assert np.array_equal(values, again[key])
        assert values[0] == 1.0
        assert np.median(values) == pytest.approx(1.0, abs=0.05)
    port = once["times.cluster.link.resources.port.bytes_per_s"]
    assert np.log(port).std() == pytest.approx(np.log(1.1), rel=0.1)


def linear(changes: dict[str, Any], draws: int) -> Any:
    """log(seconds) = 3 log(a) + log(b): variances 9 to 1 where a and b err alike."""
    names = sorted(changes)
    assert all(len(values) == draws for values in changes.values())
    return changes[names[0]] ** 3 * changes[names[1]] * np.ones(draws)


def test_sobol_indices_of_a_sum_are_the_shares_of_variance() -> None:
    inputs = [replace(inputs_of(CLUSTER)[0], name=key, keys=(f"times.{key}",), error=0.1) for key in ("a", "b")]
    found = influences(inputs, linear, 512, seed=0)
    assert [one.input.name for one in found] == ["a", "b"]
    for one, share in zip(found, (0.9, 0.1), strict=True):
        assert one.first == pytest.approx(share, abs=0.03)
        assert one.total == pytest.approx(share, abs=0.03)
    assert one_at_a_time(inputs, linear)[0] == pytest.approx([1.1**-3 - 1, 1.1**3 - 1])
    with pytest.raises(ValueError, match="should be a power of 2"):
        influences(inputs, linear, 100, seed=0)


def test_factors_move_only_their_own_keys() -> None:
    inputs = inputs_of(Cluster.load("8x-h100"))
    moved = factors(inputs, np.eye(len(inputs)))
    for n, each in enumerate(inputs):
        for key in each.keys:
            assert moved[key][n] == pytest.approx(1 + each.error)
            assert np.delete(moved[key], n).tolist() == [1.0] * (len(inputs) - 1)


def test_a_ranking_counts_draws() -> None:
    found = ranking(np.array([[1.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 1.0]]))
    assert found.best.tolist() == [0.625, 0.375]
    assert found.faster[0, 1] == 0.625
    assert found.pairs == 0.625
