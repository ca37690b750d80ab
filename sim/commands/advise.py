"""`python -m sim advise` and `python -m sim sensitivity`: which schedule, how sure, and what that rests on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.units import quantity, readable

if TYPE_CHECKING:
    from sim.advise import Asked, Option
    from sim.cluster import Cluster
    from sim.inputs import Input
    from sim.schedule import Schedule
    from sim.sensitivity import Influence, Makespans, Ranking
    from sim.workload import Workload

ClusterName = Annotated[str, typer.Option("--cluster", help="The machine: a YAML file, or a name as 8x-h100.")]
Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
ModelName = Annotated[str, typer.Option(help="The network, such as S or XL, or a file.")]
Pixels = Annotated[int | None, typer.Option(help="Side of an image; the model's own if not given.")]
Images = Annotated[int, typer.Option(min=1, help="Images on each rank.")]
Wire = Annotated[str, typer.Option(help="How rows travel; int8 is among the rivals anyway.")]
Dtype = Annotated[str | None, typer.Option(help="Of compute, on a cluster of GPUs: bf16 if not given.")]
Draws = Annotated[int, typer.Option(min=2, max=4096, help="Draws of the machine's uncertain numbers.")]
Error = Annotated[float | None, typer.Option("--relative-error", help="Of numbers whose error nobody stated; 0.1.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Also = Annotated[
    list[str] | None, typer.Argument(metavar="[SCHEDULE [SETTING=VALUE]...]...", help="Further candidates.")
]
MeanAge = Annotated[float | None, typer.Option(min=0, help="At most, in steps.")]
Quality = Annotated[float | None, typer.Option(min=0, help="At most, of what --vulnerability estimates.")]
VulnerabilityFile = Annotated[str | None, typer.Option(help="What staleness costs: a name, or a file.")]
Memory = Annotated[str | None, typer.Option(help='Of each GPU, as "24 GiB"; the cluster\'s GPU says its own.')]
Latency = Annotated[str | None, typer.Option(help='Of a whole run at most, as "2.5 s".')]
Write = Annotated[Path | None, typer.Option(help="Write the schedules within limits as text files into this folder.")]
Top = Annotated[int, typer.Option(min=1, help="How many to show that are within limits.")]


def advise(
    cluster: ClusterName,
    also: Also = None,
    model: ModelName = "XL",
    images: Images = 16,
    steps: Steps = 50,
    pixels: Pixels = None,
    wire: Wire = "bfloat16",
    dtype: Dtype = None,
    mean_age: MeanAge = None,
    quality: Quality = None,
    vulnerability: VulnerabilityFile = None,
    memory: Memory = None,
    latency: Latency = None,
    draws: Draws = 64,
    relative_error: Error = None,
    seed: Seed = 0,
    write: Write = None,
    top: Top = 10,
) -> None:
    """Rank schedules for a machine and a batch, within limits, with intervals and the evidence behind them."""
    from rich.console import Console

    from sim.advise import Asked, Limits, evidence
    from sim.advise import advise as ranked
    from sim.gpu import Gpu
    from sim.inputs import drawn
    from sim.load import sources
    from sim.vulnerability import Vulnerability

    machine, workload = _machine(cluster), _workload(cluster, model, pixels, images, wire, dtype)
    if quality is not None and vulnerability is None:
        raise ValueError("--quality needs --vulnerability: the file that says what staleness costs")
    has = machine.compute.memory_bytes if isinstance(machine.compute, Gpu) else None
    limits = Limits(mean_age, quality, has if memory is None else _above_0("memory_bytes", memory),
                    None if latency is None else _above_0("latency_s", latency))  # fmt: skip
    inputs = _inputs(machine, relative_error)
    costs = None if vulnerability is None else Vulnerability.load(vulnerability)
    asked = Asked(workload, machine, steps, limits, drawn(inputs, draws, seed), costs, tuple(sources(also or [])))
    console = Console(stderr=True)
    with console.status("evaluating") as status:
        options = ranked(asked, lambda name: status.update(f"evaluating {name}"))
    print(*_told(asked, options, top), "", *_uncertainty(machine, inputs, draws), "", *evidence(asked), sep="\n")
    if write is not None:
        print("", *_written(asked, options, top, write), sep="\n")


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

    from sim.inputs import drawn
    from sim.load import load_schedule, sources
    from sim.sensitivity import influences, ranking

    machine, workload = _machine(cluster), _workload(cluster, model, pixels, images, wire, dtype)
    inputs, named = _inputs(machine, relative_error), sources(schedules)
    plans = [load_schedule(source, steps, workload.model.layers, top_k=workload.model.top_k) for source in named]
    seconds, found = [], []
    with Console(stderr=True).status("evaluating") as status:
        for source, plan in zip(named, plans, strict=True):
            status.update(f"evaluating {source}")
            makespans = _makespans(plan, workload, machine)
            found.append(influences(inputs, makespans, points, seed))
            seconds.append(makespans(drawn(inputs, draws, seed), draws))
    each = np.array(seconds)
    print(*_influences_told(named, found), "", *_ranking_told(named, each, ranking(each)), "", sep="\n")
    print(*_uncertainty(machine, inputs, draws), sep="\n")


# ------------------------------------------------------------------------------------------------- inputs


def _above_0(name: str, text: str) -> float:
    value = quantity(name, text)
    if not value > 0:
        raise ValueError(f"--{name.split('_')[0]} {text!r} should be above 0")
    return value


def _machine(cluster: str) -> Cluster:
    from sim.cluster import Cluster

    return Cluster.load(cluster)


def _workload(cluster: str, model: str, pixels: int | None, images: int, wire: str, dtype: str | None) -> Workload:
    from sim.models import load_model
    from sim.workload import Workload

    return Workload(load_model(model, pixels), _machine(cluster).ranks, images, wire, dtype=dtype)


def _inputs(machine: Cluster, relative_error: float | None) -> list[Input]:
    from sim.inputs import ASSUMED, inputs_of

    if machine.errors and relative_error is not None:
        raise ValueError(f"--relative-error has no effect: cluster {machine.name} states its errors")
    return inputs_of(machine, ASSUMED if relative_error is None else relative_error)


def _makespans(plan: Schedule, workload: Workload, machine: Cluster) -> Makespans:
    """Seconds [draw] of one schedule, of factors by setting."""
    from sim.vectorised.engines import Case, evaluate

    def seconds(changes: dict[str, Any], draws: int) -> Any:
        outcome = evaluate(Case(plan, workload, asdict(machine), draws, changes))
        if reasons := [error for error in outcome.error if error is not None]:
            raise ValueError(reasons[0])
        return outcome.makespan_s

    return seconds


# ------------------------------------------------------------------------------------------------- tables


def _told(asked: Asked, options: Sequence[Option], top: int) -> list[str]:
    from sim.advise import verdicts
    from sim.show import grid

    within = [option for option in options if not option.against]
    shown = [*within[:top], *(option for option in options if option.against)]
    rows = []
    for n, (option, verdict) in enumerate(zip(shown, verdicts(shown), strict=True), 1):
        low, high = (readable("_s", end) for end in option.interval_s)
        quality = [] if asked.vulnerability is None else ["?" if option.quality is None else f"{option.quality:.3g}"]
        age = "-" if option.why == "fewer steps" else f"{option.facts.mean_age_steps:.2f}"
        rows.append(["-" if option.against else str(n), option.name, option.why, readable("_s", option.makespan_s),
                     f"{low} to {high}", f"{option.images_per_s:.3g}", age, *quality,
                     f"{option.facts.memory_bytes / 1e9:.1f} GB", verdict])  # fmt: skip
    head = ["", "schedule", "sort", "makespan", "90 % of draws", "images/s", "mean age",
            *([] if asked.vulnerability is None else ["quality"]), "memory", "against the best"]  # fmt: skip
    none = [] if within else ["nothing is within all limits; what each misses:"]
    hidden = [f"... and {len(within) - top} more within limits"] if len(within) > top else []
    return [*none, *grid(head, rows), *hidden]


def _uncertainty(machine: Cluster, inputs: Sequence[Input], draws: int) -> list[str]:
    if machine.errors:
        return [f"intervals: {draws} draws, by the standard errors that the cluster states; what the model leaves out "
                "is in none of them"]  # fmt: skip
    told = ", ".join(f"{each.name} {each.error:.0%}" for each in inputs)
    return [f"intervals: {draws} draws; the cluster states no errors, so these are assumed, not measured: {told}"]


def _written(asked: Asked, options: Sequence[Option], top: int, folder: Path) -> list[str]:
    """Writes the schedules within limits, and says how to launch each."""
    from sim.output import whole_file

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for option in [option for option in options if not option.against][:top]:
        path = folder / (re.sub(r"[^\w.+-]+", "_", option.name) + ".txt")
        with whole_file(path) as part:
            part.write_text(str(option.schedule))
        lines.append(launch_command(path, option.workload, asked.cluster))
    return lines


def launch_command(path: Path, workload: Workload, cluster: Cluster) -> str:
    """How `realrun` is started on it, one process a rank."""
    from sim.gpu import Gpu

    computes = workload.dtype or ("bf16" if isinstance(cluster.compute, Gpu) else "fp32")
    dtype = "bfloat16" if computes == "bf16" else "float32"
    return (f"torchrun --nproc-per-node {workload.ranks} -m realrun {path} --model {workload.model.name} "
            f"--images {workload.images} --dtype {dtype} --wire {workload.wire}")  # fmt: skip


def _influences_told(named: Sequence[str], found: Sequence[Sequence[Influence]]) -> list[str]:
    from sim.show import grid

    rows = []
    for name, each in zip(named, found, strict=True):
        for one in each:
            alone, total = f"{one.first:.2f} +- {one.first_error:.2f}", f"{one.total:.2f} +- {one.total_error:.2f}"
            error, less, more = f"{one.input.error:.1%}", f"{one.down:+.2%}", f"{one.up:+.2%}"
            rows.append([name, one.input.name, error, less, more, alone, total])
    head = ["schedule", "input", "error", "makespan, if less", "if more", "variance: alone", "in all"]
    return grid(head, rows)


def _ranking_told(named: Sequence[str], seconds: Any, found: Ranking) -> list[str]:
    import numpy as np

    from sim.show import grid

    order = [int(i) for i in np.argsort(seconds[:, 0], kind="stable")]
    rows = []
    for place, i in enumerate(order):
        after = order[place + 1] if place + 1 < len(order) else None
        low, high = np.quantile(seconds[i], [0.05, 0.95])
        rows.append([named[i], readable("_s", float(seconds[i, 0])), f"{readable('_s', low)} to {readable('_s', high)}",
                     f"{found.best[i]:.0%}", "" if after is None else f"{found.faster[i, after]:.0%}"])  # fmt: skip
    pairs = f"two schedules taken at random keep their order in {found.pairs:.0%} of draws"
    return [*grid(["schedule", "makespan", "90 % of draws", "fastest in", "faster than the next in"], rows), pairs]
