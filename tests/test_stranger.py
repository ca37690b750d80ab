"""A stranger, given sim/schedule.py alone, writes a new schedule in a file of his own: it prints, checks, simulates and
runs, without an edit to the package; and what he gets wrong is drawn."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.load import load_schedule
from sim.trace import Trace

ROOT = Path(__file__).parent.parent
MINE = '''"""Every second layer runs its experts on the rows of a step ago: only the dispatch has slack."""


def half_displaced(steps: int, layers: int, *, every: int = 2) -> str:
    rows = [f"half_displaced steps={steps} layers={layers} top_k=2"]
    for s in range(steps):
        cells = []
        for l in range(layers):
            if s == 0 or l % every:
                cells.append(f"A{s}.{l} D{s}.{l} S{s}.{l} E{s}.{l} C{s}.{l} R{s}.{l}<{s}")
            else:
                sent = f"D{s}.{l}" if s < steps - 1 else ""  # nobody reads what the last step would send
                again = f"E{s - 1}.{l} C{s - 1}.{l}" if s > 1 else ""  # step 0 was synchronous
                cells.append(f"A{s}.{l} {sent} S{s}.{l} {again} R{s}.{l}<{s - 1}")
        rows.append(f"P{s} {' '.join(cells)} F{s} Z{s}")
    return "\\n".join(rows)
'''
SIZE = ["--steps", "4"]
CLUSTER = str(ROOT / "calibration" / "data" / "cpu-2-ranks" / "cluster-15MB-per-s.yaml")


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in a folder that has nothing but the stranger's file."""
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=100,
                          check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


def works(folder: Path, *words: str) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_it_prints_and_what_it_prints_is_a_schedule_again(folder: Path) -> None:
    text = works(folder, "sim", "show", "mine.py:half_displaced", *SIZE, "--layers", "4")
    assert "# oldest: 1 of 4 steps" in text
    (folder / "printed.txt").write_text(text)
    function, printed = (works(folder, "sim", "check", *source) for source in (
        ["mine.py:half_displaced", *SIZE, "--layers", "4"], ["printed.txt"]))  # fmt: skip
    assert function.split(":", 2)[2] == printed.split(":", 1)[1]
    ages = load_schedule(str(folder / "mine.py"), 4, 4).staleness()
    assert [[slots[0] for slots in layers] for layers in ages] == [[0, 0, 0, 0], *[[1, 0, 1, 0]] * 3]


def test_a_mistake_of_his_is_drawn(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE.replace('if s < steps - 1 else ""', 'if True else ""'))
    done = command(folder, "sim", "check", "mine.py:half_displaced", *SIZE, "--layers", "4")
    assert done.returncode == 2
    assert "D3.0" in done.stderr
    assert "<-- " in done.stderr


def test_it_simulates_and_really_runs_the_same_ops_with_the_same_ages(folder: Path) -> None:
    told = works(folder, "sim", "simulate", "sync", "mine.py:half_displaced", *SIZE, "--model", "tiny", "--images", "2",
                 "--wire", "float32", "--cluster", CLUSTER, "--save", "{}.trace", "--picture", "both.png")  # fmt: skip
    assert "half_displaced" in told
    told = works(
        folder, "realrun", "mine.py:half_displaced", *SIZE, "--images", "2", "--verify", "--save", "real.trace"
    )
    assert float(told.rsplit(":", 1)[1]) < 1e-5, "largest difference from one process without communication"
    simulated, real = Trace.load(folder / "half_displaced.trace"), Trace.load(folder / "real.trace")
    assert simulated.schedule == real.schedule
    assert (simulated.staleness == real.staleness).all()
    for stream in real.schedule.streams:
        assert simulated.order(1, stream) == real.order(1, stream)
    assert simulated.makespan_s < Trace.load(folder / "sync.trace").makespan_s


def test_settings_work_on_it_as_on_a_named_one(folder: Path) -> None:
    settings = ["every=3", "conditional=low", "micro_batches=2"]
    text = works(folder, "sim", "show", "mine.py:half_displaced", *settings, *SIZE, "--layers", "4", "--text")
    assert text.startswith("half_displaced+low+micro_batches2 steps=4 layers=4 top_k=2 micro_batches=2\n")
    assert "D1.0a:0" in text or "D1.1a:0" in text, "slot 1 travels every second step only"
