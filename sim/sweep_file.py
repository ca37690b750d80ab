"""A sweep as a file: what all points share, axes, how points are drawn, and which are left out.

    base: {schedule: sync, steps: 50, model: XL, cluster: 8x-h100}     settings of every point (sim/point.py)
    axes:
      schedule: [sync, displaced, dice]                                values
      images: [4, 8, 16, 32]
      times.cluster.link.resources.port.bytes_per_s: {low: 0.5, high: 2, count: 7, scale: log}
    plan: {kind: grid}            all combinations; or random, latin (hypercube) or sobol: {kind: sobol, points: 1024,
                                  seed: 0}, where an axis may be a range without a count
    filters: ["images <= 16 or schedule != 'sync'"]                    points for which one is false are left out

The whole file is looked at before anything runs, and every fault is said at once, with its place and value.  It knows
how a sweep is written; it refuses to know the numbers of points (sim/sweep_points.py)."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sim.cost import check_compute
from sim.formula import Formula
from sim.gpu import Gpu
from sim.point import (
    DEFAULTS,
    HOUSES,
    Plain,
    Sources,
    build,
    in_si,
    read_sources,
    setting_kind,
    settings_problems,
    value_problem,
)
from sim.tables import readable

GRIDS_UP_TO = 10**8  # points before filters
_TRIES = 64
_CLOSED = ConfigDict(extra="forbid")


class _Range(BaseModel):
    model_config = _CLOSED
    low: float | str
    high: float | str
    count: Annotated[int, Field(ge=2)] | None = None
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False


class Plan(BaseModel):
    """How points are drawn: a grid has every combination; the others draw `points` of them, seeded."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["grid", "random", "latin", "sobol"] = "grid"
    points: Annotated[int, Field(ge=1, le=10**7)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


class _File(BaseModel):
    model_config = _CLOSED
    base: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    plan: Plan = Plan()
    filters: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Axis:
    """A setting and its values; or, where a plan draws them, its range."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its values, or the ends of its range: what can be looked at one by one."""
        return self.values or tuple(int(end) if self.whole else end for end in (self.low, self.high))


@dataclass(frozen=True)
class Sweep:
    """A file that has been looked at.  base: settings of every point, in SI; axes in the order of the file."""

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    plan: Plan
    filters: tuple[str, ...]
    sources: Sources

    @cached_property
    def digest(self) -> str:
        """What it is known by: two sweeps of the same digest have the same points, files and presets included."""
        values = {"base": dict(self.base), "axes": [repr(axis) for axis in self.axes]}
        held = [
            (key, name, self.sources.digest(key, name))
            for key in ("cluster", "model", "schedule", "routing")
            for name in sorted(getattr(self.sources, f"{key}s"))
        ]
        text = json.dumps([values, self.plan.model_dump(), self.filters, held], sort_keys=True, default=str)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Settings by name -> kind of column: those that are something by default, and those that this one says."""
        usual = {key: (value,) for key, value in DEFAULTS.items() if value is not None}
        values: dict[str, tuple[Any, ...]] = {**usual, **{key: (value,) for key, value in self.base.items()}}
        values |= {axis.key: axis.ends for axis in self.axes}
        return {key: setting_kind(key, said) for key, said in values.items()}


def read_sweep(path: Path | str, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file, with `changes` ("plan.points=100") carried out.

    Raises ValueError with a line for everything that is wrong, or OSError if the file cannot be read."""
    return sweep_of(read_tables(path, changes), path)


def sweep_of(tables: Any, path: Path | str) -> Sweep:
    """The sweep that `tables` write, which `path` holds.  Raises ValueError with a line for everything that is wrong."""
    problems = list[str]()
    try:
        file = _File.model_validate(tables)
    except ValidationError as error:
        lines = [f"{path}: {line.replace('Extra inputs are not permitted', 'unknown key')}"
                 for line in readable(error.errors())]  # fmt: skip
        raise ValueError("\n".join(lines)) from None
    axes = [*_axes(file, problems)]
    base = {key: _si(f"base.{key}", key, value, problems) for key, value in file.base.items()}
    problems += _setting_problems(base, axes)
    problems += _plan_problems(file, axes)
    problems += _filter_problems(file.filters, {*DEFAULTS, *base, *file.axes})
    named = {key: [base[key]] if key in base else [] for key in ("cluster", "model", "schedule", "routing")}
    named |= {axis.key: [*axis.values] for axis in axes if axis.key in named}
    sources = read_sources(named, problems)
    if not problems:
        problems += _refused(base, axes, sources)
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in dict.fromkeys(problems)))
    return Sweep(base, tuple(axes), file.plan, tuple(file.filters), sources)


def read_tables(path: Path | str, changes: Sequence[str]) -> Any:
    """What the file holds, by OmegaConf: 1e9 is a number, ${base.images} another value."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        read = OmegaConf.create(Path(path).read_text() or "{}")
        if not isinstance(read, DictConfig):
            raise ValueError(f"{path}: should have base, axes, plan and filters, not {type(read).__name__}")
        if wrong := [change for change in changes if "=" not in change]:
            raise ValueError(f"{wrong[0]!r} should look like plan.points=100")
        return OmegaConf.to_container(OmegaConf.merge(read, OmegaConf.from_dotlist([*changes])), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _axes(file: _File, problems: list[str]) -> Iterator[Axis]:
    """The axes that can be made out."""
    for key, said in file.axes.items():
        place = f"axes.{key}"
        if isinstance(said, list):
            values = tuple(_si(f"{place}[{i}]", key, value, problems) for i, value in enumerate(said))
            if not values:
                problems.append(f"{place}: is empty")
            if twice := [repr(value) for i, value in enumerate(values) if value in values[:i]]:
                problems.append(f"{place}: {twice[0]} stands there twice")
            yield Axis(key, values)
        elif isinstance(said, dict):
            yield from _ranged(place, key, said, file.plan.kind == "grid", problems)
        else:
            problems.append(f"{place}: {said!r} should be a list, or a range: {{low: 1, high: 2}}")


def _ranged(place: str, key: str, said: dict[str, Any], grid: bool, problems: list[str]) -> Iterator[Axis]:
    try:
        made = _Range.model_validate(said)
    except ValidationError as error:
        problems += [f"{place}.{line}" for line in readable(error.errors())]
        return
    low, high = (_si(f"{place}.{end}", key, getattr(made, end), problems) for end in ("low", "high"))
    whole = made.whole or (value_problem(key, 1) == "" and setting_kind(key) == "int64")
    wrong = _range_problem(low, high, made, grid)
    if wrong:
        problems.append(f"{place}: {wrong}")
    elif made.count is None:
        yield Axis(key, (), float(low), float(high), made.scale == "log", whole)
    else:
        yield Axis(key, _spread(float(low), float(high), made, whole))


def _range_problem(low: Any, high: Any, made: _Range, grid: bool) -> str:
    if not all(isinstance(end, int | float) for end in (low, high)):
        return f"{low!r} to {high!r} should be numbers"
    if not low < high < float("inf"):
        return f"low={low:g} should be below high={high:g}"
    if made.scale == "log" and low <= 0:
        return f"low={low:g} should be above 0 where scale=log"
    if grid and made.count is None:
        return "a grid needs a count, as {low: 1, high: 8, count: 4}"
    return ""


def _spread(low: float, high: float, made: _Range, whole: bool) -> tuple[Any, ...]:
    import numpy as np

    values = (np.geomspace if made.scale == "log" else np.linspace)(low, high, made.count or 2)
    return tuple(dict.fromkeys(np.rint(values).astype(int).tolist())) if whole else tuple(values.tolist())


def _si(place: str, key: str, value: Any, problems: list[str]) -> Any:
    try:
        return in_si(key, value)
    except ValueError as error:
        problems.append(f"{place}: {error}")
        return value


def _setting_problems(base: Mapping[str, Any], axes: Sequence[Axis]) -> Iterator[str]:
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


def _plan_problems(file: _File, axes: Sequence[Axis]) -> Iterator[str]:
    plan = file.plan
    if not file.axes:
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


def _filter_problems(filters: Sequence[str], known: set[str]) -> Iterator[str]:
    for i, text in enumerate(filters):
        try:
            unknown = [name for name in Formula(text).names if name not in known]
        except ValueError as error:
            yield f"filters[{i}]: {error}"
            continue
        if unknown:
            yield f"filters[{i}]: {text!r}: there is no setting {', '.join(unknown)}"


def _refused(base: Mapping[str, Any], axes: Sequence[Axis], sources: Sources) -> Iterator[str]:
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
