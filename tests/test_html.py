"""The HTML pages: self-contained, well-formed, and what they hold is there."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import NAMES, browser, look
from matplotlib.figure import Figure

from sim.cli import main
from sim.html import Page
from sim.pictures import draw_staleness
from sim.trace import Trace

ROOT = Path(__file__).parent.parent
SAVED = [ROOT / "calibration" / "data" / "cpu-2-ranks" / f"{origin}.trace" for origin in ("simulated", "measured")]
VOID = ("meta", "link", "img")
HOSTILE = "<script>alert('&')</script>"


class Checker(HTMLParser):
    """Whether every tag is closed, in order; and what tags there are, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def small() -> Figure:
    return draw_staleness({"a": [[0, 1], [1, 1]]})


def full() -> Page:
    page = Page("A page", {"command": HOSTILE})
    page.heading("One").text("first", HOSTILE).table(["name", "time / s"], [["sync", "1.5"], [HOSTILE, "-2"]])
    return page.code("P0\nZ0 <1").picture(small(), f"A picture, {HOSTILE}")


def test_all_is_there_and_nothing_that_is_said_becomes_markup() -> None:
    checker = read(str(full()))
    assert [tag for tag, _ in checker.tags if tag in ("h1", "h2", "img", "script", "figcaption", "pre")] == [
        "h1", "h2", "pre", "img", "figcaption", "h2"]  # fmt: skip
    said = [word for word in checker.words if word.strip()]
    assert said.count(HOSTILE) == 3
    assert f"A picture, {HOSTILE}" in said
    assert "P0\nZ0 <1" in said


def test_numbers_stand_right_and_words_left() -> None:
    page = str(Page("t", {}).table(["name", "time"], [["sync", "1.5"], ["dice", "-2"], ["x", ""]]))
    assert '<td>sync</td><td class="number">1.5</td>' in page
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        Page("t", {}).table(["a", "b"], [["1"]])


def test_a_page_asks_for_nothing_and_is_the_same_each_time() -> None:
    text = str(full())
    assert text == str(full())
    for _, attributes in read(text).tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text


def report(folder: Path) -> Path:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, SAVED), "--html", str(folder / "report.html")])
    assert ended.value.code == 0
    return folder / "report.html"


def test_the_report_has_tables_pictures_and_how_it_was_made(tmp_path: Path) -> None:
    checker = read(report(tmp_path).read_text())
    assert [tag for tag, _ in checker.tags].count("img") == 3
    assert [tag for tag, _ in checker.tags].count("table") == 2 + 5 * len(SAVED)
    words = " ".join(checker.words)
    for trace in map(Trace.load, SAVED):
        assert f"{trace.makespan_s:.4g} s" in words
        assert trace.schedule.header in words
    assert "How it was made" in words


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", str(SAVED[0]), "--html", str(tmp_path / "no" / "report.html")])
    assert "its directory does not exist" in capsys.readouterr().err


SCRIPT = """({
  broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 100)).length,
  images: document.images.length,
  small: [...document.images].filter(i => i.getBoundingClientRect().height < 50).length,
  tables: [...document.querySelectorAll('table')].map(t => t.rows.length),
  wider: document.documentElement.scrollWidth > document.documentElement.clientWidth,
})"""
needs_browser = pytest.mark.skipif(browser() is None, reason=f"no browser here: none of {', '.join(NAMES)}")


@pytest.mark.browser
@needs_browser
def test_a_browser_shows_the_report_and_asks_nobody(tmp_path: Path) -> None:
    page = report(tmp_path)
    seen = look(page, SCRIPT)
    assert [url for url in seen.requests if not url.startswith("data:")] == [page.as_uri()]
    assert seen.errors == []
    assert {key: seen.value[key] for key in ("broken", "images", "small", "wider")} == {
        "broken": 0, "images": 3, "small": 0, "wider": False}  # fmt: skip
    assert min(seen.value["tables"]) > 1
    assert len(seen.png) > 50_000


@pytest.mark.browser
@needs_browser
def test_a_browser_shows_the_report_of_a_calibration(tmp_path: Path) -> None:
    for words in ("measure --quick --model digits --images 4 --out bundle --patience 0",
                  "report bundle --html calibration.html"):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "calibration", *words.split()], cwd=tmp_path, capture_output=True,
                              text=True, timeout=110, check=False,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        assert done.returncode == 0, done.stderr
    page = tmp_path / "calibration.html"
    read(page.read_text())
    seen = look(page, SCRIPT)
    assert [url for url in seen.requests if not url.startswith("data:")] == [page.as_uri()]
    assert seen.errors == []
    assert {key: seen.value[key] for key in ("broken", "small", "wider")} == {"broken": 0, "small": 0, "wider": False}
    assert seen.value["images"] >= 2
    assert min(seen.value["tables"]) > 1


@pytest.mark.browser
@needs_browser
def test_the_browser_would_notice(tmp_path: Path) -> None:
    """A page with a broken picture, a request and an error."""
    (tmp_path / "bad.html").write_text(
        '<img src="data:image/png;base64,AAAA"><img src="http://localhost:9/x.png"><script>nothing()</script>'
    )
    seen = look(tmp_path / "bad.html", SCRIPT)
    assert "http://localhost:9/x.png" in seen.requests
    assert any("nothing is not defined" in error for error in seen.errors)
    assert seen.value["broken"] == 2
