"""What is wrong with a sweep, a line each: with its settings, its plan, its filters, and with values with which no
point can be run (sim/sweeps/blame.py).

It knows what can be seen before anything runs; what only a run can tell becomes a row's error (sim/sweeps/rows.py)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sim.sweeps.blame import blame
from sim.sweeps.formula import Formula
from sim.sweeps.point import Sources
from sim.sweeps.points import as_cells
from sim.sweeps.settings import DEFAULTS, HOUSES, REQUIRED, Plain, in_si, value_problem
from sim.sweeps.sweep import Axis, Plan

GRIDS_UP_TO = 10**8  # points before filters
_MANY = 8  # values of an axis
_STAND_IN = 50  # steps, where those said cannot be, so that the rest can be looked at
Settings = Mapping[str, Any]


def setting_problems(base: Settings, axes: Sequence[Axis], said: Collection[str]) -> Iterator[str]:
    """Settings that are unknown, wrong by themselves, said twice, or missing.  said: all axes, readable or not."""
    yield from (f"axes.{key}: is in base, too" for key in said if key in base)
    yield from (f"base.{key}: {problem}" for key, value in base.items() if (problem := wrong_by_itself(key, value)))
    yield from (f"axes.{one}: says what {other} says" for one, other in _same_numbers([*said], [*base, *said]))
    for axis in axes:
        problems = {i: problem for i, value in enumerate(axis.ends) if (problem := wrong_by_itself(axis.key, value))}
        kinds = {isinstance(value, str) for value in axis.values if value is not None}
        if not (axis.key in Plain.model_fields or axis.key.startswith(HOUSES)):
            yield f"axes.{axis.key}: {problems[0]}"
        elif not problems and len(kinds) > 1:
            yield f"axes.{axis.key}: should be all numbers, or all texts: {', '.join(map(str, axis.values))}"
        else:
            yield from (f"axes.{axis.key}[{i}]: {problem}" for i, problem in problems.items())
    for key in REQUIRED:
        if key not in base and key not in said:
            yield f"{key}: missing; it has to be in base or axes"


def wrong_by_itself(key: str, value: Any) -> str:
    """What is wrong with a setting, or with its value, whatever the others are; None is no value."""
    if value is None and key in REQUIRED:
        return "null: it has to be given"
    if value is None and (key in Plain.model_fields or key.startswith(HOUSES)):
        return ""
    try:
        return value_problem(key, in_si(key, value))
    except ValueError as error:
        return str(error)


def _same_numbers(axes: Sequence[str], settings: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(axis, setting) of which one has a * where the other has a name, so that they set the same number."""
    for axis, other in itertools.product(axes, settings):
        parts = [*itertools.zip_longest(axis.split("."), other.split("."))]
        if axis != other and "*" in axis.split(".") and all(a == b or (a and b and "*" in (a, b)) for a, b in parts):
            yield axis, other


def plan_problems(plan: Plan, axes: Sequence[Axis]) -> Iterator[str]:
    """What is missing, or has no effect, of how points are drawn."""
    if plan.kind == "grid":
        for key in ("points", "seed"):
            if getattr(plan, key) is not None:
                yield f"plan.{key}={getattr(plan, key)} has no effect on a grid"
        if (size := math.prod(max(1, len(axis.values)) for axis in axes)) > GRIDS_UP_TO:
            yield f"axes: a grid of {size:.3g} points; {GRIDS_UP_TO:.0e} at most: draw some, as plan: {{kind: sobol}}"
    elif plan.points is None:
        yield f"plan.points: missing; how many should {plan.kind} draw?"


def filter_problems(
    filters: Sequence[str], base: Settings, axes: Sequence[Axis], said: Collection[str]
) -> Iterator[str]:
    """Filters that cannot be read, ask for what no point has, or are no conditions on what points have."""
    values = {**dict.fromkeys(said), **DEFAULTS, **base, **{axis.key: axis.ends[0] for axis in axes}}
    columns = {key: as_cells([value]) for key, value in values.items() if not isinstance(value, list | dict)}
    for i, text in enumerate(filters):
        try:
            formula = Formula(text)
            if unknown := [name for name in formula.names if name not in columns]:
                yield f"filters[{i}]: {text!r}: there is no setting {', '.join(unknown)}"
            else:
                formula.mask(columns)
        except ValueError as error:
            yield f"filters[{i}]: {error}"


def _looked_at(axis: Axis) -> Sequence[Any]:
    """All its values, or of many numbers the least, one between and the greatest: each look takes up to a second."""
    values = axis.ends
    if len(values) <= _MANY or not all(type(value) in (int, float) for value in values):
        return values
    ordered = sorted(values)
    return ordered[0], ordered[len(ordered) // 2], ordered[-1]


def refused(
    base: Settings, axes: Sequence[Axis], sources: Sources, unread: Collection[tuple[str, Any]]
) -> Iterator[str]:
    """Values with which no point can be run, as far as can be seen without running any.

    What is wrong by itself (`value_problem`, or in `unread`) is left away before: it has been told."""

    def stands(key: str, value: Any) -> bool:
        return not wrong_by_itself(key, value) and (key, value) not in unread

    keys = {axis.key for axis in axes}
    fit = {key: value for key, value in base.items() if key not in keys and stands(key, value)}
    if "steps" not in fit and "steps" not in keys and "steps" in base:
        fit["steps"] = _STAND_IN
    choices = {axis.key: [value for value in _looked_at(axis) if stands(axis.key, value)] for axis in axes}
    found = blame(fit, {key: values for key, values in choices.items() if values}, sources)
    for key, told in found:
        yield f"{'base' if key in fit else 'axes'}.{key}: {told}".removeprefix("axes.: ")
