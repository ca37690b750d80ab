"""`python -m sim rivals`: what a stale schedule has to beat."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.mesh import MeshText, meshed
from sim.commands.options import ClusterName, Images, Imbalance, ModelName, Pixels, Recorded, Sources, Wire, skewed
from sim.load import sources


def rivals(
    schedules: Sources,
    cluster: ClusterName,
    steps: Annotated[int, typer.Option(help="Sampling steps.")] = 50,
    model: ModelName = "XL",
    pixels: Pixels = None,
    images: Images = 16,
    wire: Wire = "bfloat16",
    routing: Recorded = None,
    imbalance: Imbalance = None,
    mesh: MeshText = None,
) -> None:
    """Hold stale schedules against what needs no staleness: exact overlap, caching, fewer bytes, fewer steps, no
    communication at all."""
    from rich.console import Console

    from sim.cluster import Cluster
    from sim.models import load_model
    from sim.rivals import rivals
    from sim.routing import Routing
    from sim.show import rivals_table
    from sim.workload import Workload

    machine = Cluster.load(cluster)
    recorded = None if routing is None else Routing.load(routing)
    workload = meshed(Workload(load_model(model, pixels), machine.ranks, images, wire, recorded), mesh, False)
    if imbalance is not None:
        workload = skewed(workload, imbalance)
    console = Console(stderr=True)
    with console.status("simulating") as status:
        found = rivals(sources(schedules), steps, workload, machine, lambda name: status.update(f"simulating {name}"))
    print(*rivals_table(found, machine.memory_bytes), sep="\n")
