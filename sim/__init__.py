"""dice-sim: how long a schedule takes, how stale it gets, how much memory it needs.

    schedule = load_schedule("interweaved", steps=50, layers=28)
    trace = simulate(schedule, Workload(MODELS["XL"], ranks=8, images=16), Cluster.load("cluster.yaml"))

Names are imported when they are first used, so that `import sim` is quick and needs neither SimPy nor matplotlib."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.engine import simulate
    from sim.load import load_schedule
    from sim.routing import Routing
    from sim.schedule import Op, Schedule, ScheduleError
    from sim.trace import Trace
    from sim.workload import MODELS, ModelShape, Workload

_HOMES = {
    "sim.cluster": ("Cluster",),
    "sim.engine": ("simulate",),
    "sim.schedule": ("Op", "Schedule", "ScheduleError"),
    "sim.load": ("load_schedule",),
    "sim.schedules": ("SCHEDULES",),
    "sim.trace": ("Trace",),
    "sim.routing": ("Routing",),
    "sim.workload": ("MODELS", "ModelShape", "Workload"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "MODELS",
    "SCHEDULES",
    "Cluster",
    "ModelShape",
    "Op",
    "Routing",
    "Schedule",
    "ScheduleError",
    "Trace",
    "Workload",
    "load_schedule",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
