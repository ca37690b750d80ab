"""The command line: `python -m sim schedules | show | check | simulate | ...`, also called `dice-sim`.

Every command loads what it was given, calls one function of the package and prints or writes what comes back.  What
the user can mend (ValueError, OSError) ends in one message on stderr and exit code 2, before anything is written.
SimPy, NumPy and matplotlib are imported by the commands that use them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.commands.advise import advise, sensitivity
from sim.commands.cluster import cluster as tell_cluster
from sim.commands.mesh import MeshText, NoGuidance, PlacementText, decoding, decoding_bytes, meshed, placed
from sim.commands.profile import read_back
from sim.commands.reference import reference
from sim.commands.results import results
from sim.commands.search import search
from sim.commands.similarity import similarity
from sim.commands.sweep import sweep
from sim.commands.traces import (
    Decode,
    Json,
    Outputs,
    Ranks,
    StartUp,
    Step,
    around,
    convert,
    critical_lines,
    critical_saved,
    draw,
    report_lines,
    report_saved,
    titled,
)
from sim.load import load_schedule, only, sources
from sim.schedule import Schedule
from sim.terminal import run_app
from sim.units import quantity

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.trace import Trace
    from sim.workload import Workload

app = typer.Typer(
    help="How long a schedule of mixture-of-experts diffusion takes, how stale it gets, and how much memory it needs.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("advise")(advise)
app.command("cluster")(tell_cluster)
app.command("sensitivity")(sensitivity)
app.command("sweep")(sweep)
app.command("search")(search)
app.command("results")(results)
app.command("trace")(convert)
app.command("picture")(draw)
app.command("report")(report_saved)
app.command("critical")(critical_saved)
app.command("profile")(read_back)
app.command("similarity")(similarity)
app.command()(reference)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEDULE [SETTING=VALUE]...",
        help="A name, a text file, or FILE.py:FUNCTION, and its settings; `schedules` lists names and settings.",
    ),
]
Steps = Annotated[int | None, typer.Option(help="Sampling steps; a text file says its own.")]
ClusterName = Annotated[
    str, typer.Option("--cluster", help="The machine: a YAML file, or a name as 8x-h100; any other word lists them.")
]
Wire = Annotated[str, typer.Option(help="How rows travel, as int8; any other word lists all ways.")]
ModelName = Annotated[str, typer.Option(help="The network, such as S or XL, or a file.")]
Pixels = Annotated[int | None, typer.Option(help="Side of an image; the model's own if not given.")]
Images = Annotated[int, typer.Option(help="Images on each rank.")]
Imbalance = Annotated[
    float | None, typer.Option(help="Modelled routing: load of a layer's most loaded expert over the mean.")
]
Keep = Annotated[
    float | None, typer.Option(help="Modelled routing: how likely a token keeps its best expert for a step; 1.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits."""
    run_app(app, arguments)


# ------------------------------------------------------------------------------------------- schedules


@app.command()
def schedules() -> None:
    """List the schedules that have names, and the settings that any schedule can have."""
    from sim.describe import schedules_table, settings_table

    print(*schedules_table(), "", *settings_table(), sep="\n")


@app.command()
def show(
    schedule: Sources,
    steps: Steps = None,
    layers: Annotated[int | None, typer.Option(help="Layers; a text file says its own.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The text only, without tables.")] = False,
) -> None:
    """Print a schedule, its staleness and its buffers.

    All of it is a schedule file (the tables are comments): redirect it, change it, hand it back."""
    from sim.describe import describe

    loaded = load_schedule(only(sources(schedule)), steps, layers)
    print(loaded if text else describe(loaded), end="")


@app.command()
def check(
    schedule: Sources,
    steps: Steps = None,
    layers: Annotated[int | None, typer.Option(help="Layers; a text file says its own.")] = None,
) -> None:
    """Say whether a schedule can be run; if it cannot, draw the place and exit with 2."""
    source = only(sources(schedule))
    loaded = load_schedule(source, steps, layers)
    oldest = max(age for layers in loaded.staleness() for slots in layers for age in slots)
    print(f"{source}: {loaded.header}: {len(loaded.ops)} ops, in order; oldest age {oldest}")


# ------------------------------------------------------------------------------------------ simulation


@app.command()
def simulate(
    schedules: Sources,
    cluster: ClusterName,
    steps: Steps = None,
    model: ModelName = "XL",
    pixels: Pixels = None,
    images: Images = 16,
    ranks: Annotated[int | None, typer.Option(help="Ranks; as many as the cluster file has if not given.")] = None,
    wire: Wire = "bfloat16",
    routing: Annotated[Path | None, typer.Option(help="Recorded routing (.npz); balanced without.")] = None,
    imbalance: Imbalance = None,
    keep: Keep = None,
    routing_seed: Annotated[int | None, typer.Option(help="Of modelled routing; 0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of compute, on a cluster of GPUs: bf16 if not given.")] = None,
    grouped: Annotated[bool, typer.Option("--grouped", help="On GPUs, a rank's experts run as one kernel.")] = False,
    mesh: MeshText = None,
    placement: PlacementText = None,
    no_guidance: NoGuidance = False,
    seed: Annotated[int | None, typer.Option(help="Draw jitter; without it every op takes its median time.")] = None,
    kinds: Annotated[bool, typer.Option("--kinds", help="Also the seconds by kind of op.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also images a second, and times of steps and layers.")
    ] = False,
    critical: Annotated[bool, typer.Option("--critical", help="Also the critical path.")] = False,
    start_up: StartUp = None,
    decode: Decode = None,
    json: Json = None,
    save: Annotated[str | None, typer.Option(help="Write the trace; '{}' becomes the schedule's name.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write all traces as JSON for ui.perfetto.dev.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw all traces: .png, .svg, .pdf.")] = None,
    step: Step = None,
    rank: Ranks = None,
) -> None:
    """Run schedules on a simulated machine, and compare them.

    The layers are the model's.  Settings follow the schedule that they are for: displaced warm_up=2 dice stride=5."""
    from sim.cluster import Cluster
    from sim.models import load_model
    from sim.routing import Routing
    from sim.workload import Workload

    machine = Cluster.load(cluster)
    machine = machine if ranks is None else replace(machine, ranks=ranks)
    recorded = None if routing is None else Routing.load(routing)
    workload = Workload(load_model(model, pixels), machine.ranks, images, wire, recorded, dtype, grouped)
    workload = meshed(workload, mesh, no_guidance)
    named = sources(schedules)
    plans = [load_schedule(source, steps, workload.model.layers, top_k=workload.model.top_k) for source in named]
    names = _names(named, plans)
    workloads = placed(_routed(plans, workload, imbalance, keep, routing_seed), plans, placement)
    outputs = Outputs(_saved(save, names), trace, picture, step, rank or None, json)
    outputs.check()
    surroundings = around(start_up, decoding(decode, workload, machine), report or json is not None)
    traces = _simulated(plans, workloads, machine, seed)
    outputs.write(traces, [f"simulated {name}" for name in names], workloads)
    outputs.write_reports(traces, workloads, surroundings)
    _tell(traces, names, kinds)
    for tables in [
        [report_lines(*pair, surroundings) for pair in zip(traces, workloads, strict=True) if report],
        [critical_lines(trace) for trace in traces if critical],
    ]:
        print(*titled(names, tables), sep="\n", end="\n" * bool(tables))


def _tell(traces: list[Trace], names: list[str], kinds: bool) -> None:
    """The comparison; what it rests on that nobody measured goes to stderr."""
    from sim.show import comparison_table, kinds_table

    print(*comparison_table(traces, names), *(["", *kinds_table(traces, names)] if kinds else []), sep="\n")
    for note in dict.fromkeys(t.about["extrapolated"] for t in traces if "extrapolated" in t.about):
        print(f"extrapolated: {note}", file=sys.stderr)


def _routed(
    plans: list[Schedule], workload: Workload, imbalance: float | None, keep: float | None, seed: int | None
) -> list[Workload]:
    """What each plan works on: `workload`, with modelled routing if any of it is given."""
    from sim.routing import Routing

    given = {"--imbalance": imbalance, "--keep": keep, "--routing-seed": seed}
    options = " and ".join(option for option, value in given.items() if value is not None)
    if not options:
        return [workload] * len(plans)
    if workload.routing is not None:
        raise ValueError(f"{options} cannot change a recorded --routing: give one or the other")
    if imbalance in (None, 1.0) and (keep is None or not any(plan.policy for plan in plans)):
        raise ValueError(f"{options} without effect: at --imbalance 1, tokens matter only to schedules with a policy")
    skew, often = (1.0 if value is None else value for value in (imbalance, keep))
    modelled = partial(Routing.skewed, workload.model, workload.ranks, workload.tokens, seed=seed or 0)
    return [replace(workload, routing=modelled(plan.steps, imbalance=skew, keep=often)) for plan in plans]


def _names(named: list[str], plans: list[Schedule]) -> list[str]:
    """A name for each schedule: what its header says, or where that repeats, its file's name."""
    for names in ([plan.name for plan in plans], [Path(source).stem for source in named], named):
        if len({*names}) == len(names):
            return names
    raise ValueError(f"the same schedule twice: {', '.join(named)}")


def _saved(template: str | None, names: list[str]) -> list[Path]:
    """Where the trace of each schedule goes; nowhere without a template."""
    if template is None:
        return []
    if len(names) > 1 and "{}" not in template:
        raise ValueError(f"--save {template} is one file for {len(names)} traces; write {{}} where their names go")
    return [Path(template.replace("{}", name)) for name in names]


def _simulated(plans: list[Schedule], workloads: list[Workload], cluster: Cluster, seed: int | None) -> list[Trace]:
    from rich.console import Console
    from rich.progress import track

    from sim.engine import simulate

    console = Console(stderr=True)
    pairs = [*zip(plans, workloads, strict=True)]
    shown = track(pairs, "simulating", console=console, transient=True, disable=not console.is_terminal)
    return [simulate(plan, workload, cluster, seed) for plan, workload in shown]


@app.command()
def rivals(
    schedules: Sources,
    cluster: ClusterName,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    model: ModelName = "XL",
    pixels: Pixels = None,
    images: Images = 16,
    wire: Wire = "bfloat16",
) -> None:
    """Hold stale schedules against what needs no staleness: exact overlap, caching, fewer bytes, fewer steps, no
    communication at all."""
    from rich.console import Console

    from sim.cluster import Cluster
    from sim.gpu import Gpu
    from sim.models import load_model
    from sim.rivals import rivals
    from sim.show import rivals_table
    from sim.workload import Workload

    machine = Cluster.load(cluster)
    workload = Workload(load_model(model, pixels), machine.ranks, images, wire)
    console = Console(stderr=True)
    with console.status("simulating") as status:
        found = rivals(sources(schedules), steps, workload, machine, lambda name: status.update(f"simulating {name}"))
    limit = machine.compute.memory_bytes if isinstance(machine.compute, Gpu) else None
    print(*rivals_table(found, limit), sep="\n")


@app.command()
def memory(
    schedules: Sources,
    cluster: Annotated[str | None, typer.Option(help="The machine, whose GPU says its memory and whose ranks.")] = None,
    limit: Annotated[str | None, typer.Option("--memory", help='Of each GPU, as "24 GiB".')] = None,
    steps: Steps = None,
    model: ModelName = "XL",
    pixels: Pixels = None,
    images: Images = 16,
    ranks: Annotated[int | None, typer.Option(help="Ranks; the cluster's, or 8, if not given.")] = None,
    mesh: MeshText = None,
    no_guidance: NoGuidance = False,
    element_bytes: Annotated[int, typer.Option(help="Bytes of a weight or an activation.")] = 2,
    channels: Annotated[int, typer.Option(help="Of a communicator to each peer: 2 over PCIe, 32 on NVSwitch.")] = 2,
    vae: Annotated[
        str | None, typer.Option(help='Peak of decoding the images here, as "3 GB", or vae: SD\'s, computed.')
    ] = None,
) -> None:
    """Say how much memory the fullest rank needs under each schedule, what for, and up to how many images it fits."""
    from sim.memory import Reserve, memory, most_images
    from sim.models import load_model
    from sim.show import memory_table
    from sim.workload import Workload

    limit_bytes, their_ranks = _memory_of(cluster, limit)
    shape, named = load_model(model, pixels), sources(schedules)
    workload = meshed(Workload(shape, ranks or their_ranks or 8, images), mesh, no_guidance)
    plans = [load_schedule(source, steps, shape.layers, top_k=shape.top_k) for source in named]
    reserve = Reserve(channels=channels, vae_bytes=decoding_bytes(vae, shape, images))
    found = [memory(plan, workload, element_bytes, reserve) for plan in plans]
    most = [most_images(plan, workload, limit_bytes, element_bytes, reserve) for plan in plans]
    print(*memory_table(found, _names(named, plans), limit_bytes, most), sep="\n")


def _memory_of(cluster: str | None, limit: str | None) -> tuple[float, int | None]:
    """Bytes of a GPU, and ranks where a cluster says how many."""
    from sim.cluster import Cluster
    from sim.gpu import Gpu

    if cluster is None and limit is None:
        raise ValueError("say how much memory a GPU has: --cluster with a GPU, or --memory")
    if limit is not None and cluster is not None:
        raise ValueError("--cluster and --memory both say how much memory a GPU has: give one of them")
    if limit is not None:
        return quantity("memory_bytes", limit), None
    machine = Cluster.load(str(cluster))
    if not isinstance(machine.compute, Gpu):
        raise ValueError(f"cluster {machine.name} has measured rates, not a GPU: say --memory instead")
    return machine.compute.memory_bytes, machine.ranks
