"""dice-sim: how long a schedule takes, how stale it gets, how much memory it needs.

    schedule = load_schedule("interweaved", steps=50, layers=28)
    trace = simulate(schedule, Workload(MODELS["XL"], ranks=8, images=16), Cluster.load("cluster.yaml"))

Names are imported when they are first used, so that `import sim` is quick and needs neither SimPy nor matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.lazy import lazily

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.engine import simulate
    from sim.load import load_schedule
    from sim.routing import Routing
    from sim.schedule import Op, Schedule, ScheduleError
    from sim.schedules import SCHEDULES
    from sim.trace import Trace
    from sim.workload import MODELS, ModelShape, Workload

__getattr__ = lazily(
    __name__,
    {
        "sim.cluster": ("Cluster",),
        "sim.engine": ("simulate",),
        "sim.schedule": ("Op", "Schedule", "ScheduleError"),
        "sim.load": ("load_schedule",),
        "sim.schedules": ("SCHEDULES",),
        "sim.trace": ("Trace",),
        "sim.routing": ("Routing",),
        "sim.workload": ("MODELS", "ModelShape", "Workload"),
    },
)
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
