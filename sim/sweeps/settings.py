"""What the settings of a point are called, and what each may be by itself.

    schedule, steps, model, pixels, images, ranks, wire, dtype, grouped, guidance, mesh, placement, imbalance, keep,
    routing, routing_seed, cluster, seed        as the options of `python -m sim simulate`
    vulnerability                               what staleness costs: a name or a file (sim/vulnerability.py)
    schedule.KEY                                a setting of the schedule (`python -m sim schedules` lists them)
    model.KEY                                   a field of the model's shape, as model.hidden
    cluster.KEY                                 any number or word of the cluster's file, as cluster.link.bytes_per_s;
                                                * stands for every name there is: cluster.link.resources.*.latency_s
    times.cluster.KEY                           a factor for that number

The file knows names, types and ranges; it refuses to know what settings make together (sim/sweeps/point.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sim.compose import Settings
from sim.faults import unknown_key
from sim.gpu import DTYPES
from sim.units import quantity
from sim.workload import WIRES, ModelShape

Count = Annotated[int, Field(ge=1, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
TIMES = "times."
HOUSES = ("schedule.", "model.", "cluster.", TIMES)


class Plain(BaseModel):
    """The settings without a dot, as they are if nothing is said; None: what schedule, model or cluster says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schedule: str
    cluster: str
    steps: Annotated[int, Field(ge=1, le=10**6)] | None = None
    model: str = "XL"
    pixels: Count | None = None
    images: Count = 16
    ranks: Count | None = None
    wire: Literal[*WIRES] = "bfloat16"  # type: ignore[valid-type]
    dtype: Literal[*DTYPES] | None = None  # type: ignore[valid-type]
    grouped: bool = False
    guidance: bool = True
    mesh: str | None = None
    placement: str | None = None
    imbalance: Annotated[float, Field(ge=1, le=2**20)] | None = None
    keep: Annotated[float, Field(ge=0, le=1)] | None = None
    routing: str | None = None
    routing_seed: Seed | None = None
    seed: Seed | None = None
    vulnerability: str | None = None


DEFAULTS: dict[str, Any] = {name: None if info.is_required() else info.default
                            for name, info in Plain.model_fields.items()}  # fmt: skip


REQUIRED = tuple(name for name, info in Plain.model_fields.items() if info.is_required())
_SHAPE = [each.name for each in fields(ModelShape) if each.name != "name"]


def setting_kind(key: str, values: Sequence[Any] = ()) -> str:
    """What column a setting needs that has these values: int64, double, bool or string."""
    kinds: dict[str, type] = {each.name: type(each.default) for each in fields(Settings) if each.metadata}
    if key.startswith("schedule."):
        return _COLUMNS[kinds[key.removeprefix("schedule.")]]
    if key.startswith("model."):
        return "bool" if key in ("model.qk_norm", "model.adaln", "model.learn_sigma") else "int64"
    if key in Plain.model_fields:
        return _PLAIN.get(key, "int64")
    found = {type(value) for value in values if value is not None}
    return "string" if str in found else "bool" if found == {bool} else "double"


_COLUMNS = {int: "int64", float: "double", bool: "bool", str: "string"}
_PLAIN = {
    **dict.fromkeys(
        ("schedule", "cluster", "model", "wire", "dtype", "mesh", "placement", "routing", "vulnerability"), "string"
    ),
    **dict.fromkeys(("grouped", "guidance"), "bool"),
    **dict.fromkeys(("imbalance", "keep"), "double"),
}


def value_problem(key: str, value: Any) -> str:
    """What is wrong with the setting `key` itself, or with `value` for it; "" if nothing can be seen by itself."""
    if not isinstance(value, str | int | float | None):
        return f"{value!r} should be one value"
    if key in Plain.model_fields:
        return _plain_problem(key, value)
    if not key.startswith(HOUSES):
        return unknown_key(
            key, value, [*Plain.model_fields, *(f"{house}KEY" for house in HOUSES[:-1]), "times.cluster.KEY"]
        )
    if "" in key.split("."):
        return f"{key!r} names nothing: a name is missing before or behind a dot"
    if key.startswith(("schedule.", "model.")):
        house, _, name = key.partition(".")
        known = [each.name for each in fields(Settings) if each.metadata] if house == "schedule" else _SHAPE
        if name not in known:
            return unknown_key(name, value, known)
        return _kind_problem(setting_kind(key), value)
    if key.startswith(TIMES) and not key.startswith("times.cluster."):
        return "only numbers of the cluster can be multiplied: times.cluster.KEY"
    if key.startswith(TIMES) and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        return f"{value!r} should be a factor above 0"
    return ""


def _kind_problem(kind: str, value: Any) -> str:
    kinds: dict[str, tuple[type, ...]] = {"int64": (int,), "double": (int, float), "bool": (bool,), "string": (str,)}
    if type(value) in kinds[kind] and value == value:
        return ""
    wanted = {"int64": "a whole number", "double": "a number", "bool": "true or false", "string": "a text"}[kind]
    return f"{value!r} should be {wanted}"


def _plain_problem(key: str, value: Any) -> str:
    info = Plain.model_fields[key]
    if isinstance(value, str) and not value.strip():
        return f"{value!r} is blank"
    try:
        _adapter(key).validate_python(float(value) if type(value) is int and key in ("imbalance", "keep") else value)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{value!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{value!r}: it has to be given" if value is None and info.is_required() else ""


@lru_cache
def _adapter(key: str) -> TypeAdapter[Any]:
    info = Plain.model_fields[key]
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    return TypeAdapter(kind, config=ConfigDict(strict=True))


def in_si(key: str, value: Any) -> Any:
    """`value` of the setting `key` in SI, where it is a number with a unit.  Raises ValueError for another unit."""
    if key.startswith("cluster.") and isinstance(value, str) and value[:1].isdigit():
        return quantity(key, value)
    return value


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """Every setting that is missing, unknown or wrong by itself."""
    missing = [f"{key}: missing" for key in REQUIRED if settings.get(key) is None]
    found = [(key, value_problem(key, value)) for key, value in settings.items() if value is not None]
    return missing + [f"{key}: {problem}" for key, problem in found if problem]
