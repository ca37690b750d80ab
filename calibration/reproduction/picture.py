"""Pictures of docs/reproduction.json: published beside predicted, and the rivals' front.

It knows which number stands where; it refuses to compute any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from calibration.reproduction.draws import interval
from calibration.reproduction.predict import PUBLISHED, READINGS
from sim.pictures.errors import Beside, draw_beside
from sim.pictures.front import Choice, draw_front

Found = Mapping[str, Any]


def load(path: Path | str) -> Found:
    """The numbers that `python -m calibration reproduction` wrote."""
    found: Found = json.loads(Path(path).read_text())
    return found


def draw_published(found: Found) -> Figure:
    """Published speed-ups over sync, and those predicted: medians, and 5th to 95th percentile of the draws."""
    rows = []
    for number, each in enumerate(PUBLISHED):
        for reading in READINGS:
            low, middle, high = interval(found["draws"][reading], number)
            rows.append(Beside(each.key, each.speed_up, low, middle, high, reading))
    return draw_beside(rows, x_label="speed-up over synchronous expert parallelism")


def draw_rivals(found: Found, images: int) -> Figure:
    """What fits on a card, by seconds of the run and mean age of what is added.

    Raises ValueError if the numbers are not of so many images a rank."""
    rows = found["rivals"].get(str(images))
    if rows is None:
        raise ValueError(f"rivals of {', '.join(found['rivals'])} images a rank, not {images}")
    fitting = [row for row in rows if row["fits"] and not row["why"].startswith("as long as")]
    choices = [Choice(row["name"], row["makespan_s"], row["mean_age"], row["why"]) for row in fitting]
    return draw_front(choices, x_label="time / s", y_label="mean age / steps", name_all=True, height_in=3.6)
