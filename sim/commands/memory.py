"""`python -m sim memory`: what the fullest rank holds, and whether a GPU has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sim.commands.mesh import MeshText, NoGuidance, decoding_bytes, meshed
from sim.commands.options import Images, ModelName, Pixels, Sources, Steps, names_of
from sim.load import load_for, sources
from sim.units import quantity

if TYPE_CHECKING:
    from sim.cluster import Cluster


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
    channels: Annotated[
        int | None,
        typer.Option(help="Of a communicator to each peer; as many as the cluster's take, or 2, if not given."),
    ] = None,
    vae: Annotated[
        str | None, typer.Option(help='Peak of decoding the images here, as "3 GB", or vae: SD\'s, computed.')
    ] = None,
) -> None:
    """Say how much memory the fullest rank needs under each schedule, what for, and up to how many images it fits."""
    from sim.memory import Reserve, channels_of, memory, most_images
    from sim.models import load_model
    from sim.show import memory_table
    from sim.workload import Workload

    limit_bytes, machine = _memory_of(cluster, limit)
    shape, named = load_model(model, pixels), sources(schedules)
    ranks = ranks if ranks is not None else machine.ranks if machine else 8
    workload = meshed(Workload(shape, ranks, images), mesh, no_guidance)
    plans = [load_for(source, steps, shape) for source in named]
    if channels is None:
        channels = channels_of(machine) if machine else Reserve().channels
    reserve = Reserve(channels=channels, vae_bytes=decoding_bytes(vae, shape, images))
    found = [memory(plan, workload, element_bytes, reserve) for plan in plans]
    most = [most_images(plan, workload, limit_bytes, element_bytes, reserve) for plan in plans]
    print(*memory_table(found, names_of(named, plans), limit_bytes, most), sep="\n")


def _memory_of(cluster: str | None, limit: str | None) -> tuple[float, Cluster | None]:
    """Bytes of a GPU, and the cluster that says them."""
    from sim.cluster import Cluster

    if cluster is None and limit is None:
        raise ValueError("say how much memory a GPU has: --cluster with a GPU, or --memory")
    if limit is not None and cluster is not None:
        raise ValueError("--cluster and --memory both say how much memory a GPU has: give one of them")
    if limit is not None:
        if not (limit_bytes := quantity("memory_bytes", limit)) > 0:
            raise ValueError(f"--memory={limit} should be above 0")
        return limit_bytes, None
    machine = Cluster.load(str(cluster))
    if machine.memory_bytes is None:
        raise ValueError(f"cluster {machine.name} has measured rates, not a GPU: say --memory instead")
    return machine.memory_bytes, machine
