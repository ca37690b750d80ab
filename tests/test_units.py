"""Quantities as people write them, and as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.units import UNITS, quantity, readable, told_apart, units_of


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("link.bytes_per_s", "200 Mbit/s", 25e6),
        ("bytes_per_s", "1 Gbit/s", 125e6),
        ("compute.A.flops_per_s", "1.5 TFLOP/s", 1.5e12),
        ("link.latency_s", " 20us ", 20e-6),
        ("errors.link.latency_s", "3e2 ns", 300e-9),
        ("buffer_bytes", "2 MiB", 2 * 1024**2),
        ("latency_s", "-.5", -0.5),
        ("latency_s", "5us", 5e-6),
        ("latency_s", 3, 3.0),
    ],
)
def test_a_number_and_a_unit_become_si(name: str, text: object, value: float) -> None:
    assert quantity(name, text) == value


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        (
            "link.bytes_per_s",
            "3 ms",
            r"link\.bytes_per_s: unknown unit 'ms' in '3 ms'; known here: B/s, kB/s, .*Gbit/s",
        ),
        ("latency_s", "3 MB", r"unknown unit 'MB' in '3 MB'; known here: s, ms, us, ns"),
        ("ranks", "3 ms", r"ranks: unknown unit 'ms' in '3 ms'; known here: none: it is a plain number"),
        ("latency_s", "fast", r"latency_s: 'fast' is not a number, or a number and a unit"),
        ("latency_s", "3 ms ms", r"is not a number"),
        ("latency_s", True, r"True is not a number"),
        ("latency_s", None, r"None is not a number"),
    ],
)
def test_what_is_no_quantity_is_refused(name: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        quantity(name, value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("link.bytes_per_s", 25e6, "25 MB/s"),
        ("link.bytes_per_s", 2e5, "200 kB/s"),
        ("latency_s", 1e-3, "1 ms"),
        ("latency_s", -2.5e-6, "-2.5 us"),
        ("latency_s", 0.0, "0 s"),
        ("latency_s", 5e-10, "0.5 ns"),
        ("buffer_bytes", 0.5, "0.5 B"),
        ("buffer_bytes", 22178.4e9, "22.18 TB"),
        ("makespan_s", 3599.0, "3599 s"),
        ("makespan_s", 5400.0, "1.5 h"),
        ("makespan_s", 8.655e6, "100.2 d"),
        ("ranks", 8, "8"),
    ],
)
def test_readable_takes_the_largest_unit_that_fits(name: str, value: float, text: str) -> None:
    assert readable(name, value) == text


def test_values_that_differ_are_told_so_that_they_do() -> None:
    assert told_apart("memory_bytes", 0.9e9, 0.87e9) == "900 MB"
    assert told_apart("memory_bytes", 0.870041e9, 0.87e9) == "870.04 MB"
    assert told_apart("quality", 0.20004, 0.2, 3) == "0.20004"
    assert told_apart("quality", 0.34561, 0.2, 3) == "0.346"
    assert told_apart("makespan_s", 1.0, 1.0) == "1 s"


@given(st.sampled_from([*UNITS]), st.floats(1e-12, 1e15))
def test_what_is_readable_reads_back(name: str, value: float) -> None:
    assert quantity(name, readable(name, value)) == pytest.approx(value, rel=1e-3)


def test_a_rate_is_not_a_time() -> None:
    assert units_of("flops_per_s") is UNITS["_flops_per_s"]
    assert units_of("link.bytes_per_s") is UNITS["_bytes_per_s"]
    assert units_of("fixed_s") is UNITS["_s"]
    assert units_of("bits") == {}
