"""A point of a sweep: the schedule, workload and cluster that its settings (sim/sweeps/settings.py) mean.

Files and presets are read once, as Sources, which travel to workers that have no files.  It knows how settings are put
together; it refuses to know axes, seconds and rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sim.cluster import Cluster, cluster_tables
from sim.faults import meant_by
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.mesh import Mesh
from sim.models import load_model
from sim.placement import parse as parse_placement
from sim.routing import Routing
from sim.schedule import Schedule
from sim.schedules import SCHEDULES
from sim.sweeps.settings import DEFAULTS, TIMES
from sim.vulnerability import Vulnerability
from sim.workload import MODELS, ModelShape, Workload

CELLS_UP_TO = 100_000  # steps x layers: some 10 s and 1 GB


@dataclass(frozen=True)
class Sources:
    """The files and presets that a sweep names, read once: clusters as tables, so that workers need no files."""

    clusters: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, ModelShape] = field(default_factory=dict)
    schedules: Mapping[str, str] = field(default_factory=dict)  # text files only
    routings: Mapping[str, Routing] = field(default_factory=dict)
    vulnerabilities: Mapping[str, Vulnerability] = field(default_factory=dict)

    def digest(self, key: str, value: object) -> str:
        """What the content behind the setting `key=value` is known by; "" where the value says all."""
        held: Any = {"cluster": self.clusters, "model": self.models, "schedule": self.schedules,
                     "vulnerability": self.vulnerabilities}.get(key, {})  # fmt: skip
        found = held.get(value.split()[0] if key == "schedule" and isinstance(value, str) else value)
        if key == "routing" and value in self.routings:
            return hashlib.blake2b(self.routings[str(value)].counts.tobytes(), digest_size=8).hexdigest()
        return "" if found is None else hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


# ------------------------------------------------------------------------------------------------- together


def read_sources(values: Mapping[str, list[Any]]) -> tuple[Sources, dict[tuple[str, str], str]]:
    """What the settings name (setting -> its values); and (setting, value) -> why that cannot be read."""
    faults = dict[tuple[str, str], str]()
    readers: dict[str, Callable[[str], Any]] = {
        "cluster": cluster_tables, "model": load_model, "schedule": _text_of, "routing": Routing.load,
        "vulnerability": Vulnerability.load,
    }  # fmt: skip
    held: dict[str, dict[str, Any]] = {"cluster": {}, "model": {}, "schedule": {}, "routing": {}, "vulnerability": {}}
    for key, read in readers.items():
        for value in values.get(key, []):
            if isinstance(value, str) and value.strip():
                name = value.split()[0] if key == "schedule" else value
                try:
                    held[key][name] = read(name)
                except (ValueError, OSError) as error:
                    faults[key, value] = _said(error, name)
    texts = {name: text for name, text in held["schedule"].items() if text is not None}
    return Sources(held["cluster"], held["model"], texts, held["routing"], held["vulnerability"]), faults


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
    for key in sorted(changes, key=lambda each: (each.startswith(TIMES), each != "cluster.compute.gpu")):
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
        return {**tables, "compute": asdict(Gpu.load(str(value)))}
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
        raise ValueError(f"{key}: there is no {name}; {meant_by(name, names)}")
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
