"""Hypothesis looks for counterexamples in the same places every time, without a clock; and the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from sim.sweeps.sweep import Sweep

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("same every time")

# Intel's library computes the last bit of a cosine by another path on each processor; this one, which tests/golden was
# made with, it has on all.  It is read when torch is loaded, and ranks inherit it.
os.environ["MKL_CBWR"] = "COMPATIBLE"

# Two threads of one process spin for each other when the cores are shared: ten times slower in the worst case seen.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command line in an empty directory with a cluster file; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    from cases import cluster
    from command_line import called

    cluster().save("c.yaml")
    return lambda line: called(capsys, *line.split())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads spin for each other when the cores are shared: ten times slower in the worst case seen."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Sweep]:
    """A sweep from its file's text."""
    from sim.sweeps.file import read_sweep

    def made(text: str, *changes: str) -> Sweep:
        (tmp_path / "s.yaml").write_text(text)
        return read_sweep(tmp_path / "s.yaml", changes)

    return made
