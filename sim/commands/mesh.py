"""Options of the command line that say who shares what (the mesh, where experts live, guidance), and who decodes.

It knows how they are written; what they mean stands in sim/mesh.py, sim/placement.py, sim/workload.py and
sim/decode.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sim.units import quantity

if TYPE_CHECKING:
    from sim.cluster import Cluster
    from sim.schedule import Schedule
    from sim.workload import ModelShape, Workload

MeshText = Annotated[
    str | None,
    typer.Option(
        "--mesh",
        metavar="AXES",
        help='How ranks share, as "data=2 expert=4"; also guidance=2, patch=4, order=data,expert.',
    ),
]
PlacementText = Annotated[
    str | None,
    typer.Option(
        "--placement",
        metavar="WHERE",
        help='Where experts live: contiguous, or "balanced copies=8 near=4"; else e mod ranks.',
    ),
]
NoGuidance = Annotated[bool, typer.Option("--no-guidance", help="There is no second half: rows are images x tokens.")]


def meshed(workload: Workload, mesh: str | None, no_guidance: bool) -> Workload:
    """`workload` with these options."""
    from sim.mesh import Mesh

    return replace(workload, guidance=not no_guidance, mesh=None if mesh is None else Mesh.parse(mesh))


def placed(workloads: Sequence[Workload], plans: Sequence[Schedule], placement: str | None) -> list[Workload]:
    """The workload of each plan with its experts placed so; loads are those of its routing, groups together."""
    from sim.placement import parse

    if placement is None:
        return [*workloads]
    found = []
    for workload, plan in zip(workloads, plans, strict=True):
        loads = None if workload.routing is None else workload.routing.counts.sum(axis=(0, 2, 3, 4))
        where = parse(placement, workload.model.experts, workload.mesh_of(plan).group_ranks, loads)
        found.append(replace(workload, placement=where))
    return found


def decoding(decode: str | None, workload: Workload, cluster: Cluster) -> str | None:
    """What `--decode` says, where it says vae: the seconds that the cluster's GPU takes for one image."""
    from sim.decode import decode_s
    from sim.gpu import Gpu

    if decode != "vae":
        return decode
    if not isinstance(cluster.compute, Gpu):
        raise ValueError(f"--decode vae: cluster {cluster.name} has measured rates, not a GPU; say a time instead")
    return f"{decode_s(workload.model, cluster.compute)} s"


def decoding_bytes(vae: str | None, model: ModelShape, images: int) -> float:
    """What `--vae` says: nothing, bytes, or, where it says vae, those of SD's decoder for the images in one batch."""
    from sim.decode import decode_bytes

    if vae == "vae":
        return decode_bytes(model, images=images)
    return 0.0 if vae is None else quantity("vae_bytes", vae)
