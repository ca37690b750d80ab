"""`python -m sim similarity`: how alike a recorded routing is from step to step."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sim.similarity import Similarity

_LAGS = (1, 2, 4, 8)  # steps apart that the table has


def similarity(
    routing: Annotated[Path, typer.Argument(metavar="ROUTING", help="What `realrun --routing` wrote (.npz).")],
    picture: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg, .pdf.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all pairs of steps.")] = None,
) -> None:
    """Say how many tokens keep their best expert from step to step, layer by layer."""
    from sim.output import refuse_unwritable, whole_file
    from sim.routing import Routing
    from sim.similarity import Similarity

    for path in (picture, json):
        if path is not None:
            refuse_unwritable(path)
    found = Similarity.of(Routing.load(routing))
    print(*lines(found), sep="\n")
    if json is not None:
        held = {name: None if each is None else each.round(5).tolist() for name, each in found._asdict().items()}
        with whole_file(json) as part:
            part.write_text(json_module.dumps(held) + "\n")
    if picture is not None:
        from sim.pictures import draw_similarity, save_figure

        save_figure(draw_similarity(found.best), picture)


def lines(found: Similarity) -> list[str]:
    """A table: a layer a line; the share that keeps its best expert, and of experts kept, so many steps later; the
    share of each slot that keeps its expert for a step; load of the most loaded expert over the mean."""
    from sim.similarity import by_lag

    best, overlap = by_lag(found.best), by_lag(found.overlap)
    lags = [lag for lag in _LAGS if lag <= best.shape[1]]
    slots, loads = found.slots.mean(axis=0), found.imbalance
    head = "layer  " + "  ".join(f"best {lag:2}  kept {lag:2}" for lag in lags)
    head += "".join(f"  slot {slot:2}" for slot in range(slots.shape[1])) + "     load  most load"
    table = [
        f"{layer:5}  "
        + "  ".join(f"{best[layer, lag - 1]:7.3f}  {overlap[layer, lag - 1]:7.3f}" for lag in lags)
        + "".join(f"  {share:7.3f}" for share in slots[layer])
        + f"  {loads[:, layer].mean():7.3f}  {loads[:, layer].max():9.3f}"
        for layer in range(len(best))
    ]
    return [
        head,
        *table,
        "best N: share of tokens with the same best expert N steps later; kept N: of all experts",
        "slot N: share whose slot N has the expert of the step before; load: of the most loaded expert over the mean",
    ]
