"""Searches that several tests need: their files, how one is read or run, and seconds for those of layers and orders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cases import cluster, model
from optuna import Study
from typer.testing import CliRunner

from sim import Schedule, Workload, simulate
from sim.cli import app
from sim.search.file import SettingsSearch, read_search
from sim.search.layerwise import Mode
from sim.search.settings import told

ROOT = Path(__file__).parent.parent

MODES = tuple(map(Mode.parse, ("sync", "stale", "sync 1,2", "stale 2,2")))

STEPS = 7


def timed(schedule: Schedule, bytes_per_s: float = 1e9) -> float:
    """Seconds on a machine whose links and compute are about as slow."""
    machine = cluster(2, link=replace(cluster().link, bytes_per_s=bytes_per_s))
    return simulate(schedule, Workload(model(schedule), 2, 2), machine).makespan_s


SETTINGS = """
search: settings
base: {model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 3}
axes:
  schedule: [sync, interweaved]
  schedule.stride: [null, 2]
  images: {low: 4, high: 32, whole: true}
minimize: [makespan_s, mean_age_steps]
limits: ["images >= 8"]
trials: 30
"""

LAYERS = """
search: layers
base: {model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 4}
modes: [sync, stale, "sync 1,2"]
points: 3
probes: 3
"""

ORDER = """
search: order
base: {schedule: interweaved, model: S, steps: 4, cluster: 8x-rtx4090, model.layers: 4}
trials: 25
"""


def written(folder: Path, text: str) -> Path:
    (file := folder / "search.yaml").write_text(text)
    return file


def settings_search(folder: Path, text: str, *changes: str) -> SettingsSearch:
    search = read_search(written(folder, text), changes)
    assert isinstance(search, SettingsSearch)
    return search


def history(study: Study) -> list[tuple[dict[str, object], list[float] | None]]:
    return [(trial.params, trial.values) for trial in told(study)]


GRID = """
search: settings
base: {model: tiny, steps: 4, cluster: 8x-rtx4090, images: 4}
axes:
  schedule: [sync, interweaved, displaced]
  schedule.stride: [null, 2, 3]
  schedule.intervals: [null, "1,2", "2,2"]
minimize: [makespan_s, mean_age_steps]
trials: 40
"""


def searched(file: Path, out: Path, *changes: str) -> None:
    result = CliRunner().invoke(app, ["search", str(file), *changes, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output


TEXTS = {"SETTINGS": SETTINGS, "LAYERS": LAYERS, "ORDER": ORDER}

HELD = [("SETTINGS", "journal.log"), ("LAYERS", "layers-0.txt"), ("ORDER", "order.txt")]
