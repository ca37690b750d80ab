"""What stands beside stale schedules on that machine: rivals that need no staleness, and whose memory ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from calibration.reproduction.machine import MODEL, PRESET, Doubt, workload
from sim.cluster import Cluster
from sim.gpu import Gpu
from sim.load import load_for
from sim.memory import memory, most_images
from sim.rivals import contenders
from sim.schedule import Schedule
from sim.vectorised.evaluate import evaluate
from sim.workload import MODELS, Workload

BATCHES = (4, 8, 16, 32, 64, 128)  # images a rank, as in the authors' scripts
ASKED = ("displaced", "interweaved", "dice", "dice_released", "distrifusion")
STEPS = 50
ELEMENT_BYTES = (2, 4)  # of weights and activations: fp16, and fp32 where autocast leaves it
Tell = Callable[[str], None]
Row = dict[str, Any]


def table(tell: Tell) -> dict[str, list[Row]]:
    """Images a rank -> a row a schedule: seconds of 50 steps, bytes of the fullest rank, whether a 4090 has them.

    Of all batches at once, by the vectorised engines where they can say."""
    cluster, work = Cluster.load(PRESET), workload(BATCHES[0], Doubt())
    named = [(source, "asked for", _plan(source), work) for source in ASKED]
    listed = [("sync", "exact", _plan("sync"), work), *named, *contenders(ASKED, STEPS, work)]
    rows: dict[str, list[Row]] = {str(images): [] for images in BATCHES}
    for name, why, plan, mine in listed:
        tell(name)
        for images, row in _rows(name, why, plan, mine, cluster).items():
            rows[images].append(row)
    for name in ASKED:
        tell(f"sync, as long as {name}")
        for images, row in _fewer_steps(name, rows, work, cluster).items():
            rows[images].append(row)
    return rows


def _plan(source: str, steps: int = STEPS) -> Schedule:
    return load_for(source, steps, MODEL)


def _rows(name: str, why: str, plan: Schedule, work: Workload, cluster: Cluster) -> dict[str, Row]:
    """Images a rank -> what the page says of a schedule."""
    assert isinstance(cluster.compute, Gpu)
    works = [replace(work, images=images) for images in BATCHES]
    seconds = evaluate(plan, works, [cluster] * len(works)).makespan_s
    age, limit, rows = round(float(np.mean(plan.staleness())), 2), cluster.compute.memory_bytes, {}
    for each, makespan_s in zip(works, seconds, strict=True):
        needed = memory(plan, each)
        rows[str(each.images)] = {
            "name": name,
            "why": why,
            "steps": plan.steps,
            "makespan_s": round(float(makespan_s), 3),
            "mean_age": age,
            "memory_bytes": round(needed.peak_bytes),
            "fits": needed.fits(limit),
        }
    return rows


def _fewer_steps(name: str, rows: Mapping[str, list[Row]], work: Workload, cluster: Cluster) -> dict[str, Row]:
    """Images a rank -> synchronous, with as many steps as the time of `name` pays for; none if that is all or none."""
    found, why = dict[str, Row](), f"as long as {name}"
    for images, mine in rows.items():
        by_name = {row["name"]: row["makespan_s"] for row in mine}
        limit_s, sync_s = by_name[name], by_name["sync"]
        steps = min(STEPS - 1, int(limit_s / sync_s * STEPS)) if limit_s < sync_s else 0
        while steps:
            row = _rows(f"sync, {steps} steps", why, _plan("sync", steps), work, cluster)[images]
            if row["makespan_s"] <= limit_s:
                found[images] = row
                break
            steps -= 1
    return found


def distrifusion() -> list[Row]:
    """A row a model and element size: which of the batches fit, and the most images that would."""
    cluster = Cluster.load(PRESET)
    assert isinstance(cluster.compute, Gpu)
    limit, rows = cluster.compute.memory_bytes, []
    for shape in (MODEL, MODELS["G"]):
        plan = load_for("distrifusion", STEPS, shape)
        for size in ELEMENT_BYTES:
            work = {images: Workload(shape, cluster.ranks, images) for images in BATCHES}
            fits = {str(images): memory(plan, each, size).fits(limit) for images, each in work.items()}
            most = most_images(plan, work[BATCHES[0]], limit, size)
            rows.append({"model": shape.name, "element_bytes": size, "fits": fits, "most_images": most})
    return rows
