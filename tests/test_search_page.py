"""What a search prints, and the page on searches (docs/search.md): every number stands in the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from searches import GRID, ORDER, ROOT, searched, written
from typer.testing import CliRunner

from sim.cli import app


def test_tables_say_units(tmp_path: Path) -> None:
    file, changes = written(tmp_path, GRID), ["minimize=[memory_bytes,makespan_s]", "trials=3"]
    result = CliRunner().invoke(app, ["search", str(file), *changes, "--out", str(tmp_path / "out")])
    assert re.search(r" [\d.]+ MB +[\d.]+ ms$", result.stdout.splitlines()[1])
    result = CliRunner().invoke(app, ["search", str(file), changes[0], "trials=2", "--out", str(tmp_path / "out")])
    assert result.stdout.splitlines()[-1] == "3 trials are there, more than 2: this is what all of them found"
    file, out = written(tmp_path, ORDER), tmp_path / "order"
    searched(file, out, "trials=3")
    assert CliRunner().invoke(app, ["search", str(file), "trials=3", "--out", str(out)]).stdout.endswith(" GB\n")
    result = CliRunner().invoke(app, ["search", str(file), "trials=2", "--out", str(out)])
    assert result.stdout.splitlines()[-1] == "3 trials are there, more than 2: this is what all of them found"


def test_the_page_shows_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of what was found comes from the results: between markers, in prose, too."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = __import__("search_page")
    found = json.loads((ROOT / "benchmarks" / "results" / "search.json").read_text())
    text = (ROOT / "docs" / "search.md").read_text()
    for name, table in page.tables(found).items():
        assert f"<!-- {name} -->\n{table}\n<!-- end of {name} -->" in text, f"`python {page.__file__}` renews it"
    written = re.sub(r"<!-- (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    assert not re.findall(r"\d+\.\d+|\d+ to \d+ %", re.sub(r"5 % of|`[^`]*`", "", written))
    for part in ("layers", "order", "verify", "digits"):
        assert {"date", "command", "commit", "processor"} <= found["meta"][part].keys()
    assert all(row["cost_as_fast"] <= row["cost_of_rule"] * (1 + 1e-9) for row in found["layers"])
    assert all(row["largest_difference"] < 1e-10 and row["wrong_ages"] == 0 for row in found["verify"])


def test_a_benchmark_notes_what_made_each_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = __import__("importlib").import_module("search")
    monkeypatch.setattr(bench, "TARGET", tmp_path / "search.json")
    bench.keep("layers", [{"a": 1}], {"commit": "one"})
    bench.keep("verify", [], {"commit": "two"})
    bench.keep("layers", [{"a": 2}], {"commit": "three"})
    held = json.loads((tmp_path / "search.json").read_text())
    assert held["layers"] == [{"a": 1}, {"a": 2}]
    assert {part: made["commit"] for part, made in held["meta"].items()} == {"layers": "three", "verify": "two"}
