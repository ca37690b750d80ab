"""What is wrong with a sweep, a line each: with its settings, its plan, its filters, and with values of its axes with
which no point can be run.

It knows what can be seen before anything runs; what only a run can tell becomes a row's error (sim/sweeps/rows.py)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.cost import check_compute
from sim.gpu import Gpu
from sim.sweeps.formula import Formula
from sim.sweeps.point import Sources, build
from sim.sweeps.settings import HOUSES, Plain, settings_problems, value_problem
from sim.sweeps.sweep import Axis, Plan

GRIDS_UP_TO = 10**8  # points before filters
_TRIES = 64


def setting_problems(base: Mapping[str, Any], axes: Sequence[Axis]) -> Iterator[str]:
    """Settings that are unknown, wrong by themselves, said twice, or missing."""
    keys = [axis.key for axis in axes]
    yield from (f"axes.{key}: is in base, too" for key in keys if key in base)
    given = {key: value for key, value in base.items() if value is not None}
    yield from (f"base.{problem}" for problem in settings_problems({"schedule": "-", "cluster": "-", **given}))
    for axis in axes:
        for i, value in enumerate(axis.ends):
            problem = value_problem(axis.key, value) if value is not None else ""
            if problem and (axis.key in Plain.model_fields or axis.key.startswith(HOUSES)):
                yield f"axes.{axis.key}[{i}]: {problem}"
            elif problem:
                yield f"axes.{axis.key}: {problem}"
                break
        if any(isinstance(v, str) for v in axis.values) and any(isinstance(v, int | float) for v in axis.values):
            yield f"axes.{axis.key}: should be all numbers, or all texts: {', '.join(map(str, axis.values))}"
    for key in ("schedule", "cluster"):
        if key not in base and key not in keys:
            yield f"{key}: missing; it has to be in base or axes"


def plan_problems(plan: Plan, axes: Sequence[Axis]) -> Iterator[str]:
    """What is missing, or has no effect, of how points are drawn."""
    if not axes:
        yield "axes: there are none; one point is `python -m sim simulate`"
    if plan.kind == "grid":
        for key in ("points", "seed"):
            if getattr(plan, key) is not None:
                yield f"plan.{key}={getattr(plan, key)} has no effect on a grid"
        size = 1
        for axis in axes:
            size *= max(1, len(axis.values))
        if size > GRIDS_UP_TO:
            yield f"axes: a grid of {size:.3g} points; {GRIDS_UP_TO:.0e} at most: draw some, as plan: {{kind: sobol}}"
    elif plan.points is None:
        yield f"plan.points: missing; how many should {plan.kind} draw?"


def filter_problems(filters: Sequence[str], known: set[str]) -> Iterator[str]:
    """Filters that cannot be read, or ask for what no point has."""
    for i, text in enumerate(filters):
        try:
            unknown = [name for name in Formula(text).names if name not in known]
        except ValueError as error:
            yield f"filters[{i}]: {error}"
            continue
        if unknown:
            yield f"filters[{i}]: {text!r}: there is no setting {', '.join(unknown)}"


def refused(base: Mapping[str, Any], axes: Sequence[Axis], sources: Sources) -> Iterator[str]:
    """Values with which no point can be run, as far as can be seen without running any."""
    for axis in axes:
        others = [each for each in axes if each is not axis]
        for value in axis.ends:
            first, tried = "", 0
            for combination in _combinations([each.ends for each in others]):
                point = {**base, axis.key: value, **dict(zip((each.key for each in others), combination, strict=True))}
                problem, tried = point_problem(point, sources), tried + 1
                if not problem:
                    break
                first = first or problem
            else:
                yield f"axes.{axis.key}: with {value!r}, none of {tried} points can be run: {first}"


def _combinations(values: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """All combinations, or the first and some at random where there are many."""
    size = 1
    for each in values:
        size *= len(each)
    if size <= _TRIES:
        yield from itertools.product(*values)
        return
    draw = random.Random(0)
    yield tuple(each[0] for each in values)
    yield from (tuple(draw.choice(each) for each in values) for _ in range(_TRIES - 1))


def point_problem(point: Mapping[str, Any], sources: Sources) -> str:
    """Why a point cannot be run, as far as can be seen without running it; "" if nothing is found."""
    try:
        schedule, workload, cluster = build(point, sources)
        workload.fits(schedule)
        check_compute(workload, cluster)
        if workload.dtype is not None and isinstance(cluster.compute, Gpu):
            cluster.compute.flops_per_s(workload.dtype)
    except (ValueError, OSError) as error:
        return str(error)
    if point.get("seed") is not None and not any(cluster.jitter.values()):
        return f"seed={point['seed']} has no effect: cluster {cluster.name} has no jitter"
    return ""
