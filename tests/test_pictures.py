"""Pictures against small committed ones, and what they say read back from the figure.

`python tests/test_pictures.py` draws the committed ones anew: look at them before committing."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from cases import cluster, model
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from sim.engine import simulate
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.memory import Reserve, memory
from sim.memory_time import MemoryOverTime, memory_over_time
from sim.pictures import (
    Beside,
    Choice,
    FitPoints,
    draw_beside,
    draw_errors,
    draw_fits,
    draw_front,
    draw_memory,
    draw_roofline,
    draw_similarity,
    draw_staleness,
    draw_timeline,
    draw_vulnerability,
    figure_bytes,
    save_figure,
)
from sim.pictures.front import on_front
from sim.pictures.style import STYLE, palette
from sim.roofline import Working
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

GOLDEN = Path(__file__).parent / "golden" / "pictures"
DPI = 60
FURTHEST = 3.0  # root of the mean squared difference of pixels, 0 to 255; what a changed picture must exceed
STEPS, LAYERS = np.arange(12), np.arange(5)
RANDOM = np.random.default_rng(3)
NOISE = RANDOM.normal(size=200)
LAGS = np.abs(np.subtract.outer(STEPS, STEPS))
GPU = Gpu.load("h100_sxm")


def run(schedule: Schedule, **machine: Any) -> tuple[Trace, Workload]:
    workload = Workload(model(schedule, hidden=256), 2, 4)
    return simulate(schedule, workload, cluster(2, **machine)), workload


def memories(slower: float = 1.0) -> list[MemoryOverTime]:
    trace, workload = run(load_schedule("interweaved", 4, 3))
    late = Trace(trace.schedule, "simulated", *(a * slower for a in (trace.reached_s, trace.start_s, trace.end_s)),
                 trace.staleness)  # fmt: skip
    return [memory_over_time(late, workload)[0]]


def ages(oldest: int) -> dict[str, npt.ArrayLike]:
    return {
        "displaced": np.minimum(STEPS, oldest)[:, None] * np.ones(5),
        "dice": load_schedule("dice", 8, 4).staleness(),
    }


def choices(better_s: float) -> list[Choice]:
    exact, stale = "exact", "stale"
    return [Choice("sync", 80.5, 0.0, exact), Choice("overlap", 73.5, 0.0, exact), Choice("dice", 58, 0.73, stale),
            Choice("displaced", 70.6, 1.94, stale, 1.8, 2.1), Choice("cached", better_s, 0.5, "caching")]  # fmt: skip


def fits(off: float) -> list[FitPoints]:
    x = np.geomspace(1e4, 1e8, 12)
    fitted = 2e-5 + x / 3e10
    return [FitPoints("8 ranks", x, fitted * np.exp(off + NOISE[:12] / 20), fitted, 0.9 * fitted, 1.1 * fitted)]


def beside(known: float) -> list[Beside]:
    return [Beside(name, known, 1.2, 1.3, 1.5, sort) for name in ("dice", "displaced") for sort in ("one", "two")]


def working(rate: float) -> list[Working]:
    return [Working("E", "E", 4e11, 1e9, 4e11 / rate), Working("R", "R", 1e8, 5e8, 2e-4)]


# name -> (picture, the same with something changed)
PICTURES: dict[str, tuple[Callable[[], Figure], Callable[[], Figure]]] = {
    "staleness": (lambda: draw_staleness(ages(2)), lambda: draw_staleness(ages(1))),
    "mean_staleness": (lambda: draw_staleness({"policy": np.outer(STEPS, LAYERS) / 7}),
                       lambda: draw_staleness({"policy": np.outer(STEPS, LAYERS) ** 2 / 7})),
    "errors": (lambda: draw_errors({"op": NOISE / 10, "run": NOISE[:5] / 30}),
               lambda: draw_errors({"op": NOISE / 10 + 0.05, "run": NOISE[:5] / 30})),
    "fits": (lambda: draw_fits(fits(0.0), x_label="bytes from each rank"),
             lambda: draw_fits(fits(0.2), x_label="bytes from each rank")),
    "front": (lambda: draw_front(choices(42.0), x_label="time / s", y_label="mean age / steps", name_all=True),
              lambda: draw_front(choices(75.0), x_label="time / s", y_label="mean age / steps", name_all=True)),
    "beside": (lambda: draw_beside(beside(1.4), x_label="gain"), lambda: draw_beside(beside(1.3), x_label="gain")),
    "vulnerability": (
        lambda: draw_vulnerability({"RMS": LAYERS / 9}, y_label="RMS", intervals={"RMS": np.outer(LAYERS, (0.1, 0.2))}),
        lambda: draw_vulnerability({"RMS": LAYERS / 9}, y_label="RMS")),
    "similarity": (lambda: draw_similarity(np.exp(-LAGS / (2.0 + LAYERS)[:, None, None])),
                   lambda: draw_similarity(np.exp(-LAGS / (4.0 + LAYERS)[:, None, None]))),
    "lags": (lambda: draw_similarity(np.exp(-LAGS[0, 1:] / (2.0 + LAYERS)[:, None])),
             lambda: draw_similarity(np.exp(-LAGS[0, 1:] / (4.0 + LAYERS)[:, None]))),
    "memory": (lambda: draw_memory(memories(), labels=["interweaved"]),
               lambda: draw_memory(memories(), labels=["interweaved"], limit_bytes=3e7)),
    "roofline": (lambda: draw_roofline(working(5e14), GPU), lambda: draw_roofline(working(2e14), GPU)),
    "timeline": (lambda: draw_timeline([run(load_schedule("interweaved", 4, 3))[0]], step=2),
                 lambda: draw_timeline([run(load_schedule("interweaved", 4, 3))[0]], step=3)),
}  # fmt: skip


def pixels(figure: Figure) -> npt.NDArray[np.float64]:
    """[row, column, colour], 0 to 255."""
    return np.asarray(imread(io.BytesIO(png(figure))), dtype=np.float64)[..., :3] * 255


def png(figure: Figure) -> bytes:
    """The picture, small."""
    made = io.BytesIO()
    with mpl.rc_context(mpl.rc_params_from_file(STYLE, use_default_template=False)):
        figure.savefig(made, format="png", dpi=DPI)
    return made.getvalue()


def apart(figure: Figure, name: str) -> float:
    """Root of the mean squared difference from the committed picture; 255 if sizes differ."""
    made, kept = pixels(figure), np.asarray(imread(GOLDEN / f"{name}.png"), dtype=np.float64)[..., :3] * 255
    return float(np.sqrt(((made - kept) ** 2).mean())) if made.shape == kept.shape else 255.0


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_like_the_committed_ones_and_changed_ones_do_not(name: str) -> None:
    picture, changed = PICTURES[name]
    assert apart(picture(), name) < FURTHEST
    assert apart(changed(), name) > FURTHEST


def test_every_committed_picture_is_compared() -> None:
    assert {file.stem for file in GOLDEN.glob("*.png")} == {*PICTURES}


@pytest.mark.parametrize("name", PICTURES)
def test_words_are_large_enough_for_a_column_and_axes_have_names(name: str) -> None:
    figure = PICTURES[name][0]()
    figure.draw_without_rendering()
    for axes in figure.axes:
        shown = [*axes.texts, axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()]
        assert all(text.get_fontsize() >= 5 for text in shown if text.get_text())
        assert axes.get_xlabel() or axes.get_ylabel() or axes is not figure.axes[-1]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_vectors_and_rasters_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    figure = PICTURES[name][0]()
    for ending, begin in [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")]:
        save_figure(figure, tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(begin)
    once, again = (figure_bytes(PICTURES[name][0](), "svg") for _ in range(2))
    assert once == again


def test_drawing_and_saving_leave_the_settings_of_matplotlib_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    for picture, _ in PICTURES.values():
        save_figure(picture(), tmp_path / "a.svg")
    assert dict(mpl.rcParams) == before


def test_colours_differ_for_the_colour_blind() -> None:
    """Okabe and Ito's are apart in lightness or hue also where red and green look alike (Vienot 1999, deuteranopia)."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in palette()])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = linear @ np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]).T
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(len(seen))
    assert distance.min() > 0.1


def test_ages_are_read_back_from_the_map() -> None:
    schedule = load_schedule("dice", 8, 4)
    first, second = draw_staleness({"dice": schedule.staleness()}).axes[:2]
    want = np.array(schedule.staleness())
    assert first.images[0].get_array().tolist() == want[..., 0].T.tolist()
    assert second.images[0].get_array().tolist() == want[..., 1].T.tolist()
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["dice, slot 0", "dice, slot 1"]
    [one] = [a for a in draw_staleness({"sync": load_schedule("sync", 3, 2).staleness()}).axes if a.images]
    assert one.get_title(loc="left") == "sync"


def test_the_front_is_what_nothing_beats() -> None:
    assert on_front(choices(42.0)) == [False, True, False, False, True]
    assert on_front([Choice("a", 1, 1), Choice("b", 1, 1), Choice("c", 2, 0)]) == [True, True, True]
    [axes] = draw_front(choices(42.0), x_label="time / s", y_label="age / steps").axes
    assert {text.get_text() for text in axes.texts} == {"overlap", "cached"}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["exact", "stale", "caching"]


def test_names_of_points_do_not_cover_each_other() -> None:
    many = [Choice(f"choice {i}", x, y) for i, (x, y) in enumerate(RANDOM.random((12, 2)))]
    figure = draw_front(many, x_label="x", y_label="y", name_all=True)
    figure.draw_without_rendering()
    [axes] = figure.axes
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", ["sync", "displaced", "interweaved", "dice", "overlap", "distrifusion"])
def test_memory_over_time_has_the_peak_of_the_memory_model(name: str) -> None:
    """Exactly where the order in which ops ran is that of their issue, as for sync."""
    trace, workload = run(load_schedule(name, 4, 4))
    bare = Reserve(context_bytes=0, channels=0, slack=0)
    for each in memory_over_time(trace, workload, element_bytes=4):
        due = memory(trace.schedule, workload, 4, bare).peak_bytes
        assert each.peak_bytes == pytest.approx(due, rel=1e-9 if name == "sync" else 0.02)
        assert all((held >= 0).all() for held in each.bytes_of.values())
        assert {what for what, held in each.bytes_of.items() if held[-1]} == {"weights"}


def test_displaced_holds_twice_what_interweaved_does() -> None:
    peaks = []
    for name in ("displaced", "interweaved"):
        trace, workload = run(load_schedule(name, 6, 8))
        held = memory_over_time(trace, workload)[0].bytes_of
        peaks.append((held["received dispatch"] + held["received combine"]).max())
    assert peaks[0] / peaks[1] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize(("draw", "message"), [
    (lambda: draw_staleness({}), "ages is empty"),
    (lambda: draw_staleness({"a": [1, 2]}), r"a: ages should be \[step, layer\] .* shape \(2,\)"),
    (lambda: draw_staleness({"a": [[-1]]}), "an age of -1 steps"),
    (lambda: draw_errors({}), "errors is empty"),
    (lambda: draw_errors({"op": [float("nan")]}), "op: errors should be one or more finite numbers"),
    (lambda: draw_fits([], x_label="x"), "0 fits; a picture shows 1 to 7"),
    (lambda: draw_fits([FitPoints("a", [1], [1, 2], [1])], x_label="x"), "a: 1 sizes, 2 measured and 1 fitted"),
    (lambda: draw_fits([FitPoints("a", [1], [0], [1])], x_label="x"), "a: times should be above 0"),
    (lambda: draw_beside([], x_label="x"), "rows is empty"),
    (lambda: draw_beside([Beside("a", 1, 2, 1, 3)], x_label="x"), "a: 1 is not within 2 to 3"),
    (lambda: draw_front([], x_label="x", y_label="y"), "one or more choices"),
    (lambda: draw_vulnerability({"a": [[1]]}, y_label="y"), r"a: damage should be \[layer\]"),
    (lambda: draw_vulnerability({"a": [1]}, y_label="y", intervals={"b": [[1, 2]]}), "an interval of 'b'"),
    (lambda: draw_similarity([1]), r"should be \[layer, step, step\] or \[layer, lag\]"),
    (lambda: draw_similarity([[2.0]]), "should be 0 to 1"),
    (lambda: draw_similarity(np.ones((2, 3, 3)), layers=[2]), "layers 0 to 1, not 2"),
    (lambda: draw_similarity(np.ones((2, 3)), layers=[1]), "has no effect"),
    (lambda: draw_memory(memories(), labels=[]), "1 memories need as many labels, not 0"),
    (lambda: draw_roofline([], GPU), "no ops to draw"),
    (lambda: draw_roofline(working(1e14), GPU, "int3"), "has no int3"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, (picture, _) in PICTURES.items():
        (GOLDEN / f"{name}.png").write_bytes(png(picture()))
    print(f"{len(PICTURES)} pictures in {GOLDEN}")
