"""What was published, and what the machine of machine.py says of it: nothing here has a parameter of a method.

A Case is one reading of the publication: which code ran, on how many images, and what else took time.  The file knows
published numbers; it refuses to know what could make them differ (causes.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from calibration.reproduction.machine import MODEL, Doubt, all_to_all_share, calibrated, run, workload
from sim.cluster import Cluster
from sim.gpu import DTYPES, Gpu
from sim.load import load_schedule
from sim.schedule import Schedule
from sim.vectorised.evaluate import evaluate

STEPS, FEW_STEPS, IMAGES = 50, 10, 32  # images a rank of the 50 steps as published; of the 10 steps nothing is said


@dataclass(frozen=True)
class Published:
    """A speed-up over synchronous expert parallelism of XL on 8 x RTX 4090 (arXiv 2411.16786 and a summary of it)."""

    method: str
    steps: int
    speed_up: float

    @property
    def key(self) -> str:
        """`dice, 50 steps`."""
        return f"{self.method}, {self.steps} steps"


PUBLISHED = (
    Published("dice", STEPS, 1.26),
    Published("displaced", FEW_STEPS, 1.28),
    Published("dice", FEW_STEPS, 1.20),
)
_COMPARED = (  # what predictions take: every published number's run, and sync's of as many steps
    (STEPS, "sync"), (STEPS, "dice"), (FEW_STEPS, "sync"), (FEW_STEPS, "displaced"), (FEW_STEPS, "dice"),
)  # fmt: skip
READINGS = {  # reading -> method -> the schedule that ran
    "as intended": {"sync": "sync", "displaced": "displaced", "dice": "dice"},
    "as released": {
        "sync": "sync counts=blocking",
        "displaced": "displaced counts=blocking released=reruns",
        "dice": "dice_released",
    },
}


@dataclass(frozen=True)
class Case:
    """One reading.  fixed_s: of every run, whatever its method, beside the steps.  masks: conditional communication
    picks rows with boolean masks, which stops the host, and copies rows to and from its cache."""

    schedules: dict[str, str] = field(default_factory=lambda: READINGS["as intended"])
    doubt: Doubt = field(default_factory=Doubt)
    images: dict[int, int] = field(default_factory=lambda: {STEPS: IMAGES, FEW_STEPS: IMAGES})  # steps -> images a rank
    fixed_s: float = 0.0
    masks: bool = False

    def asking(self, words: str, methods: tuple[str, ...] = ("sync", "displaced", "dice")) -> Case:
        """The same with further settings for the schedules of some methods."""
        more = {method: f"{self.schedules[method]} {words}" for method in methods}
        return replace(self, schedules={**self.schedules, **more})


@dataclass(frozen=True)
class Prediction:
    """factor: the parameter.  share: of all-to-alls in synchronous steps at the published images.  makespan_s: by
    "method, steps"."""

    factor: float
    share: float
    makespan_s: dict[str, float]

    def speed_up(self, published: Published) -> float:
        """Over sync of as many steps."""
        return self.makespan_s[f"sync, {published.steps} steps"] / self.makespan_s[published.key]

    def residual(self, published: Published) -> float:
        """Predicted over published, less 1."""
        return self.speed_up(published) / published.speed_up - 1

    def fixed_s(self, published: Published) -> float | None:
        """Seconds that, added to either run, would give the published speed-up; None if only a negative time would."""
        sync_s, mine_s = (self.makespan_s[key] for key in (f"sync, {published.steps} steps", published.key))
        seconds = (sync_s - published.speed_up * mine_s) / (published.speed_up - 1)
        return seconds if seconds >= 0 else None


def predict(case: Case) -> Prediction:
    """Sets the one parameter, and runs whatever the published numbers compare."""
    doubt = case.doubt
    cluster, factor = calibrated(doubt, case.schedules["sync"])
    makespan_s, share = dict[str, float](), 0.0
    for steps, method in _COMPARED:
        plan, masked = _plan(case.schedules[method], steps), case.masks and method == "dice"
        trace = run(_stopping(plan) if masked else plan, workload(case.images[steps], doubt), cluster, doubt)
        extra_s = case.fixed_s + (_masks_s(plan, case.images[steps], cluster) if masked else 0.0)
        makespan_s[f"{method}, {steps} steps"] = trace.makespan_s + extra_s
        share = all_to_all_share(trace, doubt.share_waits) if (method, steps) == ("sync", STEPS) else share
    return Prediction(factor, share, makespan_s)


def predict_many(cases: Sequence[Case]) -> list[Prediction]:
    """`predict` of each, by the vectorised engines: configurations of one schedule all at once.

    Shares are not asked for, and nan."""
    asked: dict[tuple[str, int, bool], dict[int, dict[str, Any]]] = {}
    machines = [calibrated(case.doubt, case.schedules["sync"]) for case in cases]
    for n, (case, (cluster, _)) in enumerate(zip(cases, machines, strict=True)):
        for steps, method in _COMPARED:
            masked = case.masks and method == "dice"
            run_of = asked.setdefault((case.schedules[method], steps, masked), {})
            run_of[n] = {"workload": workload(case.images[steps], case.doubt), "cluster": cluster,
                         "seed": case.doubt.seed if case.doubt.jitter else None}  # fmt: skip
    seconds = {key: _makespans(*key, runs) for key, runs in asked.items()}
    found = []
    for n, (case, (cluster, factor)) in enumerate(zip(cases, machines, strict=True)):
        makespan_s = {}
        for steps, method in _COMPARED:
            masked = case.masks and method == "dice"
            alone_s = seconds[case.schedules[method], steps, masked][n] + case.fixed_s
            plan = _plan(case.schedules[method], steps)
            extra_s = _masks_s(plan, case.images[steps], cluster) if masked else 0.0
            makespan_s[f"{method}, {steps} steps"] = alone_s + extra_s
        found.append(Prediction(factor, math.nan, makespan_s))
    return found


def _makespans(source: str, steps: int, masked: bool, runs: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    """Case -> seconds of a schedule, on the workload and cluster of each."""
    plan = _plan(source, steps)
    columns = ([run[key] for run in runs.values()] for key in ("workload", "cluster", "seed"))
    seconds = evaluate(_stopping(plan) if masked else plan, *columns).makespan_s
    return dict(zip(runs, seconds.tolist(), strict=True))


@lru_cache(maxsize=64)
def _plan(source: str, steps: int) -> Schedule:
    return load_schedule(source, steps, MODEL.layers)


def _stopping(schedule: Schedule) -> Schedule:
    """The same, but the host waits for every router: a boolean mask is counted before it picks rows."""
    ops = (op._replace(blocks=True) if op.kind == "A" else op for op in schedule.ops)
    return replace(schedule, ops=tuple(ops)).check()


def _masks_s(schedule: Schedule, images: int, cluster: Cluster) -> float:
    """Seconds, all of them exposed, to copy one slot of every token four times in each layer and step: rows picked,
    put into the cache, read from it, put back in order.  An upper bound: some of it hides behind communication."""
    assert isinstance(cluster.compute, Gpu)
    assert DTYPES["bf16"] == DTYPES["fp16"]
    elements = 4 * 2 * (2 * images * MODEL.tokens) * MODEL.hidden
    return float(cluster.compute.traffic_s(elements, 8, "bf16")) * schedule.layers * schedule.steps
