"""Options that several commands share, and the names under which they tell of schedules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.schedule import Schedule

if TYPE_CHECKING:
    from sim.workload import Workload

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
Dtype = Annotated[str | None, typer.Option(help="Of compute, on a cluster of GPUs: bf16 if not given.")]
Recorded = Annotated[Path | None, typer.Option(help="Recorded routing (.npz); balanced without.")]
Imbalance = Annotated[
    float | None, typer.Option(help="Modelled routing: load of a layer's most loaded expert over the mean.")
]
Keep = Annotated[
    float | None, typer.Option(help="Modelled routing: how likely a token keeps its best expert for a step; 1.")
]


def routed(
    plans: list[Schedule], workload: Workload, imbalance: float | None, keep: float | None, seed: int | None
) -> list[Workload]:
    """What each plan works on: `workload`, with modelled routing if any of it is given."""
    from sim.routing import Routing

    given = {"--imbalance": imbalance, "--keep": keep, "--routing-seed": seed}
    options = " and ".join(option for option, value in given.items() if value is not None)
    if not options:
        return [workload] * len(plans)
    _not_recorded(workload, options)
    if imbalance in (None, 1.0) and (keep is None or not any(plan.policy for plan in plans)):
        raise ValueError(f"{options} without effect: at --imbalance 1, tokens matter only to schedules with a policy")
    skew, often = (1.0 if value is None else value for value in (imbalance, keep))
    modelled = partial(Routing.skewed, workload.model, workload.ranks, workload.tokens, seed=seed or 0)
    return [replace(workload, routing=modelled(plan.steps, imbalance=skew, keep=often)) for plan in plans]


def skewed(workload: Workload, imbalance: float) -> Workload:
    """`workload` with modelled routing of so much imbalance, the same at every step, for any number of steps."""
    from sim.routing import Routing

    _not_recorded(workload, "--imbalance")
    if imbalance == 1.0:
        raise ValueError("--imbalance 1 without effect: routing is balanced if none is given")
    made = Routing.skewed(workload.model, workload.ranks, workload.tokens, 1, imbalance=imbalance, seed=0)
    return replace(workload, routing=Routing(made.counts, made.source))  # without tokens, which serve one step only


def _not_recorded(workload: Workload, options: str) -> None:
    if workload.routing is not None:
        raise ValueError(f"{options} cannot change a recorded --routing: give one or the other")


def names_of(named: list[str], plans: list[Schedule]) -> list[str]:
    """A name for each schedule: what its header says, or where that repeats, its file's name."""
    for names in ([plan.name for plan in plans], [Path(source).stem for source in named], named):
        if len({*names}) == len(names):
            return names
    raise ValueError(f"the same schedule twice: {', '.join(named)}")
