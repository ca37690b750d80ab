"""`python -m sim advise`: which schedule, how sure, what that rests on, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.commands.options import ClusterName, Dtype, ModelName, Pixels
from sim.units import quantity, readable

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.inputs import Input
    from sim.option import Asked, Option
    from sim.workload import Workload

Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
Images = Annotated[int, typer.Option(min=1, help="Images on each rank.")]
AdviseWire = Annotated[
    str, typer.Option("--wire", help="How rows travel; int8 is among the rivals anyway, not ranked.")
]
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
Latency = Annotated[
    str | None,
    typer.Option(
        help='Of a whole run at most, as "2.5 s". Alone, it ranks by mean age, or by quality; others, by time.'
    ),
]
Write = Annotated[Path | None, typer.Option(help="Write the schedules within limits as text files into this folder.")]
Top = Annotated[int, typer.Option(min=1, help="How many to show that are within limits.")]


def advise(
    cluster: ClusterName,
    also: Also = None,
    model: ModelName = "XL",
    images: Images = 16,
    steps: Steps = 50,
    pixels: Pixels = None,
    wire: AdviseWire = "bfloat16",
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
    """Rank schedules for a machine and a batch, within limits, with intervals and the evidence behind them.

    By makespan; where --latency is the only limit on what images may lose, by mean age, or by quality if there is a
    --vulnerability.  What no such number says (rows rounded; without a vulnerability, fewer steps) is not ranked.
    Ends with 1 if nothing is within the limits."""
    from rich.console import Console

    from sim.advise import advise as ranked
    from sim.advise import evidence
    from sim.cluster import Cluster
    from sim.inputs import drawn
    from sim.limits import Limits
    from sim.load import sources
    from sim.option import Asked
    from sim.vulnerability import Vulnerability

    machine = Cluster.load(cluster)
    workload = workload_of(machine, model, pixels, images, wire, dtype)
    if quality is not None and vulnerability is None:
        raise ValueError("--quality needs --vulnerability: the file that says what staleness costs")
    limits = Limits(mean_age, quality, machine.memory_bytes if memory is None else _above_0("memory_bytes", memory),
                    None if latency is None else _above_0("latency_s", latency))  # fmt: skip
    if write is not None and write.exists() and not write.is_dir():
        raise ValueError(f"--write {write} is not a folder")
    inputs = uncertain_inputs(machine, relative_error)
    costs = None if vulnerability is None else Vulnerability.load(vulnerability)
    asked = Asked(workload, machine, steps, limits, drawn(inputs, draws, seed), costs, tuple(sources(also or [])))
    console = Console(stderr=True)
    with console.status("evaluating") as status:
        options = ranked(asked, lambda name: status.update(f"evaluating {name}"))
    print(*_told(asked, options, top), "", *_launched(asked, options, write is None), "", sep="\n")
    print(*uncertainty_lines(inputs, draws), "", *evidence(asked), sep="\n")
    if write is not None:
        print("", *_written(asked, options, top, write), sep="\n")
    if all(option.against for option in options):
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------------- inputs


def _above_0(name: str, text: str) -> float:
    value = quantity(name, text)
    if not value > 0:
        raise ValueError(f"--{name.split('_')[0]} {text!r} should be above 0")
    return value


def workload_of(
    machine: Cluster, model: str, pixels: int | None, images: int, wire: str, dtype: str | None
) -> Workload:
    """What every rank of the cluster works on."""
    from sim.models import load_model
    from sim.workload import Workload

    return Workload(load_model(model, pixels), machine.ranks, images, wire, dtype=dtype)


def uncertain_inputs(machine: Cluster, relative_error: float | None) -> list[Input]:
    """The cluster's uncertain numbers.  Raises ValueError for an error that is given and stated, too."""
    from sim.inputs import ASSUMED, inputs_of

    if machine.errors and relative_error is not None:
        raise ValueError(f"--relative-error has no effect: cluster {machine.name} states its errors")
    return inputs_of(machine, ASSUMED if relative_error is None else relative_error)


# ------------------------------------------------------------------------------------------------- tables


def _told(asked: Asked, options: Sequence[Option], top: int) -> list[str]:
    """Three tables: what is ranked, what is not, and what is beyond the limits."""
    from sim.advise import ranked_by, verdicts

    ranked, unranked, beyond = _groups(options)
    shown = [*ranked[:top], *unranked[:top], *beyond]
    told = dict(zip(map(id, shown), verdicts(shown, ranked_by(asked)), strict=True))
    nothing = "nothing that can be ranked" if unranked else "nothing"
    lines = [f"ranked by {ranked_by(asked)}{_limits_told(asked)}:" if ranked else
             f"{nothing} is within all limits{_limits_told(asked)}"]  # fmt: skip
    lines += [*_table(asked, ranked[:top], told, numbered=True), *_more(ranked, top)]
    if unranked:
        unsaid = ", ".join(dict.fromkeys(what for option in unranked for what in option.unpriced))
        lines += ["", f"not ranked, since no number here says what it costs in images ({unsaid}):"]
        lines += [*_table(asked, unranked[:top], told, numbered=False), *_more(unranked, top)]
    if beyond:
        lines += ["", "beyond the limits, and what each misses:", *_table(asked, beyond, told, numbered=False)]
    return lines


def _more(group: Sequence[Option], top: int) -> list[str]:
    return [f"... and {len(group) - top} more (--top)"] if len(group) > top else []


def _groups(options: Sequence[Option]) -> tuple[list[Option], list[Option], list[Option]]:
    """Ranked, not ranked, beyond the limits."""
    within = [option for option in options if not option.against]
    return (
        [option for option in within if not option.unpriced],
        [option for option in within if option.unpriced],
        [option for option in options if option.against],
    )


def _limits_told(asked: Asked) -> str:
    told = ", ".join(asked.limits.told())
    return f" ({told})" if told else ""


def _table(asked: Asked, options: Sequence[Option], told: dict[int, str], numbered: bool) -> list[str]:
    from sim.show import grid

    limit_s, costed = asked.limits.latency_s, asked.vulnerability is not None
    rows = []
    for n, option in enumerate(options, 1):
        low, high = (readable("_s", end) for end in option.interval_s)
        quality = ["?" if option.quality is None else f"{option.quality:.3g}"] if costed else []
        age = "-" if option.why == "fewer steps" else f"{option.facts.mean_age_steps:.2f}"
        in_time = [] if limit_s is None else [f"{option.in_time(limit_s):.0%}"]
        rows.append([str(n) if numbered else "-", option.name, option.why, readable("_s", option.makespan_s),
                     f"{low} to {high}", *in_time, f"{option.images_per_s:.3g}", age, *quality,
                     readable("_bytes", float(option.facts.memory_bytes)), told[id(option)]])  # fmt: skip
    head = ["", "schedule", "sort", "makespan", "90 % of draws", *([] if limit_s is None else ["in time in"]),
            "images/s", "mean age", *(["quality"] if costed else []), "memory", "makespan, to the first"]  # fmt: skip
    return grid(head, rows) if rows else []


def uncertainty_lines(inputs: Sequence[Input], draws: int) -> list[str]:
    """What was drawn, and which errors the cluster states and which are assumed."""
    lines = [f"intervals: {draws} draws of {len(inputs)} numbers; what the model of the machine leaves out is in none"]
    for source in dict.fromkeys(each.source for each in inputs if each.stated):
        mine = _errors(each for each in inputs if each.stated and each.source == source)
        lines.append(f"standard errors stated by the cluster: {mine}; where the numbers come from: {source}")
    if assumed := [each for each in inputs if not each.stated]:
        lines.append(f"standard errors assumed, not measured, since the cluster states none: {_errors(assumed)}")
    return lines


def _errors(inputs: Iterable[Input]) -> str:
    return ", ".join(f"{each.name} {each.error:.1%}" for each in inputs)


# ------------------------------------------------------------------------------------------------- launch


def _launched(asked: Asked, options: Sequence[Option], unsaved: bool) -> list[str]:
    """How to run the first on real ranks, and how to get all as files."""
    from sim.launch import launch_notes

    ranked = _groups(options)[0]
    if not ranked:
        return ["nothing to run"]
    notes = "; ".join(launch_notes(asked.cluster))
    lines = [f"to run {ranked[0].name} ({notes}):", f"  {_command(ranked[0].source, ranked[0], asked)}"]
    saves = "--write FOLDER saves what is within limits as text files, with a command for each"
    return [*lines, *([saves] if unsaved else [])]


def _command(source: str, option: Option, asked: Asked) -> str:
    from sim.launch import launch_command

    try:
        return launch_command(source, option.schedule, option.workload, asked.cluster)
    except ValueError as error:
        return f"{option.name}: no command: {error}"


def _written(asked: Asked, options: Sequence[Option], top: int, folder: Path) -> list[str]:
    """Writes the schedules within limits, and says of each file whether it is new, and how to launch it.

    Raises ValueError, and writes nothing, if one of them would replace another file."""
    from sim.output import write_new

    ranked, unranked, _ = _groups(options)
    chosen: dict[Path, Option] = {}
    for option in [*ranked[:top], *unranked[:top]]:
        path = folder / (re.sub(r"[^\w.+-]+", "_", option.name) + ".txt")
        if path in chosen:
            raise ValueError(f"{path}: would hold {chosen[path].name} and {option.name}; nothing was written")
        chosen[path] = option
    new = write_new({path: str(option.schedule) for path, option in chosen.items()})
    lines = [f"files written into {folder}: {len(new)}"]
    for path, option in chosen.items():
        lines.append(f"{path}, {'written' if path in new else 'there already, holds the same'}:")
        lines.append(f"  {_command(str(path), option, asked)}")
    return lines
