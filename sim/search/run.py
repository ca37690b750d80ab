"""A search from its file to its results: the front of a search of layers, the best of a search of orders, each
schedule a text file of its own beside a table in JSON.

It puts the parts together (sim/search/layers.py, sim/search/order.py); it refuses to know how they search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.gpu import DTYPES, Gpu
from sim.load import load_schedule
from sim.memory import memory
from sim.output import whole_file
from sim.schedule import Schedule
from sim.search.file import LayersSearch, OrderSearch, Run
from sim.search.layers import Cost, LayerSearch, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise
from sim.search.order import Candidate, Improved, local_search
from sim.vectorised.evaluate import Evaluator
from sim.vulnerability import Vulnerability, quality_cost

Row = dict[str, Any]
Tell = Callable[[str], None]


def seconds_of(run: Run) -> Callable[[Schedule], float]:
    """Seconds of any schedule with the workload and on the machine of `run`."""
    return lambda schedule: float(Evaluator(schedule).evaluate([run.workload], [run.cluster]).makespan_s[0])


def memory_bytes(schedule: Schedule, run: Run) -> float:
    """That the fullest rank needs."""
    element_bytes = DTYPES[run.workload.dtype or "bf16"] if isinstance(run.cluster.compute, Gpu) else 4
    return memory(schedule, run.workload, element_bytes).peak_bytes


def cost_of(vulnerability: Vulnerability | None) -> Callable[[Schedule], float]:
    """Mean age in steps of what is added, or the distance of images to those of as many synchronous steps."""
    if vulnerability is None:
        return lambda schedule: float(np.mean(schedule.staleness()))
    return lambda schedule: quality_cost(schedule, vulnerability, euler=False)


def digest(search: LayersSearch | OrderSearch) -> str:
    """What a search is known by, contents of its files included."""
    run = search.start
    rest = {key: value for key, value in vars(search).items() if key != "start"}
    said = (str(run.schedule), run.workload, run.cluster, rest)
    counts = b"" if run.workload.routing is None else run.workload.routing.counts.tobytes()
    return hashlib.blake2b(repr(said).encode() + counts, digest_size=8).hexdigest()


def held_here(file: Path, mine: str) -> Row:
    """What `file` holds of the search known by `mine`; nothing if it is not there.

    Raises ValueError, and changes nothing, if it holds another's."""
    if not file.exists():
        return {}
    try:
        held: Row = json.loads(file.read_text())
        theirs = held.get("search")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: holds no search ({error}); give another folder") from None
    if theirs != mine:
        raise ValueError(f"{file}: holds another search ({theirs}, not {mine}); give another folder")
    return held


# ---------------------------------------------------------------------------------------------------- layers


def layer_search(search: LayersSearch) -> LayerSearch:
    """The search that the file means, with every mode timed in all layers."""
    run, plan = search.start, search.start.schedule
    cost: Cost = age_cost(plan.steps, plan.layers, search.modes, plan.top_k)
    if search.vulnerability is not None:
        cost = image_cost(plan.steps, plan.layers, search.modes, search.vulnerability)
    return LayerSearch(plan.steps, plan.layers, search.modes, cost, seconds_of(run), plan.top_k)


def search_layers(search: LayersSearch, folder: Path, tell: Tell) -> list[Row]:
    """Writes the front, `points` of it between the fastest and the slowest, and returns its rows."""
    held_here(folder / "front.json", mine := digest(search))
    tell("timing modes")
    layers = layer_search(search)
    tell("timing mixtures")
    layers.probe(search.probes, search.seed)
    low, high = layers.front.first[[0, -1]]
    rows, seen = list[Row](), set[tuple[Mode, ...]]()
    for limit_s in np.geomspace(low * 1.02, high * 1.001, search.points):
        tell(f"at most {limit_s:.3g} s")
        found = layers.best(float(limit_s))
        if found.modes in seen:
            continue
        seen.add(found.modes)
        name = f"layers-{len(rows)}"
        plan = layerwise(search.start.schedule.steps, found.modes, layers.top_k, name)
        _write(folder / f"{name}.txt", str(plan))
        rows.append({"schedule": f"{name}.txt", "makespan_s": found.seconds, layers.cost.name: found.cost,
                     "no_less_than": found.bound, "layers_add_up_to_s": found.said_s,
                     "memory_bytes": memory_bytes(plan, search.start),
                     "modes": [str(mode) for mode in found.modes]})  # fmt: skip
    _write(folder / "front.json", _text({"search": mine, "fastest_error": layers.fastest_error, "rows": rows}))
    return rows


# ---------------------------------------------------------------------------------------------------- order


def search_order(search: OrderSearch, folder: Path, tell: Tell) -> list[Row]:
    """Writes the best order, each time that one is found, and returns a row for each; goes on where it was stopped."""
    state, rows, start, done = folder / "order.json", list[Row](), Candidate(), 0
    mine = digest(replace(search, trials=0))
    if held := held_here(state, mine):
        rows, done = held["rows"], held["done"]
        start = Candidate(**{key: rows[-1][key] for key in ("settings", "shifts")})
    for improved in _improvements(search, start, search.trials - done, search.seed + done):
        row = _row(improved, search.start, done)
        if not rows or row["makespan_s"] < rows[-1]["makespan_s"]:
            rows.append(row)
        tell(f"{row['makespan_s']:.5g} s: {improved.candidate}")
        _write(folder / "order.txt", str(replace(improved.schedule, name="order")))
        _write(state, _text({"search": mine, "done": row["trial"], "rows": rows}))
    _write(state, _text({"search": mine, "done": max(done, search.trials), "rows": rows}))
    return rows


def _row(improved: Improved, run: Run, done: int) -> Row:
    return {**asdict(improved.candidate), "trial": done + improved.trial, "makespan_s": improved.seconds,
            "cost": improved.cost, "memory_bytes": memory_bytes(improved.schedule, run)}  # fmt: skip


def _improvements(search: OrderSearch, start: Candidate, trials: int, seed: int) -> Iterator[Improved]:
    run, plan = search.start, search.start.schedule
    compute = run.cluster.compute
    limit = compute.memory_bytes if isinstance(compute, Gpu) else float("inf")

    def build(settings: Any) -> Schedule:
        made = with_settings(plan, settings)
        if settings and memory_bytes(made, run) > limit:
            raise ValueError("does not fit into the GPU's memory")
        return made

    return local_search(build, seconds_of(run), cost_of(search.vulnerability), trials, seed, start=start)


def with_settings(plan: Schedule, settings: dict[str, Any]) -> Schedule:
    """The named schedule of `plan` with other settings.  Raises ScheduleError where it has no name, or they no
    effect."""
    if not settings:
        return plan
    return load_schedule(plan.name.split("+")[0], plan.steps, plan.layers, top_k=plan.top_k, **settings)


def _text(tables: Any) -> str:
    return json.dumps(tables, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text)
