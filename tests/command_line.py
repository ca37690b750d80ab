"""The command line in an empty folder with a cluster file; `run` of tests/conftest.py is a Run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sim.load import load_schedule

Run = Callable[..., tuple[int, str, str]]


def mine(name: str = "mine") -> Path:
    """A text file that fits model S."""
    path = Path("mine.txt")
    path.write_text(str(replace(load_schedule("interweaved", 3, 12), name=name)))
    return path
