"""The file of a sweep: every fault is said once, with its place, and nothing else is accused; any file at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import SMALL, Make

from sim.load import load_schedule
from sim.sweeps.file import sweep_of
from sim.sweeps.points import Points, row_keys
from sim.sweeps.settings import DEFAULTS, value_problem


def test_every_fault_is_said_at_once_with_its_place(make: Make) -> None:
    with pytest.raises(ValueError, match="is in base") as caught:
        make("""
base: {model: XX, steps: 0, cluster: 8x-h1000, wire: int7, foo: 3, images: 4}
axes:
  schedule: [sync, nope, sync]
  images: [4, -16, x]
  foo: [1]
  pixels: 256
  schedule.stride: []
  schedule.colour: [1]
  cluster.link.bytes_per_s: [3 apples, 4 GB/s]
  keep: {low: 0.9, high: 0.1, count: 3}
plan: {points: 3}
filters: [imagess > 3, images <]
""")
    lines = [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]
    for start in (
        "axes.schedule: 'sync' stands there twice", "axes.pixels: 256 should be a list",
        "axes.schedule.stride: is empty",
        "axes.cluster.link.bytes_per_s[0]: cluster.link.bytes_per_s: unknown unit 'apples'",
        "axes.keep: low=0.9 should be below high=0.1", "axes.images: is in base, too", "axes.foo: is in base, too",
        "base.steps: 0: input should be greater", "base.wire: 'int7': input should be 'float64'",
        "base.foo: unknown key (3); there are schedule, cluster, steps",
        "axes.images[1]: -16: input", "axes.images[2]: 'x': input",
        "axes.schedule.colour[0]: unknown key (1); there are top_k, ", "plan.points=3 has no effect on a grid",
        "filters[0]: 'imagess > 3': there is no setting imagess", "filters[1]: 'images <' cannot be read",
        "base.cluster: no cluster is called 8x-h1000", "base.model: unknown model 'XX'",
        "axes.schedule: unknown schedule 'nope'",
    ):  # fmt: skip
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert sum(line.startswith("axes.schedule.stride") for line in lines) == 1, "what is empty has no values to look at"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("axes:", "axis:"), "axis: unknown key"),
        (("axes:", "axes: {}\nfilters:"), "filters"),
        (("[1, 2]", "[1, 2]\n  images: [3]"), "duplicate key"),
        (("[1, 2]", "{low: 1, high: 4}"), "a grid needs a count"),
        (("[0.5, 1, 2]", "[0.5, -1]"), r"\[1\]: -1 should be a factor above 0"),
        (("bytes_per_s: [0.5", "bytes: [0.5"), r"axes\.times\.cluster\.link\.bytes: times\..*: there is no bytes"),
        (("[1, 2]", "[1, 1048577]"), r"images\[1\]: 1048577: input should be less"),
        (("[sync,", "[mine.txt,"), "unknown schedule 'mine.txt'"),
        (("steps: 3", "steps: 3, seed: 1, dtype: bf16"), "dtype=bf16 has no effect"),
        (("steps: 3", "steps: 3, schedule.stride: 2"), "with 'sync', no point can be run: .*no effect"),
        (("[sync,", "[sync, 3,"), r"axes\.schedule\[1\]: 3: input should be a valid string"),
        (("[sync,", "[sync, ' ',"), r"axes\.schedule\[1\]: ' ' is blank"),
        (("images: [1, 2]", "cluster.link.scope: [1, wide]"), "all numbers, or all texts"),
        (
            ("images: [1, 2]", "cluster.link.*: [1]\n  cluster.link.latency_s: [2]"),
            r"link\.\*: says what cluster.link.lat",
        ),
        (("[sync,", "[null,"), r"axes\.schedule\[0\]: null: it has to be given"),
        (("steps: 3", "steps: 3, schedule: null"), r"base\.schedule: null: it has to be given"),
        (("base:", "search: settings\nbase:"), "is a search, not a sweep: python -m sim search"),
        (("images: [1, 2]", "cluster.: [1]"), "'cluster.' names nothing"),
        (("images: [1, 2]", "cluster.ranks: [1.0e+9, false]"), "with False, no point can be run: .*ranks=0 should be"),
        (("[1, 2]", "[1, [2]]"), "should be one value"),
        (("steps: 3", "steps: 3, wire: off"), "wire: False"),
        (("steps: 3", "steps: 3, schedule.forced: 1"), r"base\.schedule\.forced: 1 should be a text"),
        (("steps: 3", "steps: 3, schedule.stride: '2'"), r"base\.schedule\.stride: '2' should be a whole number"),
        (("steps: 3", "steps: 3, model.adaln: 1"), r"base\.model\.adaln: 1 should be true or false"),
    ],
)
def test_a_file_with_a_fault_is_refused_before_anything_runs(make: Make, change: tuple[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(SMALL.replace(*change))


def faults(make: Make, text: str) -> list[str]:
    """What is said of a file, without its name."""
    with pytest.raises(ValueError, match=r"s\.yaml") as caught:
        make(text)
    return [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]


def test_no_section_hides_the_faults_of_another(make: Make) -> None:
    text = """
base: {model: tiny, steps: 3, cluster: cpu-2-ranks, model.nope: 3, schedule.nothing: 1}
axes: {schedule: [sync, dice], pixels: [255, 256], images: {low: 1, high: 4}, foo: [1]}
plan: {kind: sobl, points: -4}
filters: ["images", "images > 'a'", "images / 0 > 1", "nobody == 1"]
"""
    lines = faults(make, text)
    for start in (
        "plan.kind: Input should be 'grid'", "plan.points: Input should be greater", "base.model.nope: unknown key (3)",
        "base.schedule.nothing: unknown key (1)", "axes.foo: unknown key (1)", "axes.pixels: with 255, no",
        "filters[0]: 'images' should be a condition", "filters[1]: \"images > 'a'\" does with texts",
        "filters[2]: 'images / 0 > 1': 'images / 0' divides by 0", "filters[3]: 'nobody == 1': there is no setting",
    ):  # fmt: skip
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == 10, "and nothing else is accused: not images, which a plan may draw without a count"


@pytest.mark.parametrize(
    ("text", "accused"),
    [
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, schedule: sync}\naxes: {ranks: [3, 8, 1000], "
         "pixels: [255, 256], cluster.host.launch_s: [3 us, -1]}",
         {"axes.pixels: with 255": "pixels=255", "axes.cluster.host.launch_s: with -1": "host.launch_s=-1",
          "axes.ranks: with 3": "3 ranks", "axes.ranks: with 1000": "1000"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100}\naxes: {schedule: [sync, dice], mesh: [foo], "
         "placement: [bar]}", {"axes.mesh": "foo", "axes.placement": "bar"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, mesh: foo}\naxes: {schedule: [sync, dice]}",
         {"base.mesh": "foo"}),
        ("base: {model: S, cluster: 8x-h100, schedule: sync, steps: 2}\naxes: {images: [1, 2], "
         "cluster.compute.gpu.peak.bf16: {low: 1.0e+14, high: 1.0e+15, count: 10}}",
         {"axes.cluster.compute.gpu.peak.bf16": "there is no gpu"}),
        ("base: {model: S, cluster: 8x-h100, schedule: sync, steps: 0}\naxes: {pixels: [255]}",
         {"base.steps": "0", "axes.pixels": "255"}),
        ("base: {model: tiny, steps: 3, schedule: sync}\naxes: {cluster: [8x-h100, 8x-a100], cluster.name: [3]}",
         {"axes.cluster.name": "name"}),
        ("base: {model: tiny, steps: 3, cluster: cpu-2-ranks, schedule.stride: 2}\naxes: {schedule: [sync], "
         "images: [1, 2]}", {"base.schedule.stride": "stride"}),
        ("base: {model: tiny, steps: 3, cluster: 8x-h100, keep: 0.5}\naxes: {schedule: [sync], images: [1, 2], "
         "dtype: [fp8, bf17]}", {"axes.dtype[1]": "bf17", "base.keep": "keep=0.5"}),
    ],
)  # fmt: skip
def test_only_what_is_at_fault_is_accused(make: Make, text: str, accused: dict[str, str]) -> None:
    lines = faults(make, text)
    assert len(lines) == len(accused), lines
    for start, word in accused.items():
        assert sum(line.startswith((f"{start}:", f"{start},")) and word in line for line in lines) == 1, (start, lines)


@pytest.mark.parametrize("text", ["[1, 2]", "- a", "base: [", "axes: {a: ${nowhere}}", "plan: {kind: grit}"])
def test_what_is_no_sweep_is_refused(make: Make, text: str) -> None:
    with pytest.raises(ValueError, match=r"s\.yaml"):
        make(text)


def test_changes_on_the_command_line_are_part_of_the_file(make: Make) -> None:
    sweep = make(SMALL, "base.steps=4", "plan.kind=random", "plan.points=5")
    assert sweep.base["steps"] == 4
    assert len(Points(sweep)) == 5
    assert sweep.digest != make(SMALL).digest
    text = SMALL.replace("images: [1, 2]", "model.hidden: {low: 64, high: 128, count: 2}")
    sweep = make(text, "axes.times.cluster.link.bytes_per_s=[4]", "base.cluster.host.launch_s=3 us",
                 "axes.model.hidden.high=256", "base.images=8")  # fmt: skip
    assert sweep.base["cluster.host.launch_s"] == 3e-6
    assert {axis.key: axis.values[-1] for axis in sweep.axes[1:]} == {
        "model.hidden": 256, "times.cluster.link.bytes_per_s": 4
    }  # fmt: skip
    with pytest.raises(ValueError, match="should look like plan"):
        make(SMALL, "steps")


def test_a_sweep_is_another_one_if_a_file_that_it_names_is(make: Make, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(str(load_schedule("sync", 3, 4)))
    text = SMALL.replace("[sync,", f"[{mine}, sync,")
    before = make(text)
    keys = row_keys(Points(before).chunk(0, 6), before.sources)
    mine.write_text(str(load_schedule("interweaved", 3, 4)))
    after = make(text)
    assert before.digest != after.digest
    assert {*keys}.isdisjoint(row_keys(Points(after).chunk(0, 6), after.sources))


def test_of_many_numbers_the_least_the_greatest_and_one_between_are_looked_at(make: Make) -> None:
    keep = ", ".join(f"{n / 10}" for n in range(10))
    text = SMALL.replace("images: [1, 2]", f"keep: [{keep}]")
    with pytest.raises(ValueError, match=r"with 0\.0, no point can be run") as caught:
        make(text)
    assert "0.5" in str(caught.value)
    assert "0.9" in str(caught.value)
    assert "0.1," not in str(caught.value)


@pytest.mark.parametrize("value", [[], {}, [1], float("nan"), object()])
def test_no_setting_takes_what_is_no_value(value: Any) -> None:
    for key in ("images", "times.cluster.host.launch_s", "keep", "schedule"):
        assert value_problem(key, value)


KEYS = st.sampled_from([
    *DEFAULTS, "schedule.stride", "schedule.conditional", "schedule.synchronous", "model.hidden", "model.experts",
    "cluster.host.launch_s", "cluster.compute.gpu", "cluster.link", "cluster.name", "cluster.ranks", "cluster.",
    "cluster.link.resources.*.bytes_per_s", "times.cluster.link.bytes_per_s", "times.cluster", "nobody", "",
])  # fmt: skip

VALUES = st.sampled_from([
    None, True, 0, 1, 3, 8, -1, 255, 256, 0.5, 1e9, 1e300, float("nan"), float("inf"), 2**70, "", " ", "sync", "dice",
    "interweaved stride=3", "tiny", "8x-h100", "3 us", "3 apples", "bf16", "data=2 expert=4", "low", [1], {"a": 1},
])  # fmt: skip

AXES = st.lists(VALUES, max_size=4) | st.dictionaries(st.sampled_from(["low", "high", "count", "whole", "x"]), VALUES)

FILTERS = st.sampled_from(["images > 1", "images", "images >", "images / 0 > 1", "nobody == 1", "steps == null", 3])

SOUND = {"schedule": "sync", "model": "tiny", "steps": 3, "cluster": "8x-h100"}


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(KEYS, VALUES, max_size=3), st.dictionaries(KEYS, AXES, max_size=3),
    st.dictionaries(st.sampled_from(["kind", "points", "seed"]), VALUES), st.lists(FILTERS, max_size=2),
)  # fmt: skip
def test_any_file_is_a_sweep_or_is_refused_with_each_fault_once(base: Any, axes: Any, plan: Any, filters: Any) -> None:
    tables = {"base": {**SOUND, **base}, "axes": {"images": [1, 2], **axes}, "plan": plan, "filters": filters}
    try:
        Points(sweep_of(tables, "s.yaml"))
    except ValueError as error:
        lines = str(error).splitlines()
        assert len({*lines}) == len(lines)
        assert all(line.startswith(("s.yaml: ", "filters: none of")) for line in lines)
