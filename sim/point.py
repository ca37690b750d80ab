"""A point of a sweep: settings by name, and the schedule, workload and cluster that they mean.

    schedule, steps, model, pixels, images, ranks, wire, dtype, grouped, guidance, mesh, placement, imbalance, keep,
    routing, routing_seed, cluster, seed        as the options of `python -m sim simulate`
    schedule.KEY                                a setting of the schedule (`python -m sim schedules` lists them)
    model.KEY                                   a field of the model's shape, as model.hidden
    cluster.KEY                                 any number or word of the cluster's file, as cluster.link.bytes_per_s;
                                                * stands for every name there is: cluster.link.resources.*.latency_s
    times.cluster.KEY                           a factor for that number

The file knows what settings are called and how they are put together; it refuses to know axes, seconds and rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sim.cluster import Cluster, cluster_tables
from sim.compose import Settings
from sim.gpu import DTYPES
from sim.load import load_schedule
from sim.mesh import Mesh
from sim.models import load_model
from sim.placement import parse as parse_placement
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.units import quantity
from sim.workload import MODELS, WIRES, ModelShape, Workload

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


DEFAULTS: dict[str, Any] = {name: None if info.is_required() else info.default
                            for name, info in Plain.model_fields.items()}  # fmt: skip
CELLS_UP_TO = 100_000  # steps x layers: some 10 s and 1 GB
STRUCTURE = ("schedule", "steps")  # with schedule.*, and top_k and layers of the model: what decides the list of ops


@dataclass(frozen=True)
class Sources:
    """The files and presets that a sweep names, read once: clusters as tables, so that workers need no files."""

    clusters: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, ModelShape] = field(default_factory=dict)
    schedules: Mapping[str, str] = field(default_factory=dict)  # text files only
    routings: Mapping[str, Routing] = field(default_factory=dict)

    def digest(self, key: str, value: object) -> str:
        """What the content behind the setting `key=value` is known by; "" where the value says all."""
        held: Any = {"cluster": self.clusters, "model": self.models, "schedule": self.schedules}.get(key, {})
        found = held.get(value.split()[0] if key == "schedule" and isinstance(value, str) else value)
        if key == "routing" and value in self.routings:
            return hashlib.blake2b(self.routings[str(value)].counts.tobytes(), digest_size=8).hexdigest()
        return "" if found is None else hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------- one value at a time


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
    **dict.fromkeys(("schedule", "cluster", "model", "wire", "dtype", "mesh", "placement", "routing"), "string"),
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
        return f"there is no such setting; there are {', '.join(Plain.model_fields)}, schedule.*, model.*, cluster.*"
    if key.startswith("schedule."):
        known: list[str] = [each.name for each in fields(Settings) if each.metadata]
        name = key.removeprefix("schedule.")
        return "" if name in known else f"schedules have no setting {name}; the settings are {', '.join(known)}"
    if key.startswith("model."):
        shape = [each.name for each in fields(ModelShape) if each.name != "name"]
        return "" if key[6:] in shape else f"models have no {key[6:]}; there are {', '.join(shape)}"
    if key.startswith(TIMES) and not key.startswith("times.cluster."):
        return "only numbers of the cluster can be multiplied: times.cluster.KEY"
    if key.startswith(TIMES) and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        return f"{value!r} should be a factor above 0"
    return ""


def _plain_problem(key: str, value: Any) -> str:
    info = Plain.model_fields[key]
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


# ------------------------------------------------------------------------------------------------- together


def read_sources(values: Mapping[str, list[Any]], problems: list[str]) -> Sources:
    """What the settings name: setting -> its values.  `problems` gets a line for each that cannot be read."""
    readers: dict[str, Callable[[str], Any]] = {"cluster": cluster_tables, "model": load_model, "schedule": _text_of,
                                                "routing": Routing.load}  # fmt: skip
    held: dict[str, dict[str, Any]] = {"cluster": {}, "model": {}, "schedule": {}, "routing": {}}
    for key, read in readers.items():
        for value in values.get(key, []):
            if isinstance(value, str) and value.strip():
                name = value.split()[0] if key == "schedule" else value
                try:
                    held[key][name] = read(name)
                except (ValueError, OSError) as error:
                    problems.append(f"{key}: {_said(error, name)}")
    texts = {name: text for name, text in held["schedule"].items() if text is not None}
    return Sources(held["cluster"], held["model"], texts, held["routing"])


def _said(error: Exception, name: str) -> str:
    return f"{name}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _text_of(name: str) -> str | None:
    """The text of a schedule's file; None where the source is a name.  FILE.py:FUNCTION is read where it runs."""
    if name in SCHEDULES or ".py" in name:
        return None
    if not Path(name).is_file():
        raise ValueError(f"unknown schedule {name!r}: neither a file nor one of {', '.join(SCHEDULES)}")
    return Path(name).read_text()


def build_model(settings: Mapping[str, Any], sources: Sources) -> ModelShape:
    """The shape that the settings mean.  Raises ValueError for sizes that no network can have."""
    name, pixels = settings.get("model") or DEFAULTS["model"], settings.get("pixels")
    model = sources.models.get(name) or load_model(name)
    if changed := {key[6:]: value for key, value in settings.items() if key.startswith("model.") and value is not None}:
        model = replace(model, **changed)
    return model if pixels is None else replace(model, latent=load_model(next(iter(MODELS)), pixels).latent)


def build_schedule(settings: Mapping[str, Any], model: ModelShape, sources: Sources) -> Schedule:
    """The schedule that the settings mean.  Raises ScheduleError, as sim/load.py does."""
    written = {key.removeprefix("schedule."): value for key, value in settings.items() if key.startswith("schedule.")}
    asked = tuple(sorted((key, value) for key, value in written.items() if value is not None))
    cells = (settings.get("steps") or 1) * model.layers
    if cells > CELLS_UP_TO:
        raise ValueError(f"steps={settings['steps']} of {model.layers} layers are {cells}; {CELLS_UP_TO} at most")
    name = settings["schedule"].split()[0]
    text = sources.schedules.get(name)
    return _schedule(settings["schedule"], text, settings.get("steps"), model.layers, model.top_k, asked)


@lru_cache(maxsize=64)  # a pure function of its arguments, and 0.1 s a call
def _schedule(
    source: str, text: str | None, steps: int | None, layers: int, top_k: int, asked: tuple[tuple[str, Any], ...]
) -> Schedule:
    settings = {"top_k": top_k, **dict(asked)}
    return load_schedule(source, steps, layers, text=text, **settings)


def machine_tables(settings: Mapping[str, Any], sources: Sources) -> Any:
    """The machine that the settings mean, as tables.  Raises ValueError for a key that leads nowhere."""
    name = settings["cluster"]
    tables = sources.clusters.get(name) or cluster_tables(name)
    changes = {key: v for key, v in settings.items() if key.startswith(("cluster.", TIMES)) and v is not None}
    if settings.get("ranks") is not None:
        changes = {"cluster.ranks": settings["ranks"], **changes}
    for key in sorted(changes, key=lambda each: each.startswith(TIMES)):
        tables = changed(tables, key, changes[key])
    return tables


def build_cluster(settings: Mapping[str, Any], sources: Sources) -> Cluster:
    """The machine that the settings mean.  Raises ValueError for a key that leads nowhere, or numbers out of range."""
    changes = [f"{key}={v}" for key, v in settings.items() if key.startswith(("cluster.", TIMES, "ranks")) if v]
    return Cluster.of_tables(machine_tables(settings, sources), ", ".join([settings["cluster"], *changes]))


def changed(tables: Any, key: str, value: Any) -> Any:
    """A copy of a cluster's tables with `value` at the dotted `key` (cluster.KEY, or times.cluster.KEY).

    Raises ValueError that says where the key leads nowhere."""
    times = key.startswith(TIMES)
    path = key.removeprefix(TIMES).removeprefix("cluster.").split(".")
    if path == ["compute", "gpu"]:
        return {**tables, "compute": {"gpu": value}}
    return _at(tables, path, key, value, times)


def _at(tables: Any, path: list[str], key: str, value: Any, times: bool) -> Any:
    if not path:
        if times and (isinstance(tables, bool) or not isinstance(tables, int | float)):
            raise ValueError(f"{key}: {tables!r} is no number to be multiplied")
        return tables * value if times else value
    name, rest = path[0], path[1:]
    if isinstance(tables, list | tuple):
        if not (name.isdecimal() and int(name) < len(tables)) and name != "*":
            raise ValueError(f"{key}: {name} should be 0 to {len(tables) - 1}")
        chosen = range(len(tables)) if name == "*" else [int(name)]
        return [_at(each, rest, key, value, times) if i in chosen else each for i, each in enumerate(tables)]
    open_ended = not rest and not times and isinstance(tables, Mapping)  # a mapping may lack it, as jitter.A
    names = [*tables] if isinstance(tables, Mapping) else []
    if name == "*" and names:
        return {each: _at(inner, rest, key, value, times) for each, inner in tables.items()}
    if name not in names and not open_ended:
        raise ValueError(f"{key}: there is no {name}; there are {', '.join(names) or 'no keys here'}")
    return {**tables, name: _at(tables.get(name), rest, key, value, times)}


def build_workload(
    settings: Mapping[str, Any], model: ModelShape, schedule: Schedule, ranks: int, sources: Sources
) -> Workload:
    """What every rank works on.  Raises ValueError for what does not go together, or has no effect."""
    said = {**DEFAULTS, **{key: value for key, value in settings.items() if value is not None}}
    mesh = None if said["mesh"] is None else Mesh.parse(said["mesh"])
    plain = {key: said[key] for key in ("images", "wire", "dtype", "grouped", "guidance")}
    workload = Workload(model, ranks, mesh=mesh, **plain)
    workload = replace(workload, routing=_routing(said, workload, schedule, sources))
    if said["placement"] is None:
        return workload
    loads = None if workload.routing is None else workload.routing.counts.sum(axis=(0, 2, 3, 4))
    where = parse_placement(said["placement"], model.experts, workload.mesh_of(schedule).group_ranks, loads)
    return replace(workload, placement=where)


def _routing(said: Mapping[str, Any], workload: Workload, schedule: Schedule, sources: Sources) -> Routing | None:
    """Recorded, modelled or balanced: imbalance 1 is balanced, but where a policy looks at tokens."""
    given = [f"{key}={said[key]}" for key in ("imbalance", "keep", "routing_seed") if said[key] is not None]
    if said["routing"] is not None:
        if given:
            raise ValueError(f"{' and '.join(given)} cannot change a recorded routing")
        return sources.routings.get(said["routing"]) or Routing.load(said["routing"])
    skew, keep, seed = said["imbalance"], said["keep"], said["routing_seed"]
    if not given or (skew == 1 and schedule.policy is None and keep is None and seed is None):
        return None
    if skew in (None, 1.0) and (keep is None or schedule.policy is None):
        raise ValueError(f"{' and '.join(given)} has no effect: at imbalance 1, tokens matter only to a policy")
    skew, keep = (1.0 if each is None else float(each) for each in (skew, keep))
    return Routing.skewed(
        workload.model, workload.ranks, workload.tokens, schedule.steps, imbalance=skew, keep=keep, seed=seed or 0
    )


def build(settings: Mapping[str, Any], sources: Sources) -> tuple[Schedule, Workload, Cluster]:
    """All three.  Raises ValueError for a point that cannot be run."""
    model = build_model(settings, sources)
    schedule = build_schedule(settings, model, sources)
    cluster = build_cluster(settings, sources)
    return schedule, build_workload(settings, model, schedule, cluster.ranks, sources), cluster


def settings_problems(settings: Mapping[str, Any]) -> list[str]:
    """Every setting that is missing, unknown or wrong by itself."""
    missing = [f"{key}: missing" for key in ("schedule", "cluster") if settings.get(key) is None]
    found = [(key, value_problem(key, value)) for key, value in settings.items() if value is not None]
    return missing + [f"{key}: {problem}" for key, problem in found if problem]
