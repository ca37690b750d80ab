"""`python -m sim sensitivity`: which uncertain numbers of a machine matter, and how sure a ranking is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.commands.advise import (
    Draws,
    Error,
    Images,
    Seed,
    Steps,
    uncertain_inputs,
    uncertainty_lines,
    workload_of,
)
from sim.commands.options import ClusterName, Dtype, ModelName, Pixels, Wire
from sim.units import readable

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.schedule import Schedule
    from sim.sensitivity import Influence, Makespans, Ranking
    from sim.workload import Workload

_LEGEND = (
    "if less, if more: what a standard error of the input less, or more, does to the makespan",
    "variance: the share of that of log makespan that it explains alone, and with all that it does beside others",
    "+-: half the width of a 95 % bootstrap interval",
)


def sensitivity(
    schedules: Annotated[list[str], typer.Argument(metavar="SCHEDULE [SETTING=VALUE]...", help="Two or more, or one.")],
    cluster: ClusterName,
    model: ModelName = "XL",
    images: Images = 16,
    steps: Steps = 50,
    pixels: Pixels = None,
    wire: Wire = "bfloat16",
    dtype: Dtype = None,
    points: Annotated[int, typer.Option(help="Of a Sobol sequence, a power of 2.")] = 64,
    draws: Draws = 256,
    relative_error: Error = None,
    seed: Seed = 0,
) -> None:
    """Say which uncertain numbers of a machine matter to schedules, and how sure their ranking is."""
    import numpy as np
    from rich.console import Console

    from sim.cluster import Cluster
    from sim.inputs import drawn
    from sim.load import load_for, sources
    from sim.sensitivity import influences, ranking

    machine = Cluster.load(cluster)
    workload = workload_of(machine, model, pixels, images, wire, dtype)
    inputs, named = uncertain_inputs(machine, relative_error), sources(schedules)
    if twice := [name for i, name in enumerate(named) if name in named[:i]]:
        raise ValueError(f"{twice[0]} stands there twice")
    plans = [load_for(source, steps, workload.model) for source in named]
    seconds, found = [], []
    with Console(stderr=True).status("evaluating") as status:
        for source, plan in zip(named, plans, strict=True):
            status.update(f"evaluating {source}")
            makespans = _makespans(plan, workload, machine)
            found.append(influences(inputs, makespans, points, seed))
            seconds.append(makespans(drawn(inputs, draws, seed), draws))
    each = np.array(seconds)
    print(*_influences_told(named, found), "", *_ranking_told(named, each, ranking(each)), "", sep="\n")
    print(*uncertainty_lines(inputs, draws), sep="\n")


def _makespans(plan: Schedule, workload: Workload, machine: Cluster) -> Makespans:
    """Seconds [draw] of one schedule, of factors by setting."""
    from sim.vectorised.engines import Case, evaluate

    def seconds(changes: dict[str, Any], draws: int) -> Any:
        outcome = evaluate(Case(plan, workload, asdict(machine), draws, changes))
        if reasons := [error for error in outcome.error if error is not None]:
            raise ValueError(reasons[0])
        return outcome.makespan_s

    return seconds


def _influences_told(named: Sequence[str], found: Sequence[Sequence[Influence]]) -> list[str]:
    from sim.show import grid

    rows = []
    for name, each in zip(named, found, strict=True):
        for one in each:
            alone, total = f"{one.first:.2f} +- {one.first_error:.2f}", f"{one.total:.2f} +- {one.total_error:.2f}"
            error, less, more = f"{one.input.error:.1%}", f"{one.down:+.2%}", f"{one.up:+.2%}"
            rows.append([name, one.input.name, error, less, more, alone, total])
    head = ["schedule", "input", "error", "makespan, if less", "if more", "variance: alone", "in all"]
    return [*grid(head, rows), *_LEGEND]


def _ranking_told(named: Sequence[str], seconds: Any, found: Ranking) -> list[str]:
    """Makespans and, of several, how sure their order is."""
    import numpy as np

    from sim.show import grid

    order = [int(i) for i in np.argsort(seconds[:, 0], kind="stable")]
    head, compared = ["schedule", "makespan", "90 % of draws"], ["fastest in", "faster than the next in"]
    rows = []
    for place, i in enumerate(order):
        low, high = (readable("_s", float(end)) for end in np.quantile(seconds[i], [0.05, 0.95]))
        next_ones = order[place + 1 : place + 2]
        sure = [f"{found.best[i]:.0%}", "".join(f"{found.faster[i, after]:.0%}" for after in next_ones)]
        rows.append([named[i], readable("_s", float(seconds[i, 0])), f"{low} to {high}", *sure])
    if len(rows) == 1:
        return grid(head, [rows[0][: len(head)]])
    pairs = f"two schedules taken at random keep their order in {found.pairs:.0%} of draws"
    return [*grid([*head, *compared], rows), pairs]
