"""The folder of a search: of one search, one version and one process; nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from searches import HELD, LAYERS, ORDER, SETTINGS, TEXTS, searched, written
from typer.testing import CliRunner

from sim.cli import app
from sim.search.file import read_search
from sim.search.folder import digest
from sim.search.folder import opened as claimed
from sim.sweeps.provenance import version


@pytest.mark.parametrize(("text", "held"), HELD)
def test_a_folder_of_another_search_is_left_alone(tmp_path: Path, text: str, held: str) -> None:
    run, file, out = CliRunner(), written(tmp_path, TEXTS[text]), tmp_path / "out"
    searched(file, out)
    searched(file, out, *(["trials=31"] if text != "LAYERS" else []))  # the same again goes on
    before = (out / held).read_text()
    with pytest.raises(ValueError, match="holds another search"):
        run.invoke(app, ["search", str(file), "base.steps=3", "--out", str(out)], catch_exceptions=False)
    assert (out / held).read_text() == before
    with pytest.raises(ValueError, match=r"holds a search, and no results of a sweep; .*: python -m sim search"):
        run.invoke(app, ["results", str(out)], catch_exceptions=False)
    (out / "_search.json").write_text("[")
    with pytest.raises(ValueError, match="is not what a search writes"):
        run.invoke(app, ["search", str(file), "--out", str(out)], catch_exceptions=False)
    assert (out / held).read_text() == before


@pytest.mark.parametrize("text", ["SETTINGS", "LAYERS", "ORDER"])
def test_a_folder_belongs_to_one_version(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = written(tmp_path, TEXTS[text]), tmp_path / "out"
    searched(file, out)
    searched(file, out)
    state = (out / "_search.json").read_text()
    held = json.loads(state)
    assert held["version"] == version()
    assert [{"command", "date", "host", "python", "numpy", "optuna"} <= run.keys() for run in held["runs"]] == [
        True
    ] * 2
    monkeypatch.setattr("sim.sweeps.provenance.version", lambda: "later")
    with pytest.raises(ValueError, match=r"holds a search by another version \(.*, not later\); say another --out"):
        searched(file, out)
    assert (out / "_search.json").read_text() == state


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_search_that_found_nothing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[BaseException]
) -> None:
    def fails(*_: object) -> None:
        raise fault

    for text, what in ((SETTINGS, "settings.evaluated"), (LAYERS, "run.layer_search"), (ORDER, "run.local_search")):
        file, out, begun = written(tmp_path, text), tmp_path / "out", tmp_path / what
        searched(file, begun, *(["trials=3"] if text != LAYERS else []))
        held = {path.name for path in begun.iterdir()}
        with monkeypatch.context() as patched:
            patched.setattr(f"sim.search.{what}", fails)
            assert CliRunner().invoke(app, ["search", str(file), "--out", str(out)]).exit_code
            assert CliRunner().invoke(app, ["search", str(file), "--out", str(begun)]).exit_code
        assert not out.exists()
        assert {path.name for path in begun.iterdir()} == held


@pytest.mark.parametrize(("text", "held"), HELD)
def test_nothing_is_put_beside_other_files(tmp_path: Path, text: str, held: str) -> None:
    run, file, out = CliRunner(), written(tmp_path, TEXTS[text]), tmp_path / "out"
    out.mkdir()
    (out / held).write_text("mine")
    with pytest.raises(ValueError, match=f"holds {held}, and no search: nothing is put beside it"):
        run.invoke(app, ["search", str(file), "--out", str(out)], catch_exceptions=False)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(held, "mine")]
    with pytest.raises(ValueError, match="is not a folder"):
        run.invoke(app, ["search", str(file), "--out", str(out / held)], catch_exceptions=False)


def test_a_sweep_is_not_searched_over(tmp_path: Path) -> None:
    run, out = CliRunner(), tmp_path / "out"
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("base: {model: S, steps: 2, cluster: 8x-h100}\naxes: {schedule: [sync, dice]}\n")
    assert run.invoke(app, ["sweep", str(sweep), "--workers", "0", "--out", str(out)]).exit_code == 0
    with pytest.raises(ValueError, match="and no search: nothing is put beside it"):
        run.invoke(app, ["search", str(written(tmp_path, ORDER)), "--out", str(out)], catch_exceptions=False)
    assert run.invoke(app, ["results", str(out)]).exit_code == 0
    searched(written(tmp_path, ORDER), out := tmp_path / "searched", "trials=1")
    with pytest.raises(ValueError, match="no results of a sweep: nothing is put beside it"):
        run.invoke(app, ["sweep", str(sweep), "--workers", "0", "--out", str(out)], catch_exceptions=False)


def test_one_process_at_a_time_searches_in_a_folder(tmp_path: Path) -> None:
    file, out = written(tmp_path, ORDER), tmp_path / "out"
    searched(file, out, "trials=1")
    arguments = ["search", str(file), "--out", str(out)]
    made = {"search": digest(read_search(file)), "version": version()}
    with claimed(out, made, {"command": ""}), pytest.raises(ValueError, match="another process"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    (out / "order.json").write_text("[")
    with pytest.raises(ValueError, match="is not what a search of orders writes"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
