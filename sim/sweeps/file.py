"""A sweep as a file: what all points share, axes, how points are drawn, and which are left out.

    base: {schedule: sync, steps: 50, model: XL, cluster: 8x-h100}     settings of every point (sim/sweeps/settings.py)
    axes:
      schedule: [sync, displaced, dice]                                values
      images: [4, 8, 16, 32]
      times.cluster.link.resources.port.bytes_per_s: {low: 0.5, high: 2, count: 7, scale: log}
    plan: {kind: grid}            all combinations; or random, latin (hypercube) or sobol: {kind: sobol, points: 1024,
                                  seed: 0}, where an axis may be a range without a count
    filters: ["images <= 16 or schedule != 'sync'"]                    points for which one is false are left out

The whole file is looked at before anything runs, and every fault is said at once, with its place and value.  It knows
how a sweep is written; it refuses to know the numbers of points (sim/sweeps/points.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from sim.faults import CLOSED, faults
from sim.sweeps.check import filter_problems, plan_problems, refused, setting_problems
from sim.sweeps.point import read_sources
from sim.sweeps.settings import HOUSES, in_si, setting_kind, value_problem
from sim.sweeps.sweep import NAMING, Axis, Plan, Sweep


class _Range(BaseModel):
    model_config = CLOSED
    low: float | str
    high: float | str
    count: Annotated[int, Field(ge=2)] | None = None
    scale: Literal["linear", "log"] = "linear"
    whole: bool = False


class _File(BaseModel):
    model_config = CLOSED
    base: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    plan: Plan = Plan()
    filters: list[str] = Field(default_factory=list)


def read_sweep(path: Path | str, changes: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file, with `changes` ("plan.points=100") carried out.

    Raises ValueError with a line for everything that is wrong, or OSError if the file cannot be read."""
    return sweep_of(read_tables(path, changes), path)


def sweep_of(tables: Any, path: Path | str) -> Sweep:
    """The sweep that `tables` mean, which `path` holds.

    Raises ValueError with a line for everything that is wrong."""
    problems = list[str]()
    file, planned = _sections(tables, path, problems)
    axes = [*_axes(file, planned, problems)]
    base = {key: _si(f"base.{key}", key, value, problems) for key, value in file.base.items()}
    problems += setting_problems(base, axes, file.axes)
    problems += plan_problems(file.plan, axes) if planned else []
    problems += filter_problems(file.filters, base, axes, file.axes)
    named = {key: [base[key]] if key in base else [] for key in NAMING}
    named |= {axis.key: [*axis.values] for axis in axes if axis.key in named}
    sources, unread = read_sources(named)
    problems += [f"{'base' if key in base else 'axes'}.{key}: {why}" for (key, _), why in unread.items()]
    problems += refused(base, axes, sources, unread)
    if problems:
        raise ValueError("\n".join(f"{path}: {problem}" for problem in dict.fromkeys(problems)))
    return Sweep(base, tuple(axes), file.plan, tuple(file.filters), sources)


def _sections(tables: Any, path: Path | str, problems: list[str]) -> tuple[_File, bool]:
    """What can be made out of the file, section by section; and whether the plan could.

    Raises ValueError if it is a search's."""
    if "search" in tables:
        raise ValueError(f"{path}: is a search, not a sweep: python -m sim search {path}")
    faulty = set[Any]()
    try:
        file = _File.model_validate(tables)
    except ValidationError as error:
        problems += faults(error.errors(), _File)
        faulty = {each["loc"][0] for each in error.errors()}
        file = _File.model_validate({key: value for key, value in tables.items() if key not in faulty})
    if not file.axes and "axes" not in faulty:
        problems.append("axes: there are none; one point is `python -m sim simulate`")
    return file, "plan" not in faulty


def read_tables(path: Path | str, changes: Sequence[str]) -> Any:
    """What the file holds, by OmegaConf: 1e9 is a number, ${base.images} another value."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        read = OmegaConf.create(Path(path).read_text() or "{}")
        if not isinstance(read, DictConfig):
            raise ValueError(f"{path}: should have base, axes, plan and filters, not a list")
        if wrong := [change for change in changes if "=" not in change]:
            raise ValueError(f"{wrong[0]!r} should look like plan.points=100")
        return OmegaConf.to_container(OmegaConf.merge(read, *map(_change, changes)), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _change(text: str) -> Any:
    """`axes.cluster.link.latency_s.low=1e-6` -> {"axes": {"cluster.link.latency_s": {"low": 1e-6}}}: a setting's name
    may have dots."""
    from omegaconf import OmegaConf

    key, value = text.split("=", 1)
    section, _, name = key.partition(".")
    if section not in ("base", "axes") or not name.startswith(HOUSES):
        return OmegaConf.from_dotlist([text])
    setting, _, field = name.rpartition(".")
    inner = OmegaConf.from_dotlist([f"value={value}"]).value
    ranged = section == "axes" and field in _Range.model_fields
    return OmegaConf.create({section: {setting: {field: inner}} if ranged else {name: inner}})


def _axes(file: _File, planned: bool, problems: list[str]) -> Iterator[Axis]:
    """The axes that can be made out."""
    for key, said in file.axes.items():
        place = f"axes.{key}"
        if isinstance(said, list):
            values = tuple(_si(f"{place}[{i}]", key, value, problems) for i, value in enumerate(said))
            if not values:
                problems.append(f"{place}: is empty")
                continue
            if twice := [repr(value) for i, value in enumerate(values) if value in values[:i]]:
                problems.append(f"{place}: {twice[0]} stands there twice")
            yield Axis(key, values)
        elif isinstance(said, dict):
            yield from _ranged(place, key, said, planned and file.plan.kind == "grid", problems)
        else:
            problems.append(f"{place}: {said!r} should be a list, or a range: {{low: 1, high: 2}}")


def _ranged(place: str, key: str, said: dict[str, Any], grid: bool, problems: list[str]) -> Iterator[Axis]:
    try:
        made = _Range.model_validate(said)
    except ValidationError as error:
        problems += [f"{place}.{line}" for line in faults(error.errors(), _Range)]
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
