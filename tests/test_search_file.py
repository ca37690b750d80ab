"""The file of a search: every fault is said, with its place, beside all others."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import LAYERS, ORDER, ROOT, SETTINGS, written

from sim.search.file import LayersSearch, OrderSearch, SettingsSearch, read_search


@pytest.mark.parametrize(
    ("text", "changes", "why"),
    [
        (SETTINGS, ["minimize=[speed]"], "minimize[0]: there is no speed; there are makespan_s"),
        (SETTINGS, ["minimize=[memory_fits]"], "minimize[0]: there is no memory_fits"),
        (SETTINGS, ["minimize=[makespan_s,-makespan_s]"], "minimize[1]: '-makespan_s' names a column twice"),
        (SETTINGS, ["limits=[speed < 3]"], "limits[0]: 'speed < 3': there is no speed"),
        (SETTINGS, ["limits=[3,images]"], "limits[0]: '3' should be a condition"),
        (SETTINGS, ["limits=[3,images]"], "limits[1]: 'images' should be a condition"),
        (SETTINGS, ["limits=[images]"], "limits[0]: 'images' should be a condition"),
        (SETTINGS, ["limits=[wire < 3]"], "limits[0]: 'wire < 3' does with texts what only numbers can"),
        (SETTINGS, ["limits=[images > 3,images > 3]"], "limits[1]: 'images > 3' stands there twice"),
        (SETTINGS, ["vulnerability=digits"], "vulnerability: 'digits' has no effect: nothing asks for quality"),
        (SETTINGS, ["minimize=[quality]"], "vulnerability: missing; quality needs one"),
        (SETTINGS, ["minimize=[quality]", "vulnerability=nope"], "vulnerability: no vulnerability is called nope"),
        (
            SETTINGS,
            ["minimize=[quality]", "vulnerability=digits", "base.vulnerability=digits"],
            "vulnerability: 'digits', and one is in base or axes, too",
        ),
        (SETTINGS, ["axes.schedule=[]"], "axes.schedule: is empty"),
        (SETTINGS, ["trials=0"], "search.yaml: trials: Input should be greater than or equal to 1 (0)"),
        (SETTINGS, ["speed=0"], "search.yaml: speed: unknown key (0)"),
        (LAYERS, ["modes=[sync,late]"], "modes[1]: cannot read the mode 'late'"),
        (LAYERS, ["modes=[sync,sync]"], "modes[1]: 'sync' names one twice"),
        (LAYERS, ['modes=[sync,"stale 1,2,3"]'], "modes: 'stale 1,2,3' should have an interval for each of top_k=2"),
        (LAYERS, ["base.model.layers=1"], "base: a network of 1 layer has nothing to choose among"),
        (LAYERS, ["base.schedule=dice"], "base.schedule: 'dice' has no effect"),
        (LAYERS, ["trials=3"], "trials: unknown key (3)"),
        (LAYERS, ["base.model.top_k=3", "vulnerability=digits"], "vulnerability: vulnerability digits is of top_k=2"),
        (ORDER, ["base.speed=3"], "base.speed: unknown key (3); the nearest is seed"),
        (ORDER, ["base.cluster=nowhere"], "base.cluster: no cluster is called nowhere"),
        (ORDER, ["base.seed=3"], "base.seed: 3 has no effect"),
        (ORDER, ["base.vulnerability=digits"], "base.vulnerability: 'digits' has no effect; say it beside base"),
        (ORDER, ["base.dtype=fp64"], "base.dtype: 'fp64'"),
        (ORDER, ["search=luck"], "search: 'luck' is no kind of search; there are settings, layers, order"),
        ("base: {}", [], "search: missing; there are settings, layers, order"),
        ((ROOT / "examples" / "sweep.yaml").read_text(), [], "this is a sweep, for `python -m sim sweep"),
        ("a: [", [], "search.yaml"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, changes: list[str], why: str) -> None:
    dotted = [change for change in changes if change.startswith("base.model.")]  # which is one key, not a path
    for change in dotted:
        key, _, value = change.removeprefix("base.").partition("=")
        text = text.replace("base: {", f"base: {{{key}: {value}, ").replace(", model.layers: 4", "")
    with pytest.raises(ValueError, match=r"search\.yaml: ") as error:
        read_search(written(tmp_path, text), [change for change in changes if change not in dotted])
    assert why in str(error.value)


def test_all_faults_of_a_file_are_said_at_once(tmp_path: Path) -> None:
    changes = ["base.images=-1", "axes.schedule=[]", "minimize=[speed,makespan_s,makespan_s]", "limits=[a b,fun > 1]",
               "vulnerability=nope", "trials=none", "luck=1"]  # fmt: skip
    with pytest.raises(ValueError, match="base") as error:
        read_search(written(tmp_path, SETTINGS), changes)
    lines = str(error.value).splitlines()
    places = ("base.images: -1", "axes.schedule:", "minimize[0]:", "minimize[2]:", "limits[0]: 'a b'", "limits[1]:",
              "vulnerability: no vulnerability", "trials:", "luck: unknown key")  # fmt: skip
    for place in places:
        assert [place in line for line in lines].count(True) == 1, place
    with pytest.raises(ValueError, match="base") as error:
        read_search(
            written(tmp_path, LAYERS), ["base.images=-1", "modes=[sync,late]", "vulnerability=nope", "points=0"]
        )
    for place in ("base.images: -1", "modes[1]:", "vulnerability:", "points:"):
        assert place in str(error.value)


def test_a_fault_beside_others_is_said_as_when_alone(tmp_path: Path) -> None:
    """What is sound is read like a whole file, and something sound stands in for the rest."""
    alone = ["limits=[memory_fit,makespan_s <=,3,true]"]
    with pytest.raises(ValueError, match="limits") as error:
        read_search(written(tmp_path, SETTINGS), alone)
    lines = str(error.value).splitlines()
    assert [line.split("search.yaml: ")[1] for line in lines] == [
        "limits[0]: 'memory_fit': there is no memory_fit",
        "limits[1]: 'makespan_s <=' cannot be read: invalid syntax",
        "limits[2]: '3' should be a condition, as images <= 16",
        "limits[3]: 'True' asks for no column",
    ]
    with pytest.raises(ValueError, match="luck: unknown key") as error:
        read_search(written(tmp_path, SETTINGS), [*alone, "luck=1", "trials=none", "minimize=[]"])
    assert {*lines} < {*str(error.value).splitlines()}
    assert "minimize: should be 1 at least, not 0" in str(error.value)
    with pytest.raises(ValueError, match=r"modes: should be 2 at least, not 1 \(\['sync'\]\)$"):
        read_search(written(tmp_path, LAYERS), ["modes=[sync]"])
    with pytest.raises(ValueError, match=r"modes\[0\]: cannot read the mode '3'") as error:
        read_search(written(tmp_path, LAYERS), ["modes=[3,sync]", "luck=1"])
    with pytest.raises(ValueError, match=r"base.cluster: null") as error:
        read_search(written(tmp_path, SETTINGS), ["base.cluster=null", "axes.schedule=[null,sync]"])
    assert "axes.schedule[0]: null" in str(error.value)


def test_files_are_read(tmp_path: Path) -> None:
    kinds = {SETTINGS: SettingsSearch, LAYERS: LayersSearch, ORDER: OrderSearch}
    for text, kind in kinds.items():
        assert isinstance(read_search(written(tmp_path, text)), kind)
