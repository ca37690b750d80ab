"""`python -m sim model`: how large a network is."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.commands.options import Pixels


def model(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A name, as XL, or a file; none lists those there are.")
    ] = None,
    pixels: Pixels = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="That share the experts; 8.")] = None,
    wire: Annotated[str | None, typer.Option(help="How rows travel; bfloat16.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Of weights; bf16.")] = None,
) -> None:
    """Say how large a network is: parameters, in all and active, MACs, bytes of its weights and of what a token sends.

    The parts are kinds of op, as in a schedule."""
    from sim.model_text import listed_models, model_lines
    from sim.models import load_model
    from sim.workload import MODELS

    if name is None:
        if (ranks, wire, dtype) != (None, None, None):
            raise ValueError("--ranks, --wire and --dtype need a model")
        print(*listed_models(load_model(each, pixels) for each in MODELS), sep="\n")
        return
    print(*model_lines(load_model(name, pixels), ranks or 8, wire or "bfloat16", dtype or "bf16"), sep="\n")
