"""`python -m sim cluster`: a machine printed, drawn, held against another.

It loads and writes; what is said stands in sim/cluster_text.py and sim/pictures/cluster.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cluster(
    machine: Annotated[
        str | None, typer.Argument(help="A YAML file, or a name as 8x-h100; none lists those there are.")
    ] = None,
    diff: Annotated[str | None, typer.Option(help="Another: what differs, instead of the whole.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it into this file, as PNG, PDF or SVG.")] = None,
) -> None:
    """Print a cluster, with its sources; draw it; say how it differs from another; list those that there are.

    What is printed is a cluster file (the summary is comments): redirect it, change it, hand it back."""
    from sim.cluster import Cluster, presets
    from sim.cluster_text import described, difference, listed

    if machine is None:
        if diff is not None or picture is not None:
            raise ValueError("--diff and --picture need a machine")
        typer.echo("\n".join(listed({name: Cluster.load(name) for name in presets()})))
        return
    loaded = Cluster.load(machine)
    other = None if diff is None else Cluster.load(diff)
    if picture is not None:
        from sim.pictures.cluster import draw_cluster

        draw_cluster(loaded, picture)
        typer.echo(f"{picture}: {loaded.name}", err=True)
    typer.echo("\n".join(difference(loaded, other)) if other else described(loaded).rstrip("\n"))
