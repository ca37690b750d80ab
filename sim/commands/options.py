"""Options that several commands share, and the names under which they tell of schedules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sim.schedule import Schedule

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


def names_of(named: list[str], plans: list[Schedule]) -> list[str]:
    """A name for each schedule: what its header says, or where that repeats, its file's name."""
    for names in ([plan.name for plan in plans], [Path(source).stem for source in named], named):
        if len({*names}) == len(names):
            return names
    raise ValueError(f"the same schedule twice: {', '.join(named)}")
