"""Limits of a search, and by how much a row misses them, so that of two that miss, one may be nearer.

It knows conditions on columns; it refuses to know what a column means."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.sweeps.formula import Formula

_LEAST, _WHOLE = 1e-12, 1.0
Row = Mapping[str, Any]


def excess(limit: str, row: Row) -> float:
    """0 for a row within the limit.  Else the share of the bound by which it is missed, where the limit is one
    comparison of two numbers; 1 for any other condition, or where the row has no such value."""
    columns = {key: np.array([value]) for key, value in row.items() if value is not None}
    if any(name not in columns for name in Formula(limit).names):
        return _WHOLE
    if Formula(limit).mask(columns)[0]:
        return 0.0
    match ast.parse(limit.strip(), mode="eval").body:
        case ast.Compare(left=left, ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE()], comparators=[right]):
            is_, bound = (Formula(ast.unparse(side))(columns)[0] for side in (left, right))
            far = abs(float(is_) - float(bound)) / max(abs(float(bound)), _LEAST)
            return max(_LEAST, far) if np.isfinite(far) else _WHOLE
    return _WHOLE


def missed(limits: Sequence[str], row: Row) -> list[str]:
    """The limits that a row misses, each with the values that it asks for."""
    told = []
    for limit in limits:
        if excess(limit, row):
            values = ", ".join(f"{name}={_value(row.get(name))}" for name in Formula(limit).names)
            told.append(f"{limit} ({values})")
    return told


def _value(value: Any) -> str:
    return "not known" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
