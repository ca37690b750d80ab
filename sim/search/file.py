"""A search as a file.

    search: settings                                       which settings (sim/sweeps/settings.py) are best, by Optuna
    base: {schedule: interweaved, steps: 50, model: XL, cluster: 8x-rtx4090}
    axes:                                                  values or ranges, as in a sweep
      schedule.stride: [0, 5, 10]
      images: {low: 4, high: 32, whole: true}
    minimize: [makespan_s, mean_age_steps]                 columns of a sweep's results; or image_cost
    limits: ["memory_bytes <= 24e9"]                       what is not within them, counts as worse than all that is
    vulnerability: digits                                  whose image_cost (sim/vulnerability.py)
    trials: 100
    seed: 0

    search: layers                                         a mode for each layer (sim/search/layers.py)
    base: {steps: 50, model: XL, cluster: 8x-rtx4090, images: 16}
    modes: [sync, stale, "sync 1,2"]                       what a layer may be: synchronous or stale, slots' intervals
    vulnerability: digits                                  the cost; mean age where there is none
    points: 8                                              of the front, that are printed
    probes: 20                                             random choices that are timed, to see how far layers add up

    search: order                                          the order of ops, micro-batches, slots, steps
    base: {schedule: interweaved, ...}                     where it begins, and what may not be exceeded: its mean age
    trials: 200                                            (sim/search/order.py)
    seed: 0

It knows how a search is written; it refuses to know how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sim.cluster import Cluster
from sim.schedule import Schedule
from sim.search.layers import MORE_MODES
from sim.search.layerwise import Mode
from sim.sweeps.file import read_tables, sweep_of
from sim.sweeps.formula import Formula
from sim.sweeps.point import build, read_sources
from sim.sweeps.rows import RESULTS
from sim.sweeps.settings import DEFAULTS, settings_problems
from sim.sweeps.sweep import Sweep
from sim.tables import readable
from sim.vulnerability import Vulnerability
from sim.workload import Workload

IMAGE_COST = "image_cost"
_GOALS = (*(name for name in RESULTS if name not in ("engine", "error", "memory_fits")), IMAGE_COST)
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid")
    base: dict[str, Any]
    vulnerability: str | None = None
    seed: Seed = 0


class _Settings(_Base):
    search: Literal["settings"]
    axes: dict[str, Any]
    minimize: Annotated[list[str], Field(min_length=1)]
    limits: list[str] = Field(default_factory=list)
    trials: Annotated[int, Field(ge=1, le=10**6)]


class _Layers(_Base):
    search: Literal["layers"]
    modes: Annotated[list[str], Field(min_length=2)] = Field(default_factory=lambda: [str(mode) for mode in MORE_MODES])
    points: Annotated[int, Field(ge=1, le=1000)] = 8
    probes: Annotated[int, Field(ge=1, le=1000)] = 20


class _Order(_Base):
    search: Literal["order"]
    trials: Annotated[int, Field(ge=1, le=10**6)]


@dataclass(frozen=True)
class Run:
    """One schedule, workload and cluster."""

    schedule: Schedule
    workload: Workload
    cluster: Cluster


@dataclass(frozen=True)
class SettingsSearch:
    """What may be chosen is a sweep's axes; `minimize` are columns, `limits` conditions on columns."""

    sweep: Sweep
    minimize: tuple[str, ...]
    limits: tuple[str, ...]
    vulnerability: Vulnerability | None
    trials: int
    seed: int


@dataclass(frozen=True)
class LayersSearch:
    """start: the base, synchronous."""

    start: Run
    modes: tuple[Mode, ...]
    vulnerability: Vulnerability | None
    points: int
    probes: int
    seed: int


@dataclass(frozen=True)
class OrderSearch:
    """start: where the search begins."""

    start: Run
    vulnerability: Vulnerability | None
    trials: int
    seed: int


Search = SettingsSearch | LayersSearch | OrderSearch


def read_search(path: Path | str, changes: Sequence[str] = ()) -> Search:
    """The search in a YAML file, with `changes` ("trials=10") carried out.

    Raises ValueError with a line for everything that is wrong, or OSError if the file cannot be read."""
    tables = read_tables(path, changes)
    kinds: TypeAdapter[Any] = TypeAdapter(Annotated[_Settings | _Layers | _Order, Field(discriminator="search")])
    try:
        file = kinds.validate_python(tables)
    except ValidationError as error:
        lines = [str(each["msg"]) if not each["loc"] else line
                 for each, line in zip(error.errors(), readable(error.errors()), strict=True)]  # fmt: skip
        raise ValueError("\n".join(f"{path}: {line}" for line in lines)) from None
    vulnerability = None if file.vulnerability is None else Vulnerability.load(file.vulnerability)
    try:
        return _made(file, vulnerability, path)
    except ValueError as error:
        told = str(error)
        raise ValueError(told if told.startswith(str(path)) else f"{path}: {told}") from None


def _made(file: _Settings | _Layers | _Order, vulnerability: Vulnerability | None, path: Path | str) -> Search:
    if isinstance(file, _Settings):
        sweep = _sweep(file, path)
        _check_goals(file, sweep, vulnerability)
        goals = tuple(file.minimize), tuple(file.limits)
        return SettingsSearch(sweep, *goals, vulnerability, file.trials, file.seed)
    if isinstance(file, _Order):
        return OrderSearch(_run(file.base), vulnerability, file.trials, file.seed)
    if "schedule" in file.base:
        raise ValueError("base.schedule has no effect on a search of layers, whose modes say what they are")
    modes = tuple(map(Mode.parse, file.modes))
    if len({*modes}) < len(modes):
        raise ValueError(f"modes: {', '.join(file.modes)} name one twice")
    return LayersSearch(
        _run({**file.base, "schedule": "sync"}), modes, vulnerability, file.points, file.probes, file.seed
    )


def _sweep(file: _Settings, path: Path | str) -> Sweep:
    """Its axes as those of a sweep of which every point may be drawn."""
    drawn = {"kind": "random", "points": file.trials, "seed": file.seed}
    return sweep_of({"base": file.base, "axes": file.axes, "plan": drawn}, path)


def _check_goals(file: _Settings, sweep: Sweep, vulnerability: Vulnerability | None) -> None:
    """Raises ValueError for a goal or limit that no result has, or a vulnerability that nothing asks for."""
    for goal in file.minimize:
        if goal not in _GOALS:
            raise ValueError(f"minimize: there is no {goal}; there are {', '.join(_GOALS)}")
    if len({*file.minimize}) < len(file.minimize):
        raise ValueError(f"minimize: {', '.join(file.minimize)} name one twice")
    known = {*_GOALS, *DEFAULTS, *sweep.base, *(axis.key for axis in sweep.axes)}
    asked = {*file.minimize}
    for limit in file.limits:
        names = Formula(limit).names
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"limits: {limit!r}: there is no {', '.join(unknown)}")
        asked |= {*names}
    if (vulnerability is None) == (IMAGE_COST in asked):
        told = f"{IMAGE_COST} needs one" if vulnerability is None else f"has no effect: nothing asks for {IMAGE_COST}"
        raise ValueError(f"vulnerability: {told}")


def _run(base: dict[str, Any]) -> Run:
    problems = settings_problems(base)
    named = {key: [base[key]] if key in base else [] for key in ("cluster", "model", "schedule", "routing")}
    sources, faults = read_sources(named)
    if problems := [*problems, *faults.values()]:
        raise ValueError("\n".join(f"base.{problem}" for problem in problems))
    return Run(*build(base, sources))
