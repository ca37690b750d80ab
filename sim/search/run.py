"""A search from its file to its results: the front of a search of layers, the best of a search of orders, each
schedule a text file of its own beside a table in JSON.

It puts the parts together (sim/search/layers.py, sim/search/order.py); it refuses to know how they search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sim.load import load_schedule
from sim.memory import memory_on
from sim.output import whole_file
from sim.schedule import Schedule
from sim.search.file import LayersSearch, OrderSearch, Run, SettingsSearch
from sim.search.journal import holds_trials
from sim.search.layers import Cost, Found, LayerSearch, Unreached, age_cost, image_cost
from sim.search.layerwise import Mode, layerwise
from sim.search.order import Candidate, Improved, local_search, reordered
from sim.search.rules import Stand, beyond, know, rules, stand
from sim.units import readable
from sim.vectorised.evaluate import Evaluator
from sim.vulnerability import Vulnerability, quality_cost

JOURNAL, FRONT, ORDER = "journal.log", "front.json", "order.json"
Row = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What a search found: a row each; what else is to be said; rows of what it is held against."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    beside: list[Row] = field(default_factory=list)


def more_there(done: int, asked: int) -> list[str]:
    """That more trials are there than were asked for, if so."""
    told = f"{done} trials are there, more than {asked}: this is what all of them found"
    return [told] if done > asked else []


def anything_found(folder: Path) -> bool:
    """Whether a search left anything there that it can go on with, or that somebody may want."""
    return (folder / FRONT).exists() or (folder / ORDER).exists() or holds_trials(folder / JOURNAL)


def seconds_of(run: Run) -> Callable[[Schedule], float]:
    """Seconds of any schedule with the workload and on the machine of `run`."""
    return lambda schedule: float(Evaluator(schedule).evaluate([run.workload], [run.cluster]).makespan_s[0])


def memory_bytes(schedule: Schedule, run: Run) -> float:
    """That the fullest rank needs."""
    return memory_on(run.cluster, schedule, run.workload).peak_bytes


def cost_of(vulnerability: Vulnerability | None) -> Callable[[Schedule], float]:
    """Mean age in steps of what is added, or the distance of images to those of as many synchronous steps."""
    if vulnerability is None:
        return lambda schedule: float(np.mean(schedule.staleness()))
    return lambda schedule: quality_cost(schedule, vulnerability, euler=False)


# -------------------------------------------------------------------------------------------------- settings


def search_settings(search: SettingsSearch, folder: Path, tell: Tell) -> Answer:
    """The trials that nothing beats; where none is within the limits, why."""
    from sim.search.settings import found_rows, go_on, how_many, opened, to_try, told, why_nothing

    study = opened(search, folder / JOURNAL)
    go_on(search, study, lambda done: tell(f"{done} of {to_try(search)} trials"))
    rows = found_rows(search, study)
    return Answer(rows, [*([] if rows else why_nothing(search, study)), how_many(search, study),
                         *more_there(len(told(study)), search.trials)])  # fmt: skip


# ---------------------------------------------------------------------------------------------------- layers


def layer_search(search: LayersSearch) -> LayerSearch:
    """The search that the file means, with every mode timed in all layers."""
    run, plan = search.start, search.start.schedule
    cost: Cost = age_cost(plan.steps, plan.layers, search.modes, plan.top_k)
    if search.vulnerability is not None:
        cost = image_cost(plan.steps, plan.layers, search.modes, search.vulnerability)
    return LayerSearch(plan.steps, plan.layers, search.modes, cost, seconds_of(run), plan.top_k)


def search_layers(search: LayersSearch, folder: Path, tell: Tell) -> Answer:
    """Writes the front, `points` of it between the fastest and the slowest, or what is best for each latency asked for,
    each row with how far it lies from the rules of thumb; and what was found where each of these stands."""
    tell("timing modes")
    layers = layer_search(search)
    tell("timing mixtures")
    layers.probe(search.probes, search.seed)
    some = rules(layers.steps, layers.layers, layers.top_k)
    know(layers, some)
    founds, notes = _front(search, layers, tell)
    tell("where rules of thumb stand")
    cost = cost_of(search.vulnerability)
    stands = [stand(layers, rule, cost(rule.schedule)) for rule in some]
    rows, names = list[Row](), dict[tuple[Mode, ...], str]()
    for limit, found in founds:
        name = names.setdefault(found.modes, f"layers-{len(names)}")
        plan = layerwise(layers.steps, found.modes, layers.top_k, name)
        _write(folder / f"{name}.txt", str(plan))
        against = {
            rule: {"makespan": time, "cost": more} for rule, time, more in beyond(found.seconds, found.cost, stands)
        }
        rows.append({"schedule": f"{name}.txt", **limit, **_told(found, layers.cost.name),
                     "memory_bytes": memory_bytes(plan, search.start), "against": against})  # fmt: skip
    beside = [_stand_row(each, layers.cost.name) for each in stands]
    _write(folder / FRONT, _text({"fastest_error": layers.fastest_error, "rows": rows, "rules": beside,
                                         "unreached": notes}))  # fmt: skip
    return Answer(rows, notes, beside)


def _front(search: LayersSearch, layers: LayerSearch, tell: Tell) -> tuple[list[tuple[Row, Found]], list[str]]:
    """What was found, each beside the latency that was asked for, if any was; and a line for each not reached."""
    low, high = layers.front.first[[0, -1]]
    founds, notes = list[tuple[Row, Found]](), list[str]()
    for limit_s in search.latency_s or np.geomspace(low * 1.02, high * 1.001, search.points).tolist():
        tell(f"at most {readable('_s', limit_s)}")
        try:
            found = layers.best(limit_s)
        except Unreached as error:
            notes.append(str(error))
            continue
        if search.latency_s:
            founds.append(({"latency_s": limit_s}, found))
        elif found.modes not in [earlier.modes for _, earlier in founds]:
            founds.append(({}, found))
    return founds, notes


def _told(found: Found, cost: str) -> Row:
    return {"makespan_s": found.seconds, cost: found.cost, "no_less_than": found.bound,
            "layers_add_up_to_s": found.said_s, "modes": [str(mode) for mode in found.modes]}  # fmt: skip


def _stand_row(stand: Stand, cost: str) -> Row:
    found = {key: each and _told(each, cost) for key, each in (("as_fast", stand.as_fast), ("at_cost", stand.at_cost))}
    return {"rule": stand.rule, "makespan_s": stand.seconds, cost: stand.cost, **found}


# ---------------------------------------------------------------------------------------------------- order


def search_order(search: OrderSearch, folder: Path, tell: Tell) -> Answer:
    """Writes the best order, each time that one is found, and returns a row for each; goes on where it was stopped, and
    finds what it would have found without a stop."""
    state, rows, done = folder / ORDER, list[Row](), -1
    if state.exists():
        rows, done = _held(state)
    for trial, best in enumerate(_improvements(search, rows, done), done + 1):
        if not rows or best.trial > rows[-1]["trial"]:
            plan = reordered(_built(search.start, best.candidate.settings), best.candidate.shifts)
            rows.append(_row(best, plan, search.start))
            _write(folder / "order.txt", str(replace(plan, name="order")))
        tell(f"{trial} of {search.trials} trials, {best.seconds:.5g} s: {best.candidate}")
        _write(state, _text({"done": trial, "rows": rows}))
    return Answer(rows, more_there(done, search.trials))


def _held(state: Path) -> tuple[list[Row], int]:
    """Rows of what was found, and how many trials have been done.  Raises ValueError for a file that cannot be read."""
    try:
        held = json.loads(state.read_text())
        _ = [_improved(row) for row in held["rows"]]
        return list(held["rows"]), int(held["done"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{state}: is not what a search of orders writes ({error}); say another --out") from None


def _row(best: Improved, plan: Schedule, run: Run) -> Row:
    return {**asdict(best.candidate), "trial": best.trial, "makespan_s": best.seconds, "cost": best.cost,
            "memory_bytes": memory_bytes(plan, run)}  # fmt: skip


def _improved(row: Row) -> Improved:
    return Improved(Candidate(row["settings"], row["shifts"]), row["makespan_s"], row["cost"], row["trial"])


def _improvements(search: OrderSearch, rows: list[Row], done: int) -> Iterator[Improved]:
    run = search.start
    timed, cost = seconds_of(run), cost_of(search.vulnerability)
    build, earlier = partial(_built, run), [_improved(row) for row in rows]
    return local_search(build, timed, cost, search.trials, search.seed, earlier=earlier, done=done)


def _built(run: Run, settings: Mapping[str, Any]) -> Schedule:
    """The start with other settings.  Raises ValueError if there is none such, or it does not fit into memory."""
    made, has = with_settings(run.schedule, settings), run.cluster.memory_bytes
    if settings and has is not None and memory_bytes(made, run) > has:
        raise ValueError("does not fit into the GPU's memory")
    return made


def with_settings(plan: Schedule, settings: Mapping[str, Any]) -> Schedule:
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
