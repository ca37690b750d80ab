"""The demo's images: digits that real ranks make under each schedule, of the same noise.

It knows how to look at them; what staleness costs by how many images and with what certainty, it leaves to
`python -m realrun`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from realrun.backend import Pool
from realrun.gallery import draw_gallery
from realrun.run import Settings, inputs, run
from realrun.trained import GUIDANCE, trained
from sim.load import load_schedule
from sim.workload import MODELS, Workload

_IMAGES = 8  # a rank
_STEPS = 10  # few, so that staleness has something to spoil


def draw_digits(ranks: Pool, schedules: Sequence[str], picture: Path) -> Iterator[str]:
    """Runs the trained digits model under each schedule, the first of them the measure; draws and tells."""
    shape, settings = MODELS["digits"], Settings(guidance=GUIDANCE["digits"])
    workload = Workload(shape, ranks.world, _IMAGES, wire="float32")
    plans = {name: load_schedule(name, _STEPS, shape.layers) for name in schedules}
    made = {
        name: run(plan, workload, ranks, settings, trained(shape.name)).final.flatten(0, 1)
        for name, plan in plans.items()
    }
    first, *others = made
    _, labels = inputs(shape, range(len(made[first])), settings)
    draw_gallery(made, [str(label) for label in labels.tolist()], picture)
    yield f"digits:  {picture} ({_STEPS} steps, on {ranks.world} ranks; a column has one noise)"
    for name in others:
        apart = (made[name] - made[first]).square().mean().sqrt() / 2
        yield f"         {name}: {apart:.1%} of a pixel's range from {first}'s images (root mean square)"
