"""The command: predicts, and writes page, numbers and picture; a few minutes on one core."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from calibration.reproduction import beside, causes, draws, page, pairs
from calibration.reproduction.machine import MODEL, Doubt, calibrated, workload
from calibration.reproduction.predict import IMAGES, READINGS
from calibration.samples import machine
from sim.engine import simulate
from sim.load import load_schedule
from sim.output import whole_file
from sim.timeline import draw_timeline, save_figure
from sim.trace import Trace

PAGE = "reproduction.md"
NUMBERS = "reproduction.json"
PICTURE = "reproduction.png"
_STEPS, _STEP = 6, 3  # of the picture
_COUNTS = {"same": "displaced counts=blocking", "own": "displaced counts=blocking communicators=N+DC"}
_TITLES = ["one communicator:", "counts on their own:"]
Tell = Callable[[str], None]


def write(folder: Path, console: Console) -> None:
    """Writes all three into `folder`.  Raises OSError, before the work, if it is none."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: its page, numbers and picture cannot be written: there is no such folder")
    with _telling(console) as tell:
        made = found(tell)
    with whole_file(folder / NUMBERS) as part:
        part.write_text(text(made))
    with whole_file(folder / PAGE) as part:
        part.write_text(page.page(made))
    save_figure(draw_timeline(layer_traces(), step=_STEP, ranks=[0], labels=_TITLES), folder / PICTURE)


def found(tell: Tell) -> dict[str, Any]:
    """All numbers of the page, and where, when and by which commit they were found."""
    drawn = draws.drawn(tell)
    same, own = layer_traces()
    return {
        "meta": machine(),
        "draws": drawn,
        "told": draws.told(drawn),
        "causes": {reading: causes.found(reading, tell) for reading in READINGS},
        "pairs": {reading: pairs.found(reading, tell) for reading in READINGS},
        "layer": {"same_s": round(same.makespan_s, 4), "own_s": round(own.makespan_s, 4)},
        "distrifusion": beside.distrifusion(),
        "rivals": beside.table(tell),
    }


def text(made: dict[str, Any]) -> str:
    """JSON, with what is innermost on one line."""
    return re.sub(r"\[[^][{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), json.dumps(made, indent=1)) + "\n"


def layer_traces() -> list[Trace]:
    """Displaced, with counts as released and with a communicator of their own, on the machine of the released code."""
    doubt = Doubt()
    cluster, _ = calibrated(doubt, READINGS["as released"]["sync"])
    work = replace(workload(IMAGES, doubt), model=replace(MODEL, layers=page.LAYERS))
    return [simulate(load_schedule(source, _STEPS, page.LAYERS), work, cluster) for source in _COUNTS.values()]


@contextmanager
def _telling(console: Console) -> Iterator[Tell]:
    """Shows what is being done; where there is no terminal, nothing."""
    with console.status("predicting") as status:
        yield status.update
