"""Why a point has no results: it was refused (which is a result), it killed its worker, or the program has a fault.

It knows the words of a row's `error`; it refuses to know points and folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

REFUSED = "refused"
KILLED = "killed its worker, and once more alone: out of memory there, or ended from outside"
FAULT = "fault: "
_TOLD = 5  # reasons


def kind_of(error: str) -> str:
    """REFUSED, or what else became of a point with that error."""
    if error == KILLED:
        return "not run"
    return "a fault of the program" if error.startswith(FAULT) else REFUSED


def failure_lines(errors: pd.Series[str]) -> Iterator[str]:
    """How many points have no results, and the most frequent reasons; first those that are no refusals."""
    reasons = errors.dropna().value_counts()
    unmet = [error for error in reasons.index if kind_of(error) != REFUSED]
    refusals = [error for error in reasons.index if kind_of(error) == REFUSED]
    for error in [*unmet, *refusals[:_TOLD]]:
        yield f"{reasons[error]} {kind_of(error)}: {error.splitlines()[0]}"
    if len(refusals) > _TOLD:
        yield f"{sum(reasons[error] for error in refusals[_TOLD:])} refused for {len(refusals) - _TOLD} more reasons"
