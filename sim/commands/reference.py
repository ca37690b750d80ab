"""The command on the package itself: `python -m sim reference`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reference(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODULE]", help="Such as sim.trace; without, all are listed.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the reference of all modules as one page.")] = None,
    rooms: Annotated[Path | None, typer.Option(help="Draw rooms and imports: .png, .svg, .pdf.")] = None,
) -> None:
    """Say what each file of the package knows, or everything public of one, from the docstrings."""
    from sim.commands.traces import Outputs
    from sim.reference import listed, module, modules
    from sim.reference import reference as text
    from sim.show import grid

    if name is not None and (html is not None or rooms is not None):
        raise ValueError("--html and --rooms are of all modules: leave out the name of one")
    Outputs(picture=rooms, html=html).check()
    if rooms is not None:
        from sim.pictures.rooms import draw_rooms
        from sim.pictures.style import save_figure

        save_figure(draw_rooms(modules()), rooms)
    if html is not None:
        from sim.html import Page

        page = Page("dice-sim: reference", {"command": "python -m sim reference --html FILE"})
        for each in modules():
            page.heading(each.name).code(text(each).partition("\n")[2].strip())
        page.save(html)
    if name is not None:
        print(text(module(name)), end="")
    elif html is None and rooms is None:
        print(*grid(["module", "what it knows"], listed(modules())), sep="\n")
