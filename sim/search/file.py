"""A search as a file.

    search: settings                                       which settings (sim/sweeps/settings.py) are best, by Optuna
    base: {schedule: interweaved, steps: 50, model: XL, cluster: 8x-rtx4090}
    axes:                                                  values or ranges, as in a sweep
      schedule.stride: [0, 5, 10]
      images: {low: 4, high: 32, whole: true}
    minimize: [makespan_s, mean_age_steps]                 columns of a sweep's results; "-images_per_s": the more, the
                                                           better
    limits: ["memory_fits", "makespan_s <= 20"]            what is not within them, counts as worse than all that is
    vulnerability: digits                                  whose `quality` (sim/vulnerability.py), if that is asked for
    trials: 100
    seed: 0

    search: layers                                         a mode for each layer (sim/search/layers.py)
    base: {steps: 50, model: XL, cluster: 8x-rtx4090, images: 16}
    modes: [sync, stale, "sync 1,2"]                       what a layer may be: synchronous or stale, slots' intervals
    vulnerability: digits                                  the cost; mean age where there is none
    points: 8                                              of the front, that are printed; or, instead of them,
    latency_s: [0.6, 800 ms]                               the best for each of these
    probes: 20                                             random choices that are timed, to see how far layers add up

    search: order                                          the order of ops, micro-batches, slots, steps
    base: {schedule: interweaved, ...}                     where it begins, and what may not be exceeded: its mean age
    trials: 200                                            (sim/search/order.py)
    seed: 0

The whole file is looked at before anything runs, and every fault is said at once, with its place and value.  It knows
how a search is written; it refuses to know how it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from sim.cluster import Cluster
from sim.faults import CLOSED, faults
from sim.schedule import Schedule
from sim.search.check import (
    asks_quality,
    base_problems,
    cost_problems,
    goal_problems,
    layers_problems,
    limit_problems,
    read_latencies,
    read_modes,
    vulnerability_problems,
)
from sim.search.layers import MORE_MODES
from sim.search.layerwise import Mode
from sim.sweeps.blame import point_problems
from sim.sweeps.file import read_tables, sweep_of
from sim.sweeps.point import build, read_sources
from sim.sweeps.settings import in_si
from sim.sweeps.sweep import NAMING, Sweep
from sim.vulnerability import Vulnerability
from sim.workload import Workload

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Text = Annotated[str, BeforeValidator(str)]  # a number that should have been one is then looked at like the others
Trials = Annotated[int, Field(ge=1, le=10**6)]
POINTS = 8


def _as_list(said: Any) -> Any:
    """One value as a list of it."""
    return [said] if isinstance(said, str | int | float) else said


class _Base(BaseModel):
    model_config = CLOSED
    base: dict[str, Any]
    vulnerability: str | None = None
    seed: Seed = 0


class _Settings(_Base):
    search: Literal["settings"]
    axes: dict[str, Any]
    minimize: Annotated[list[Text], Field(min_length=1)]
    limits: list[Text] = Field(default_factory=list)
    trials: Trials


class _Layers(_Base):
    search: Literal["layers"]
    modes: Annotated[list[Text], Field(min_length=2)] = Field(
        default_factory=lambda: [str(mode) for mode in MORE_MODES]
    )
    points: Annotated[int, Field(ge=1, le=1000)] | None = None
    latency_s: Annotated[list[Any], Field(min_length=1), BeforeValidator(_as_list)] | None = None
    probes: Annotated[int, Field(ge=1, le=1000)] = 20


class _Order(_Base):
    search: Literal["order"]
    trials: Trials


_File = _Settings | _Layers | _Order
_KINDS: dict[str, type[_File]] = {"settings": _Settings, "layers": _Layers, "order": _Order}
_STAND_IN: dict[str, Any] = {
    "base": {},
    "axes": {},
    "minimize": ["makespan_s"],
    "trials": 1,
    "modes": ["sync", "stale"],
}  # where the file is wrong


@dataclass(frozen=True)
class Run:
    """One schedule, workload and cluster."""

    schedule: Schedule
    workload: Workload
    cluster: Cluster


@dataclass(frozen=True)
class SettingsSearch:
    """What may be chosen is a sweep's axes; `minimize` are columns, with a leading - where more is better; `limits`
    are conditions on columns."""

    sweep: Sweep
    minimize: tuple[str, ...]
    limits: tuple[str, ...]
    trials: int
    seed: int


@dataclass(frozen=True)
class LayersSearch:
    """start: the base, synchronous; asked for are so many points of the front, or what is best for each latency."""

    start: Run
    modes: tuple[Mode, ...]
    vulnerability: Vulnerability | None
    points: int
    latency_s: tuple[float, ...]
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
    problems = list[str]()
    file, wrong = _shaped(_kind(tables, path), tables, problems)
    if isinstance(file, _Settings):
        made: Search | None = _settings(file, wrong, path, problems)
    else:
        made = _started(file, wrong, problems)
    if made is None or problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in dict.fromkeys(problems)))
    return made


def _kind(tables: Mapping[str, Any], path: Path | str) -> type[_File]:
    said, known = tables.get("search"), ", ".join(_KINDS)
    if isinstance(said, str) and said in _KINDS:
        return _KINDS[said]
    if said is not None:
        raise ValueError(f"{path}: search: {said!r} is no kind of search; there are {known}")
    if "axes" in tables and not {"minimize", "limits", "trials"} & tables.keys():
        raise ValueError(f"{path}: search: missing; this is a sweep, for `python -m sim sweep {path}`; there are "
                         f"searches of {known}")  # fmt: skip
    raise ValueError(f"{path}: search: missing; there are {known}")


def _shaped(kind: type[_File], tables: Mapping[str, Any], problems: list[str]) -> tuple[_File, set[Any]]:
    """The file, and keys that are wrong or missing: something sound stands in there, so that the rest is looked at."""
    try:
        return kind.model_validate(tables), set()
    except ValidationError as error:
        problems += faults(error.errors(), kind)
        wrong = {each["loc"][0] for each in error.errors()}
        sound = {key: value for key, value in tables.items() if key not in wrong}
        stand_in = {key: value for key, value in _STAND_IN.items() if key in wrong and key in kind.model_fields}
        return kind.model_validate({**stand_in, **sound}), wrong


def _settings(file: _Settings, wrong: set[Any], path: Path | str, problems: list[str]) -> SettingsSearch | None:
    """Its axes are those of a sweep of which any point may be asked for; how many, is the search's business."""
    base, axes = file.base, file.axes
    problems += goal_problems(file.minimize)
    problems += limit_problems(file.limits, base, axes)
    elsewhere = any(table.get("vulnerability") is not None for table in (base, axes))
    if not {"vulnerability", "minimize", "limits"} & wrong:
        problems += vulnerability_problems(file.vulnerability, elsewhere, asks_quality(file.minimize, file.limits))
    known = _vulnerability(file.vulnerability, problems)
    if {"base", "axes"} & wrong:
        return None
    also = {} if known is None or elsewhere else {"vulnerability": file.vulnerability}
    plan = {"kind": "random", "points": 1, "seed": file.seed}
    try:
        sweep = sweep_of({"base": {**base, **also}, "axes": axes, "plan": plan}, path)
    except ValueError as error:
        problems += str(error).removeprefix(f"{path}: ").split(f"\n{path}: ")
        return None
    return SettingsSearch(sweep, tuple(file.minimize), tuple(file.limits), file.trials, file.seed)


def _started(file: _Layers | _Order, wrong: set[Any], problems: list[str]) -> LayersSearch | OrderSearch | None:
    """A search that begins at one run."""
    vulnerability = _vulnerability(file.vulnerability, problems)
    modes = read_modes(file.modes, problems) if isinstance(file, _Layers) else ()
    latency_s = read_latencies(file.latency_s or (), file.points, problems) if isinstance(file, _Layers) else ()
    if "base" in wrong:
        return None
    if isinstance(file, _Order):
        start = _run(file.base, vulnerability, problems)
        return None if start is None else OrderSearch(start, vulnerability, file.trials, file.seed)
    if "schedule" in file.base:
        told = f"{file.base['schedule']!r} has no effect on a search of layers, whose modes say what they are"
        problems.append(f"base.schedule: {told}")
    start = _run({**file.base, "schedule": "sync"}, vulnerability, problems)
    if start is None:
        return None
    problems += layers_problems(start.schedule, modes)
    return LayersSearch(start, modes, vulnerability, file.points or POINTS, latency_s, file.probes, file.seed)


def _vulnerability(said: str | None, problems: list[str]) -> Vulnerability | None:
    try:
        return None if said is None else Vulnerability.load(said)
    except OSError as error:
        problems.append(f"vulnerability: {said}: {error.strerror}")
    except ValueError as error:
        problems.append(f"vulnerability: {error}")
    return None


def _run(base: Mapping[str, Any], vulnerability: Vulnerability | None, problems: list[str]) -> Run | None:
    """Where a search begins; None if that cannot be run, which `problems` then says."""
    found = [f"base.{problem}" for problem in base_problems(base)]
    sources, faults = read_sources({key: [base[key]] if key in base else [] for key in NAMING})
    found += [f"base.{key}: {why}" for (key, _), why in faults.items()]
    if not found:
        base = {key: in_si(key, value) for key, value in base.items()}
        found = [f"base: {problem}" for problem in point_problems(base, sources)]
    problems += found
    if found:
        return None
    start = Run(*build(base, sources))
    problems += cost_problems(start.schedule, vulnerability)
    return start
