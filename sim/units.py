"""Quantities as people write them: "200 Mbit/s" -> 25e6 (bytes a second).  Inside, everything is SI and says so in
its name; this is the only place where units are converted."""

from __future__ import annotations

import re
from decimal import Decimal

UNITS: dict[str, dict[str, float]] = {
    "_s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "h": 3600.0, "d": 86400.0},
    "_bytes": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "_bytes_per_s": {
        "B/s": 1.0,
        "kB/s": 1e3,
        "MB/s": 1e6,
        "GB/s": 1e9,
        "TB/s": 1e12,
        "kbit/s": 125.0,
        "Mbit/s": 125e3,
        "Gbit/s": 125e6,
    },
    "_flops_per_s": {"FLOP/s": 1.0, "GFLOP/s": 1e9, "TFLOP/s": 1e12},
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def units_of(name: str) -> dict[str, float]:
    """Unit -> SI factor for a quantity called `name` ("link.latency_s"); empty for a plain number ("ranks")."""
    last = "_" + name.rsplit(".", 1)[-1]
    suffix = max((s for s in UNITS if last.endswith(s)), key=len, default="")
    return {} if suffix == "_s" and last.endswith("_per_s") else UNITS.get(suffix, {})  # images_per_s: no seconds


def quantity(name: str, value: object) -> float:
    """`value` of the quantity called `name`, in SI: a number, or a text of number and unit.

    Raises ValueError if it is neither, or if its unit does not measure what the name's suffix says."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{name}: {value!r} is not a number, or a number and a unit")
    units = units_of(name)
    if found[2] and found[2] not in units:
        known = ", ".join(units) or "none: it is a plain number"
        raise ValueError(f"{name}: unknown unit {found[2]!r} in {value!r}; known here: {known}")
    try:
        return float(Decimal(found[1]) * Decimal(repr(units.get(found[2], 1.0))))  # "5 us" is 5e-6, to the last bit
    except ArithmeticError:
        raise ValueError(f"{name}: {value!r} is too large or too small") from None


def readable(name: str, value: float, digits: int | None = None) -> str:
    """`value` (SI) of the quantity called `name` in the largest unit that keeps it at 1 or above: "25 MB/s".

    digits: significant ones; 4 if not given, 6 of a plain number."""
    units = {size: unit for unit, size in units_of(name).items() if "i" not in unit}
    if not units:
        return f"{value:.{digits or 6}g}"
    size = max((size for size in units if size <= abs(value)), default=min(units) if value else 1.0)
    return f"{value / size:.{digits or 4}g} {units[size]}"


def told_apart(name: str, value: float, other: float, digits: int = 4) -> str:
    """`value` as `readable` tells it, of at least so many digits, and so many that `other` does not read the same."""
    texts = ((readable(name, value, n), readable(name, other, n)) for n in range(digits, 17))
    return next((mine for mine, its in texts if mine != its), readable(name, value, 17))
