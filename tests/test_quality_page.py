"""The page on quality says what its results say, and the vulnerability's file how far off it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from sim.vulnerability import Vulnerability

ROOT = Path(__file__).parent.parent
FOUND = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/quality_page.py"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return __import__("quality_page")


def test_every_table_is_in_the_page(page: ModuleType) -> None:
    text = (ROOT / "docs" / "quality.md").read_text()
    tables = page.tables(FOUND)
    assert {*tables} == {"steps10", "steps20", "steps50", "guided", "parts", "scores", "claims", "estimate", "speed"}
    for name, table in tables.items():
        assert f"<!-- {name} -->\n{table}<!-- end -->" in text, name


def test_the_estimate_ranks_schedules_that_it_was_not_made_from(page: ModuleType) -> None:
    of = Vulnerability.load("digits")
    assert of.errors == page.errors(FOUND, of)
    assert of.errors["schedules"] >= 30
    assert of.errors["rank_correlation"] >= 0.9


def row(name: str, *seeds: float) -> dict[str, object]:
    cell = {"mean": sum(seeds) / len(seeds), "low": 0.0, "high": 0.0, "seeds": list(seeds)}
    return {"name": name, "steps": 10, "mean_age": 1.0, "distance": cell}


def test_a_claim_holds_only_where_seeds_leave_no_doubt(page: ModuleType) -> None:
    rows = [row("sync", 0, 0, 0), row("dice", 0.3, 0.2, 0.25), row("interweaved", 0.31, 0.19, 0.26),
            row("displaced", 0.1, 0.02, 0.06)]  # fmt: skip
    found = {v.claim: v.word for v in page.verdicts({"steps10": {"rows": rows}})}
    assert found == {
        "sync < dice": "holds",
        "dice < interweaved": "undecided",
        "interweaved < displaced": "the opposite holds",
    }
