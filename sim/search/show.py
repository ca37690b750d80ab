"""What a search found, as text: tables with the cells of a sweep's results, and by how much rules of thumb are beaten.

It knows how rows are laid out; it refuses to know how they were found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.sweeps.results import rows_table
from sim.units import readable

if TYPE_CHECKING:
    from sim.search.run import Answer

Row = Mapping[str, Any]
_ONLY_KEPT = ("modes", "layers_add_up_to_s")  # in the folder's files: too long for a line


def answer_lines(answer: Answer) -> list[str]:
    """The rows, what they are held against, and what else is to be said."""
    found = _table([_row(row) for row in answer.rows])
    if found and answer.beside:
        exceeded = f"by how much its makespan and its {_cost_of(answer.beside[0])} are exceeded"
        found.append(f"over a rule: {exceeded}; below zero, what was found is better")
    parts = [found, _table([_rule(row) for row in answer.beside]), answer.notes]
    lines = [["", *part] for part in parts if part]
    return [line for part in lines for line in part][1:]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    import pandas as pd

    return rows_table(pd.DataFrame(rows, dtype=object), [*rows[0]]) if rows else []


def _row(row: Row) -> dict[str, Any]:
    """A line; what is a table itself, in words."""
    told: dict[str, Any] = {}
    for key, value in row.items():
        if key == "against":
            told |= {f"over {rule}": f"{_change(far['makespan'])}, {_change(far['cost'])}"
                     for rule, far in value.items()}  # fmt: skip
        elif isinstance(value, Mapping):
            told[key] = " ".join(f"{name}={each}" for name, each in value.items()) or "-"
        elif key not in _ONLY_KEPT:
            told[key] = value
    return told


def _rule(row: Row) -> dict[str, Any]:
    """Where a rule stands: at its latency the least cost found, at its cost the shortest latency."""
    cost = _cost_of(row)
    as_fast, at_cost = row["as_fast"], row["at_cost"]
    return {**{key: row[key] for key in ("rule", "makespan_s", cost)},
            f"{cost} as fast": as_fast and _beside(f"{as_fast[cost]:.6g}", as_fast[cost], row[cost]),
            "makespan_s at this cost": at_cost and _beside(readable("_s", at_cost["makespan_s"]),
                                                           at_cost["makespan_s"], row["makespan_s"])}  # fmt: skip


def _cost_of(rule: Row) -> str:
    return [*rule][2]


def _beside(text: str, found: float, rule: float) -> str:
    return f"{text} ({_change(found / rule - 1 if rule else None)})"


def _change(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"
