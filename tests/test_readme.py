"""The README says what the files say, and its commands do what it says."""

from __future__ import annotations

import re
import shlex
import shutil
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
    summary, _ = results.load(MEASURED / "results.json")
    assert summary
    assert all(result.staleness_equal for result in summary)


def test_the_example_is_the_file() -> None:
    (example,) = [block for block in blocks() if block.startswith("overlap ")]
    assert (ROOT / "examples" / "overlap.txt").read_text().endswith(example)


def commands() -> list[str]:
    (block,) = [block for block in blocks() if block.startswith("source ")]
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("python")]


@pytest.mark.parametrize("command", commands())
def test_the_commands_work(command: str, tmp_path: Path) -> None:
    for name in ("examples", "calibration"):
        shutil.copytree(ROOT / name, tmp_path / name)
    words = shlex.split(command)
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=100,
                          env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_python_example_works(tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "[[1, 1], [1, 1], [1, 1], [1, 1]]" in done.stdout


def test_the_commands_of_the_page_on_schedules_work_in_their_order(tmp_path: Path) -> None:
    for name in ("examples", "calibration"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = (ROOT / "docs" / "schedules.md").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in page.splitlines() if line.startswith("python -m")]
    assert len(lines) > 10
    for line in lines:
        done = subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, capture_output=True, text=True,
                              timeout=100, env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_commands_and_the_example_of_the_page_on_weights_work(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    shutil.copytree(ROOT / "realrun" / "weights", tmp_path / "realrun" / "weights")
    commands = page.split("```")[1].strip().splitlines()
    (tmp_path / "example.py").write_text(page.split("```python\n")[1].split("```")[0])
    assert [command.split()[3] for command in commands] == ["interweaved", "about"]
    for words in [*(shlex.split(command)[1:] for command in commands), ["example.py"]]:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True,
                              timeout=100, env={"PYTHONPATH": str(ROOT), "PATH": ""})  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "[2, 4, 1, 8, 8]" in done.stdout
    assert (tmp_path / "digits.png").stat().st_size > 0


def test_the_page_on_sweeps_shows_the_example() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    example = (ROOT / "examples" / "sweep.yaml").read_text().splitlines(keepends=True)
    assert f"```yaml
{''.join(line for line in example if not line.startswith('#'))}```" in page
