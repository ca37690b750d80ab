"""Pictures of traces, read back from the figure: boxes, times, names, arrows; and the files that they become."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from cases import BY_HAND, cluster, model, skewed
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from sim.cluster import Link
from sim.engine import simulate
from sim.load import load_schedule
from sim.schedule import KINDS, Schedule
from sim.timeline import COLOURS, draw_timeline, save_figure
from sim.trace import Trace
from sim.units import readable
from sim.workload import Workload

NAMED = [load_schedule(name, 5, 4) for name in ("sync", "displaced", "interweaved")]
Box = tuple[str, bool, float, float, float, float]  # kind, hatched, begin and end in ms, upper and lower edge


def run(schedule: Schedule, ranks: int = 2) -> Trace:
    workload = Workload(model(schedule, hidden=256), ranks, 4)
    workload = replace(workload, routing=skewed(schedule, workload, seed=1))
    return simulate(schedule, workload, cluster(ranks, link=Link(1e-5, 1e10), jitter={"A": 0.2}), seed=2)


def boxes(axes: Axes) -> list[Box]:
    """What is drawn, by time."""
    kinds = {to_rgba(colour): kind for kind, colour in COLOURS.items()}
    found = []
    for collection in axes.collections:
        if isinstance(collection, PolyCollection):
            kind = kinds[tuple(collection.get_facecolor()[0])]
            for path in collection.get_paths():
                (x0, y0), (x1, y1) = path.vertices.min(axis=0), path.vertices.max(axis=0)
                found.append((kind, bool(collection.get_hatch()), x0, x1, y0, y1))
    return sorted(found, key=lambda box: box[2:4])


def texts(axes: Axes) -> set[str]:
    return {text.get_text() for text in axes.texts}


def arrows(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation) and text.arrow_patch is not None]


def test_every_kind_has_a_colour_of_its_own() -> None:
    assert COLOURS.keys() == KINDS.keys()
    assert len({*COLOURS.values()}) == len(KINDS)


@pytest.mark.parametrize("schedule", [*BY_HAND, *NAMED], ids=lambda schedule: schedule.name)
def test_a_whole_run_has_a_box_a_span(schedule: Schedule) -> None:
    trace = run(schedule)
    [axes] = draw_timeline([trace]).axes
    spans = [(op.kind, *(1e3 * np.array(trace.span_s(rank, op)))) for rank in (0, 1) for op in schedule.ops]
    drawn = [(kind, begin, end) for kind, _, begin, end, *_ in boxes(axes)]
    assert [k for k, *_ in sorted(drawn)] == [k for k, *_ in sorted(spans)]
    assert np.array([s[1:] for s in sorted(drawn)]) == pytest.approx(np.array([s[1:] for s in sorted(spans)]))
    assert not any(box[1] for box in boxes(axes)), "only the picture of one step tells older steps apart"
    assert axes.get_xlabel() == "time / ms"
    assert axes.get_xlim()[1] == pytest.approx(trace.makespan_s * 1e3, rel=0.02)


def test_streams_and_ranks_have_rows_of_their_own() -> None:
    [axes] = draw_timeline([run(NAMED[2], ranks=4)], ranks=[0, 3]).axes
    rows = sorted({(box[4], box[0] in "DC") for box in boxes(axes)})
    assert [communication for _, communication in rows] == [False, True, False, True]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["compute", "communication"] * 2
    assert {"rank 0", "rank 3"} <= texts(axes)
    assert "rank 1" not in texts(axes)
    for one in {box[4] for box in boxes(axes)}:
        row = [box for box in boxes(axes) if box[4] == one]
        assert all(a[3] <= b[2] + 1e-9 for a, b in pairwise(row)), "boxes of a row do not overlap"


@pytest.mark.parametrize("schedule", NAMED, ids=lambda schedule: schedule.name)
def test_a_step_is_cut_out_at_its_solver_steps(schedule: Schedule) -> None:
    trace, step = run(schedule), 3
    [axes] = draw_timeline([trace], step=step).axes
    begin, end = np.cumsum([0, *trace.step_s])[step : step + 2] * 1e3
    inside = [
        (op.kind, op.step < step, max(a, begin) - begin, min(b, end) - begin)
        for rank in (0, 1)
        for op in schedule.ops
        for a, b in [np.array(trace.span_s(rank, op)) * 1e3]
        if min(b, end) > max(a, begin)
    ]
    drawn = [box[:4] for box in boxes(axes)]
    assert [box[:2] for box in sorted(drawn)] == [box[:2] for box in sorted(inside)]
    assert np.array([box[2:] for box in sorted(drawn)]) == pytest.approx(np.array([box[2:] for box in sorted(inside)]))
    assert any(box[1] for box in drawn) == (schedule.name != "sync"), "ops of older tokens run inside"


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, ["compute", "communication"]),
     ({"communicators": "N+DC"}, ["compute", "communication N", "communication D C"])],
)  # fmt: skip
def test_several_communicators_are_called_by_what_they_carry(settings: dict[str, str], names: list[str]) -> None:
    trace = run(load_schedule("displaced", 3, 2, counts="blocking", **settings))
    [axes] = [axes for axes in draw_timeline([trace], ranks=[0]).axes if axes.collections]
    assert [label.get_text() for label in axes.get_yticklabels()] == names


def test_panels_share_one_axis_and_begin_at_their_own_zero() -> None:
    traces = [run(schedule) for schedule in NAMED]
    panels = draw_timeline(traces, step=2, labels=["one", "two", "three"]).axes
    assert len({axes.get_xlim() for axes in panels}) == 1
    assert panels[0].get_xlim()[1] == pytest.approx(max(trace.step_s[2] for trace in traces) * 1e3, rel=0.02)
    for axes, trace, label in zip(panels, traces, ("one", "two", "three"), strict=True):
        assert min(box[2] for box in boxes(axes)) == pytest.approx(0, abs=1e-9)
        assert max(box[3] for box in boxes(axes)) == pytest.approx(trace.step_s[2] * 1e3)
        assert any(text.startswith(f"{label} {trace.schedule.name}, step 2: ") for text in texts(axes))
    tops = [axes.get_position().y0 for axes in panels]
    assert tops == sorted(tops, reverse=True)


def test_a_trace_that_begins_late_is_drawn_from_its_begin_on() -> None:
    trace = run(NAMED[0])
    late = replace(trace, reached_s=trace.reached_s + 1, start_s=trace.start_s + 1, end_s=trace.end_s + 1)
    for step in (None, 0, 2):
        one, two = (boxes(draw_timeline([t], step=step).axes[0]) for t in (trace, late))
        assert [box[0] for box in one] == [box[0] for box in two]
        assert np.array([box[2:4] for box in one]) == pytest.approx(np.array([box[2:4] for box in two]), abs=1e-9)


def test_the_title_says_what_and_how_long() -> None:
    trace = run(NAMED[0])
    makespan = readable("_s", trace.makespan_s)
    assert f"simulated sync: makespan {makespan}" in texts(draw_timeline([trace]).axes[0])
    title = f"simulated sync, step 1: {readable('_s', float(trace.step_s[1]))} of {makespan}"
    assert title in texts(draw_timeline([trace], step=1).axes[0])


def test_names_stand_in_the_boxes_where_they_fit() -> None:
    trace = run(NAMED[2])
    [wide] = draw_timeline([trace], step=3, width_in=30).axes
    names = {op.name for op in trace.schedule.ops if op.step == 3 and op.kind in "AEDC" and op.layer in (0, 1)}
    assert names <= texts(wide)
    [wide] = draw_timeline([run(BY_HAND[1])], step=1, width_in=30).axes
    assert "D1.0:0" in texts(wide), "the schedule's own words"
    [narrow] = draw_timeline([trace], width_in=3.4).axes
    assert not {op.name for op in trace.schedule.ops} & texts(narrow)


def test_names_do_not_leave_their_boxes() -> None:
    figure = draw_timeline([run(NAMED[1])], step=3, width_in=9)
    figure.draw_without_rendering()
    [axes] = figure.axes
    found = boxes(axes)
    names = [text for text in axes.texts if not isinstance(text, Annotation)]
    assert len(names) > 20
    for text in names:
        extent = text.get_window_extent().transformed(axes.transData.inverted())
        x, y = text.get_position()
        [box] = [b for b in found if b[2] <= x <= b[3] and b[4] <= y <= b[5]]
        assert box[2] <= extent.x0 <= extent.x1 <= box[3]


def test_stale_outputs_are_followed_to_the_residual_that_adds_them() -> None:
    trace = run(NAMED[2])
    [axes] = draw_timeline([trace], ranks=[1], width_in=20).axes
    stale = [op for op in trace.schedule.ops if op.kind == "R" and op.reads[0] < op.step]
    want = sorted(
        (trace.span_s(1, op._replace(kind="C", step=op.reads[0]))[1] * 1e3, trace.span_s(1, op)[0] * 1e3)
        for op in stale
    )
    assert sorted((arrow.get_position()[0], arrow.xy[0]) for arrow in arrows(axes)) == pytest.approx(np.array(want))
    assert not arrows(draw_timeline([run(NAMED[0])]).axes[0])


@pytest.mark.parametrize("layers", [6, 12, 18, 24])
@pytest.mark.parametrize("name", ["dice", "displaced"])
def test_no_name_at_an_arrow_lies_on_another(name: str, layers: int) -> None:
    figure = draw_timeline([run(load_schedule(name, 8, layers))], step=5, ranks=[0])
    figure.canvas.draw()
    [axes] = figure.axes
    named = [text for text in arrows(axes) if text.get_text().strip()]
    rights = [axes.transData.transform(text.xy)[0] + text.xyann[0] * figure.dpi / 72 for text in named]
    spans = sorted((x - Text.get_window_extent(text).width, x) for x, text in zip(rights, named, strict=True))
    assert all(one < other for (_, one), (other, _) in pairwise(spans))
    assert spans[0][0] >= axes.bbox.x0 - 1
    assert len(named) > 1, "some are told"


def test_what_ended_before_the_step_is_named_at_the_arrow() -> None:
    [axes] = draw_timeline([run(NAMED[1])], step=3, ranks=[0], width_in=20).axes
    assert [arrow.get_text() for arrow in arrows(axes)] == ["C1.0", "C1.1", "C1.2", "C1.3"]


def test_arrows_too_dense_to_tell_apart_are_left_out() -> None:
    trace = run(load_schedule("interweaved", 20, 8))
    assert not arrows(draw_timeline([trace]).axes[0])
    assert arrows(draw_timeline([trace], step=9).axes[0])


def test_waits_are_lines() -> None:
    trace = run(NAMED[0])
    [axes] = draw_timeline([trace]).axes
    [lines] = [c for c in axes.collections if isinstance(c, LineCollection)]
    drawn = sum(segment[1, 0] - segment[0, 0] for segment in lines.get_segments())
    assert drawn == pytest.approx((trace.start_s - trace.reached_s).sum() * 1e3)
    assert drawn > 0


def test_the_legend_explains_what_is_there_and_nothing_else() -> None:
    def words(figure: Figure) -> set[str]:
        return {text.get_text() for text in figure.legends[0].get_texts()}

    sync, stale = (words(draw_timeline([run(schedule)], step=3)) for schedule in (NAMED[0], NAMED[2]))
    assert {"D dispatch", "E routed experts", "waits for other ranks"} <= sync
    assert stale - sync == {"older step's tokens", "stale outputs added"}
    assert not any(word.startswith("N ") for word in stale)
    assert "stale outputs added" not in words(draw_timeline([run(load_schedule("interweaved", 20, 8))]))


@pytest.mark.parametrize(("settings", "message"), [
    ({"step": 5}, "simulated has steps 0 to 4, not 5"),
    ({"step": -1}, "simulated has steps 0 to 4, not -1"),
    ({"ranks": [0, 2]}, "simulated has ranks 0 to 1, not 2"),
    ({"labels": ["a", "b"]}, "1 traces need as many different labels"),
])  # fmt: skip
def test_what_a_trace_lacks_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_timeline([run(NAMED[0])], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "begin"), [("a.png", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")])
def test_a_figure_is_saved_in_the_format_of_its_name(name: str, begin: bytes, tmp_path: Path) -> None:
    save_figure(draw_timeline([run(NAMED[2])], step=2), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begin)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_figure_that_cannot_be_saved_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw_timeline([run(NAMED[2])], step=2)
    with pytest.raises(ValueError, match=r"a\.xyz: the name of a picture ends in one of \.pdf, \.png, \.svg"):
        save_figure(figure, tmp_path / "a.xyz")
    with pytest.raises(OSError, match="its directory does not exist"):
        save_figure(figure, tmp_path / "no" / "a.png")

    def half(path: Path, **_: object) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, tmp_path / "a.png")
    assert [*tmp_path.iterdir()] == []


def test_a_large_picture_stays_small(tmp_path: Path) -> None:
    trace = run(load_schedule("interweaved", 40, 28))
    save_figure(draw_timeline([trace]), tmp_path / "a.pdf")
    assert trace.start_s.size > 10_000
    assert (tmp_path / "a.pdf").stat().st_size < 300_000


def test_drawing_touches_nothing_global() -> None:
    before = dict(mpl.rcParams)
    draw_timeline([run(NAMED[0])])
    assert dict(mpl.rcParams) == before
    code = "import sim.timeline, sys; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
