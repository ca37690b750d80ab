"""`python -m sim simulate`: run schedules on a simulated machine, and compare them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.commands.mesh import MeshText, NoGuidance, PlacementText, decoding, meshed, placed
from sim.commands.options import (
    ClusterName,
    Dtype,
    Images,
    Imbalance,
    Keep,
    ModelName,
    Pixels,
    Recorded,
    Sources,
    Steps,
    Wire,
    names_of,
    routed,
)
from sim.commands.traces import (
    Decode,
    Json,
    Outputs,
    Ranks,
    StartUp,
    Step,
    around,
    critical_lines,
    report_lines,
    titled,
)
from sim.load import load_for, sources
from sim.schedule import Schedule

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.trace import Trace
    from sim.workload import Workload

Grouped = Annotated[bool, typer.Option("--grouped", help="On GPUs, a rank's experts run as one kernel.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Draw jitter; without it every op takes its median time.")]
Kinds = Annotated[bool, typer.Option("--kinds", help="Also the seconds by kind of op.")]
Report = Annotated[bool, typer.Option("--report", help="Also images a second, and times of steps and layers.")]
Critical = Annotated[bool, typer.Option("--critical", help="Also the critical path.")]


def simulate(
    schedules: Sources,
    cluster: ClusterName,
    steps: Steps = None,
    model: ModelName = "XL",
    pixels: Pixels = None,
    images: Images = 16,
    ranks: Annotated[int | None, typer.Option(help="Ranks; as many as the cluster file has if not given.")] = None,
    wire: Wire = "bfloat16",
    routing: Recorded = None,
    imbalance: Imbalance = None,
    keep: Keep = None,
    routing_seed: Annotated[int | None, typer.Option(min=0, help="Of modelled routing; 0.")] = None,
    dtype: Dtype = None,
    grouped: Grouped = False,
    mesh: MeshText = None,
    placement: PlacementText = None,
    no_guidance: NoGuidance = False,
    seed: Seed = None,
    kinds: Kinds = False,
    report: Report = False,
    critical: Critical = False,
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
    shape, recorded = load_model(model, pixels), None if routing is None else Routing.load(routing)
    workload = meshed(Workload(shape, machine.ranks, images, wire, recorded, dtype, grouped), mesh, no_guidance)
    named = sources(schedules)
    plans = [load_for(source, steps, shape) for source in named]
    names = names_of(named, plans)
    workloads = placed(routed(plans, workload, imbalance, keep, routing_seed), plans, placement)
    outputs = Outputs(_saved(save, names), trace, picture, step, rank or None, json)
    outputs.check()
    surroundings = around(start_up, decoding(decode, workload, machine), report or json is not None)
    traces = _simulated(plans, workloads, machine, seed)
    outputs.write(traces, [f"simulated {name}" for name in names], workloads)
    outputs.write_reports(traces, workloads, surroundings)
    _tell(machine, traces, names, kinds)
    _tell_memory(plans, workloads, machine, names)
    if report:
        tables = [report_lines(*pair, surroundings) for pair in zip(traces, workloads, strict=True)]
        print(*titled(names, tables), sep="\n")
    if critical:
        print(*titled(names, [critical_lines(trace) for trace in traces]), sep="\n")


def _tell(machine: Cluster, traces: list[Trace], names: list[str], kinds: bool) -> None:
    """The comparison; how the machine is known, and what nobody measured, go to stderr."""
    from sim.show import comparison_table, kinds_table

    if machine.source:
        print(f"{machine.name}: {machine.known_by}", file=sys.stderr)
    print(*comparison_table(traces, names), *(["", *kinds_table(traces, names)] if kinds else []), sep="\n")
    notes = [trace.about.get("extrapolated", "") for trace in traces]
    for note in filter(None, dict.fromkeys(notes)):
        whose = [name for name, mine in zip(names, notes, strict=True) if mine == note]
        only = f" ({', '.join(whose)})" if len(whose) < len(traces) else ""
        print(f"extrapolated{only}: {note}", file=sys.stderr)


def _tell_memory(plans: list[Schedule], workloads: list[Workload], machine: Cluster, names: list[str]) -> None:
    """On stderr: what does not fit into a GPU's memory, and would not run."""
    from sim.gpu import Gpu
    from sim.memory import memory_on

    if not isinstance(machine.compute, Gpu):
        return
    for plan, workload, name in zip(plans, workloads, names, strict=True):
        needed = memory_on(machine, plan, workload)
        if not needed.fits(machine.compute.memory_bytes):
            there = f"the {machine.compute.memory_bytes / 1e9:.1f} of {machine.compute.name}"
            told = f"{needed.peak_bytes / 1e9:.1f} GB on rank {needed.rank}, more than {there}"
            print(f"does not fit: {name} needs {told}; `memory` says what for", file=sys.stderr)


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
