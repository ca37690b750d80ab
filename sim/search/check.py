"""What is wrong with a search, a line each: its goals, limits, modes and latencies, and where it begins.

It knows what can be seen before anything runs; a sweep's settings and axes are looked at by sim/sweeps/check.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sim.schedule import Schedule, ScheduleError
from sim.search.layerwise import Mode
from sim.sweeps.formula import Formula
from sim.sweeps.rows import RESULTS
from sim.sweeps.settings import DEFAULTS, in_si, setting_kind, settings_problems
from sim.units import quantity
from sim.vulnerability import Vulnerability, quality_cost

QUALITY, FITS = "quality", "memory_fits"
GOALS = tuple(name for name in RESULTS if name not in ("engine", "error", FITS))
_SAMPLES: dict[str, Any] = {"double": 1.0, "int64": 1, "bool": True, "string": "text"}  # of a column of that kind


def bare(goal: str) -> str:
    """The column that a goal names: of "-images_per_s", images_per_s."""
    return goal.removeprefix("-")


def goal_problems(minimize: Sequence[str]) -> Iterator[str]:
    """Goals that no result has, or that stand there twice."""
    for i, goal in enumerate(minimize):
        if bare(goal) not in GOALS:
            yield f"minimize[{i}]: there is no {bare(goal)}; there are {', '.join(GOALS)}, each also with a leading -"
        elif bare(goal) in map(bare, minimize[:i]):
            yield f"minimize[{i}]: {goal!r} names a column twice"


def limit_problems(limits: Sequence[str], base: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterator[str]:
    """Limits that cannot be read, stand there twice, are no condition, or ask for what no result has."""
    columns = {name: np.array([_SAMPLES[kind]]) for name, kind in _kinds(base, axes).items()}
    for i, limit in enumerate(limits):
        try:
            names = Formula(limit).names
            unknown = [name for name in names if name not in columns]
            if not unknown:
                Formula(limit).mask(columns)
        except ValueError as error:
            yield f"limits[{i}]: {error}"
            continue
        if not names:
            yield f"limits[{i}]: {limit!r} asks for no column"
        elif unknown:
            yield f"limits[{i}]: {limit!r}: there is no {', '.join(unknown)}"
        elif limit in limits[:i]:
            yield f"limits[{i}]: {limit!r} stands there twice"


def _kinds(base: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, str]:
    """Column -> its kind, of results and of all settings that there are or that the file says."""
    said: dict[str, Sequence[Any]] = {key: [value] for key, value in {**DEFAULTS, **base}.items()}
    said |= {key: values if isinstance(values, list) else [1.0] for key, values in axes.items()}
    kinds = {**dict.fromkeys(GOALS, "double"), FITS: "bool"}
    for key, values in said.items():
        try:
            kinds[key] = setting_kind(key, [in_si(key, value) for value in values])
        except (KeyError, ValueError):  # no such setting, or no such unit, which is said where it stands
            kinds[key] = "double"
    return kinds


def asks_quality(minimize: Sequence[str], limits: Sequence[str]) -> bool:
    """Whether a goal or a limit does."""
    names = {bare(goal) for goal in minimize}
    for limit in limits:
        try:
            names |= {*Formula(limit).names}
        except ValueError:  # which is said where it stands
            continue
    return QUALITY in names


def vulnerability_problems(said: str | None, elsewhere: bool, asked: bool) -> Iterator[str]:
    """Of a search of settings: one that is missing, stands there twice, or has no effect."""
    if asked and said is None and not elsewhere:
        yield f"vulnerability: missing; {QUALITY} needs one"
    if said is not None and elsewhere:
        yield f"vulnerability: {said!r}, and one is in base or axes, too"
    if said is not None and not asked:
        yield f"vulnerability: {said!r} has no effect: nothing asks for {QUALITY}"


# ------------------------------------------------------------------------------------- layers, and orders


def base_problems(base: Mapping[str, Any]) -> Iterator[str]:
    """Settings of where a search of layers or orders begins, by themselves."""
    yield from settings_problems(base)
    if base.get("seed") is not None:
        yield f"seed: {base['seed']!r} has no effect: what is timed has no noise; of the search, say seed beside base"
    if base.get("vulnerability") is not None:
        yield f"vulnerability: {base['vulnerability']!r} has no effect; say it beside base"


def cost_problems(start: Schedule, vulnerability: Vulnerability | None) -> Iterator[str]:
    """A vulnerability that says nothing of such schedules."""
    if vulnerability is not None:
        try:
            quality_cost(start, vulnerability)
        except ValueError as error:
            yield f"vulnerability: {error}"


def read_modes(texts: Sequence[str], problems: list[str]) -> tuple[Mode, ...]:
    """The modes that can be read; `problems` gets a line for each that cannot, or stands there twice."""
    modes = list[Mode]()
    for i, text in enumerate(texts):
        try:
            mode = Mode.parse(text)
        except ScheduleError as error:
            problems.append(f"modes[{i}]: {error}")
            continue
        if mode in modes:
            problems.append(f"modes[{i}]: {text!r} names one twice")
        modes.append(mode)
    return tuple(modes)


def read_latencies(said: Sequence[Any], points: int | None, problems: list[str]) -> tuple[float, ...]:
    """Seconds that can be read; `problems` gets a line for each that cannot, or stands there twice."""
    found = list[float]()
    if said and points is not None:
        problems.append(f"points: {points} has no effect beside latency_s, which says what is asked for")
    for i, value in enumerate(said):
        try:
            seconds = quantity("latency_s", value)
        except ValueError as error:
            problems.append(f"latency_s[{i}]: {str(error).removeprefix('latency_s: ')}")
            continue
        if not 0 < seconds < float("inf"):
            problems.append(f"latency_s[{i}]: {value!r} should be above 0")
        if seconds in found:
            problems.append(f"latency_s[{i}]: {value!r} stands there twice")
        found.append(seconds)
    return tuple(found)


def layers_problems(start: Schedule, modes: Sequence[Mode]) -> Iterator[str]:
    """A network of which there is nothing to choose, and modes that its layers cannot have."""
    if start.layers < 2:
        yield f"base: a network of {start.layers} layer has nothing to choose among; a search of layers takes two"
    for mode in modes:
        if mode.intervals and len(mode.intervals) != start.top_k:
            yield f"modes: {str(mode)!r} should have an interval for each of top_k={start.top_k} slots"
