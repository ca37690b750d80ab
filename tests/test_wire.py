"""How rows travel: as far off as the format says, and as many bytes as a workload counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from realrun.wire import decode, encode, round_trip
from sim.workload import MODELS, WIRES, Workload

DTYPES = (torch.float64, torch.float32, torch.bfloat16)
PLAIN = ("float64", "float32", "bfloat16", "float16")


def rows(seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """[50, 33]: rows whose magnitudes differ by orders, with single elements far above the others."""
    draw = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.randint(-3, 3, (50, 1), generator=draw, dtype=torch.float64)
    return (torch.randn(50, 33, generator=draw, dtype=torch.float64) ** 3 * sizes * scale).to(dtype)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_takes_the_bytes_that_a_workload_counts(wire: str, dtype: torch.dtype) -> None:
    shape = replace(MODELS["tiny"], hidden=32, heads=2)
    sent = encode(torch.ones(5, 32, dtype=dtype), wire)
    assert sent.is_contiguous()
    assert sent.nbytes == 5 * Workload(shape, 2, 1, wire).row_bytes
    assert encode(torch.ones(0, 32, dtype=dtype), wire).shape == (0, sent.shape[1])
    assert round_trip(torch.ones(0, 32, dtype=dtype), wire).shape == (0, 32)


@given(st.integers(0, 2**32), st.sampled_from([1e-30, 1.0, 1e30]))
def test_scaled_rows_are_off_by_no_more_than_the_format_allows(seed: int, scale: float) -> None:
    given_RD = rows(seed, scale)
    largest_R1 = given_RD.abs().amax(dim=1, keepdim=True)
    slack_R1 = 2.0**-22 * largest_R1  # of the scale, a float32
    off_RD = (round_trip(given_RD, "int8") - given_RD).abs()
    assert (off_RD <= largest_R1 / 254 + slack_R1).all()
    assert (off_RD > largest_R1 / 1000).any(), "8 bits are not that good"
    off_RD = (round_trip(given_RD, "float8") - given_RD).abs()
    assert (off_RD <= torch.maximum(given_RD.abs() / 16, largest_R1 / 2**18) + slack_R1).all()
    assert (off_RD > given_RD.abs() / 100).any()


@pytest.mark.parametrize("wire", PLAIN)
def test_plain_wires_are_casts(wire: str) -> None:
    given_RD = rows(1)
    torch.testing.assert_close(round_trip(given_RD, wire), given_RD.to(getattr(torch, wire)).double(), rtol=0, atol=0)


@pytest.mark.parametrize("wire", WIRES)
def test_a_second_trip_changes_little_or_nothing(wire: str) -> None:
    once_RD = round_trip(rows(2), wire)
    torch.testing.assert_close(round_trip(once_RD, wire), once_RD, rtol=1e-6, atol=0)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zeros_stay_zeros_and_rows_do_not_mind_each_other(wire: str, dtype: torch.dtype) -> None:
    given_RD = torch.tensor([[0.0, 0.0], [1.0, -1.0], [0.0, 1e-3]], dtype=dtype)
    came_RD = round_trip(given_RD, wire)
    assert came_RD.dtype == dtype
    assert (came_RD[0] == 0).all()
    torch.testing.assert_close(came_RD, given_RD, rtol=1e-2, atol=0)
    assert torch.equal(round_trip(given_RD[2:], wire), came_RD[2:])


@pytest.mark.parametrize("wire", ["float8", "int8"])
@pytest.mark.parametrize("worst", [torch.inf, -torch.inf, torch.nan])
def test_a_scaled_row_that_is_not_finite_is_lost_and_no_other(wire: str, worst: float) -> None:
    came_RD = round_trip(torch.tensor([[1.0, worst, 2.0], [1.0, 2.0, 3.0]]), wire)
    assert came_RD[0].isnan().all()
    assert came_RD[1].isfinite().all()


@pytest.mark.parametrize("wire", PLAIN)
def test_a_plain_row_keeps_its_infinities(wire: str) -> None:
    given_RD = torch.tensor([[1.0, torch.inf, -torch.inf]])
    assert torch.equal(round_trip(given_RD, wire), given_RD)


def test_some_rows_can_be_read_of_many() -> None:
    given_RD = rows(3)
    sent_RX = encode(given_RD, "int8")
    assert torch.equal(decode(sent_RX[10:20], "int8", torch.float64), round_trip(given_RD, "int8")[10:20])
