"""The command line, and what it says; `run` of tests/conftest.py is a Run, in an empty folder with a cluster file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sim.cli import main
from sim.load import load_schedule

Run = Callable[..., tuple[int, str, str]]


def called(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `python -m sim` with these words."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def mine(name: str = "mine") -> Path:
    """A text file that fits model S."""
    path = Path("mine.txt")
    path.write_text(str(replace(load_schedule("interweaved", 3, 12), name=name)))
    return path
