"""The README says what the files say; tests/test_docs.py runs its commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from calibration import page, results

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MEASURED = ROOT / "calibration" / "data" / "cpu-2-ranks"


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_table_is_what_was_measured() -> None:
    assert page.table(MEASURED) in README


def test_renewing_a_page_replaces_what_is_between_the_markers_only(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    page.renew(tmp_path / "page.md", MEASURED)
    new = (tmp_path / "page.md").read_text()
    assert new == f"before\n<!-- results -->\n{page.table(MEASURED)}<!-- end of results -->\nafter\n"
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ValueError, match="has no lines '<!-- results -->'"):
        page.renew(tmp_path / "page.md", MEASURED)


def test_every_published_run_had_the_staleness_that_was_predicted() -> None:
    summary = results.load(MEASURED / "results.json")
    assert summary.cells
    assert all(result.staleness_equal for result in summary.cells)


def test_the_example_is_the_file() -> None:
    (example,) = [block for block in blocks() if block.startswith("overlap ")]
    assert (ROOT / "examples" / "overlap.txt").read_text().endswith(example)


def test_the_python_example_works(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "[[1, 1], [1, 1], [1, 1], [1, 1]]" in done.stdout


def test_the_page_on_sweeps_shows_the_example() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    example = (ROOT / "examples" / "sweep.yaml").read_text().splitlines(keepends=True)
    shown = "".join(line for line in example if not line.startswith("#"))
    assert f"```yaml\n{shown}```" in page
