"""What all pictures have in common: the one style (dice.mplstyle), widths, and how a figure becomes a file.

The style holds while a picture is drawn and while it is saved, and for nobody else.  The file knows figures; it refuses
to know what is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sim.output import whole_file

P = ParamSpec("P")
T = TypeVar("T")

STYLE = Path(__file__).with_name("dice.mplstyle")
COLUMN_IN = 3.4  # of a page with two columns
PAGE_IN = 7.0
FORMATS = (".pdf", ".png", ".svg")


@cache
def settings() -> mpl.RcParams:
    """What the style file says."""
    return mpl.rc_params_from_file(STYLE, use_default_template=False)


def palette() -> list[str]:
    """The style's colours, those that differ most first."""
    colours: list[str] = settings()["axes.prop_cycle"].by_key()["color"]
    return [f"#{colour.removeprefix('#')}" for colour in colours]


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """`draw`, in the style: rcParams are as before when it has returned."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(settings()):
            return draw(*args, **kwargs)

    return drawn


def figure(width_in: float, height_in: float) -> Figure:
    """An empty figure whose parts make room for each other."""
    return Figure(figsize=(width_in, height_in), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))


def rows_of_axes(made: Figure, rows: int, columns: int = 1) -> list[list[Axes]]:
    """[row][column] axes of their own."""
    grid: list[list[Axes]] = made.subplots(rows, columns, squeeze=False).tolist()
    return grid


@styled
def save_figure(figure: Figure, path: Path | str) -> None:
    """Writes `figure` in the format that the suffix of `path` names, whole or not at all.

    Raises ValueError for a suffix that is no format, OSError if `path` cannot be written."""
    kind = picture_format(path)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=kind)


@styled
def figure_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """`figure` as a file of that format; the same bytes for the same figure."""
    made = io.BytesIO()
    figure.savefig(made, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return made.getvalue()


def picture_format(path: Path | str) -> str:
    """The format that the suffix of `path` names.  Raises ValueError if there is no such format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: the name of a picture ends in one of {', '.join(FORMATS)}")
    return suffix[1:]
