"""The named schedules: one function each, written as the text that it means.

A generator writes what one layer does at one step; `_schedule` lays the cells out, and drops repeats and what nobody
reads (a dispatch whose outputs a synchronous step or the end throws away).  A new schedule is one more function in
`SCHEDULES`, or a text file, and nothing else.

Sources: arXiv 2411.16786 (DICE, ICCV 2025) for displaced and interweaved, and its released code
(Cobalt-27/DICE 292938d) for what it leaves open: ages after a synchronous step, and the order inside a layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sim.schedule import Schedule, ScheduleError


def sync(steps: int, layers: int, *, top_k: int = 2) -> Schedule:
    """Expert parallelism: every layer waits for its own two all-to-alls.  Age 0."""
    return _schedule("sync", steps, layers, top_k, _sync_cell)


def displaced(steps: int, layers: int, *, warm_up: int = 0, top_k: int = 2) -> Schedule:
    """Displaced expert parallelism: dispatch a step late, combine a step late.  Ages 0 1 2 2 ... after a synchronous
    step; steps 0 .. warm_up are synchronous."""

    def cell(s: int, l: int) -> str:  # noqa: E741
        if s <= warm_up:
            return _sync_cell(s, l)
        return f"A{s}.{l} D{s}.{l} S{s}.{l} E{s - 1}.{l} C{s - 1}.{l} R{s}.{l}<{max(s - 2, warm_up)}"

    return _schedule("displaced", steps, layers, top_k, cell, warm_up=warm_up)


def interweaved(steps: int, layers: int, *, warm_up: int = 0, top_k: int = 2) -> Schedule:
    """Interweaved parallelism (DICE): inside layer l run the experts of the layer before (for layer 0: of the last
    layer, one step earlier); the combine lands a step late.  Ages 0 1 1 ...; steps 0 .. warm_up are synchronous.

    One layer has no layer before: its ring degenerates to displaced, age 2."""
    if layers == 1:
        return replace(displaced(steps, layers, warm_up=warm_up, top_k=top_k), name="interweaved")

    def cell(s: int, l: int) -> str:  # noqa: E741
        if s <= warm_up:
            return _sync_cell(s, l)
        before = f"{s}.{l - 1}" if l else f"{s - 1}.{layers - 1}"
        return f"A{s}.{l} D{s}.{l} S{s}.{l} E{before} C{before} R{s}.{l}<{s - 1}"

    return _schedule("interweaved", steps, layers, top_k, cell, warm_up=warm_up)


SCHEDULES: dict[str, Callable[..., Schedule]] = {"sync": sync, "displaced": displaced, "interweaved": interweaved}


def load_schedule(source: str, steps: int | None = None, layers: int | None = None, **settings: Any) -> Schedule:
    """The schedule that `source` names (then `steps` and `layers` are needed), or that the text file `source` holds
    (then they may be left out, and must agree with the file if given), checked.

    Raises ValueError for an unknown name, a setting that the schedule does not have, or a file that says otherwise."""
    if source in SCHEDULES:
        return _generate(source, steps, layers, settings)
    path = Path(source)
    if not path.is_file():
        raise ScheduleError(f"unknown schedule {source!r}: neither a file nor one of {', '.join(SCHEDULES)}")
    try:
        schedule = Schedule.parse(path.read_text()).check()
    except ScheduleError as error:
        raise ScheduleError(f"{source}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{source}: cannot be read as text: {error}") from None
    said = {key: getattr(schedule, key) for key in ("steps", "layers", "top_k", "micro_batches")}
    for key, value in {"steps": steps, "layers": layers, **settings}.items():
        if value is not None and said.get(key) != value:
            has = f"{key}={said[key]}" if key in said else f"no {key}"
            raise ScheduleError(f"{source} is a text with {has}, but {key}={value} was asked for")
    return schedule


def _generate(name: str, steps: int | None, layers: int | None, settings: dict[str, Any]) -> Schedule:
    if steps is None or layers is None:
        missing = [what for what, value in [("steps", steps), ("layers", layers)] if value is None]
        raise ScheduleError(f"{name}: say how many {' and '.join(missing)}")
    generator = SCHEDULES[name]
    given = {key: value for key, value in settings.items() if value is not None}
    if unknown := given.keys() - inspect.signature(generator).parameters.keys():
        raise ScheduleError(f"{name} has no setting {', '.join(sorted(unknown))}")
    return generator(steps, layers, **given).check()


def _sync_cell(s: int, l: int) -> str:  # noqa: E741
    return f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{s}"


def _schedule(
    name: str, steps: int, layers: int, top_k: int, cell: Callable[[int, int], str], warm_up: int = 0
) -> Schedule:
    """Lays out `cell(step, layer)` for every step and layer, between embedding and solver step."""
    for what, value, low in [("steps", steps, 1), ("layers", layers, 1), ("top_k", top_k, 1), ("warm_up", warm_up, 0)]:
        if value < low:
            raise ScheduleError(f"{name}: {what}={value} should be at least {low}")
    if warm_up >= steps:
        raise ScheduleError(f"{name}: warm_up={warm_up} should be less than steps={steps}")
    rows = [f"P{s} {' '.join(cell(s, layer) for layer in range(layers))} F{s} Z{s}" for s in range(steps)]
    return Schedule.parse("\n".join([f"{name} steps={steps} layers={layers} top_k={top_k}", *rows])).trimmed()
