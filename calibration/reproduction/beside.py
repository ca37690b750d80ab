"""What stands beside stale schedules on that machine: rivals that need no staleness, and whose memory ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from calibration.reproduction.machine import MODEL, PRESET, Doubt, workload
from sim.cluster import Cluster
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.memory import memory, most_images
from sim.rivals import Rival, rivals
from sim.workload import MODELS, Workload

BATCHES = (4, 8, 16, 32, 64, 128)  # images a rank, as in the authors' scripts
ASKED = ("displaced", "interweaved", "dice", "dice_released", "distrifusion")
STEPS = 50
ELEMENT_BYTES = (2, 4)  # of weights and activations: fp16, and fp32 where autocast leaves it
Tell = Callable[[str], None]


def table(tell: Tell) -> dict[str, list[dict[str, Any]]]:
    """Images a rank -> a row a schedule: seconds of 50 steps, bytes of the fullest rank, whether a 4090 has them."""
    cluster = Cluster.load(PRESET)
    assert isinstance(cluster.compute, Gpu)
    found, limit = {}, cluster.compute.memory_bytes
    for images in BATCHES:
        made = rivals(ASKED, STEPS, workload(images, Doubt()), cluster, partial(_tell, tell, images))
        found[str(images)] = [_row(each, limit) for each in made]
    return found


def _tell(tell: Tell, images: int, name: str) -> None:
    tell(f"{images} images a rank: {name}")


def _row(rival: Rival, memory_bytes: float) -> dict[str, Any]:
    """What the page says of a rival."""
    return {
        "name": rival.name,
        "why": rival.why,
        "steps": rival.trace.schedule.steps,
        "makespan_s": round(rival.trace.makespan_s, 3),
        "mean_age": round(rival.mean_age, 2),
        "memory_bytes": round(rival.memory.peak_bytes),
        "fits": rival.memory.fits(memory_bytes),
    }


def distrifusion() -> list[dict[str, Any]]:
    """A row a model and element size: which of the batches fit, and the most images that would."""
    cluster = Cluster.load(PRESET)
    assert isinstance(cluster.compute, Gpu)
    limit, rows = cluster.compute.memory_bytes, []
    for shape in (MODEL, MODELS["G"]):
        plan = load_schedule("distrifusion", STEPS, shape.layers, top_k=shape.top_k)
        for size in ELEMENT_BYTES:
            work = {images: Workload(shape, cluster.ranks, images) for images in BATCHES}
            fits = {str(images): memory(plan, each, size).fits(limit) for images, each in work.items()}
            most = most_images(plan, work[BATCHES[0]], limit, size)
            rows.append({"model": shape.name, "element_bytes": size, "fits": fits, "most_images": most})
    return rows
