"""The house in order: who may import whom, what an import costs, lint, format and types."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = [room for room in ("sim", "realrun", "calibration") if (ROOT / room / "__init__.py").is_file()]
NEVER = {
    "sim": ("torch", "realrun", "calibration", "notebooks", "tests"),
    "realrun": ("calibration", "notebooks", "tests"),
    "calibration": ("notebooks", "tests"),
}
NOUNS = (
    "op",
    "policy",
    "schedule",
    "schedules",
    "load",
    "records",
    "routing",
    "workload",
    "trace",
    "vulnerability",
)  # of sim, all
# that realrun may know, beside what a command line needs; but for its one file that asks the simulation for seconds, so
# that commands which measure none can tell of them
ASKS = ("realrun.latency", ("cluster", "engine", "models"))
EMULATES = "realrun.cli_quality"  # the only file that may import that one; it runs no ranks
TOOLS = ("units", "output", "terminal", "labels")


def imports(code: str, package: str) -> Iterator[str]:
    """Dotted names of what `code`, a module of `package`, imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = ".".join(filter(None, [package if node.level else "", node.module]))
            yield from (f"{home}.{alias.name}" for alias in node.names)


def within(name: str, *modules: str) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def modules() -> list[Path]:
    return [file.relative_to(ROOT) for room in PACKAGES for file in sorted((ROOT / room).rglob("*.py"))]


def test_imports_are_found_wherever_they_hide() -> None:
    code = "import a.b as c\ndef f():\n    from torch import nn\nfrom .engine import simulate\nfrom . import cost"
    assert [*imports(code, "sim")] == ["a.b", "sim.engine.simulate", "sim.cost", "torch.nn"]
    assert within("sim.schedule.Op", "sim.schedule")
    assert not within("sim.scheduler", "sim.schedule")


@pytest.mark.parametrize("file", modules(), ids=str)
def test_nobody_imports_from_a_room_it_must_not_know(file: Path) -> None:
    room = file.parts[0]
    for name in imports((ROOT / file).read_text(), room):
        assert not within(name, *NEVER[room]), f"{file} imports {name}"
        if room == "realrun":
            check_realrun(".".join(file.with_suffix("").parts), name)


def check_realrun(module: str, name: str) -> None:
    """A measurement cannot know the prediction: what `module` of realrun imports."""
    asks = module == ASKS[0]
    if within(name, "sim"):
        known = (*NOUNS, *TOOLS, *(ASKS[1] if asks else ()))
        assert within(name, *(f"sim.{each}" for each in known)), (
            f"{module} imports {name}: it would know the prediction"
        )
    if within(name, ASKS[0]):
        assert module == EMULATES, f"{module} imports {name}: it would know the prediction"
    assert not (asks and within(name, "realrun")), f"{module} imports {name}: it might measure"
    if module == EMULATES:
        runs = ("rank", "ranks", "rank_process", "transport", "execute", "run", "verify")
        assert not within(name, *(f"realrun.{each}" for each in runs)), f"{module} imports {name}: it might measure"


def test_the_notation_needs_the_standard_library_only() -> None:
    for file in (
        "op",
        "policy",
        "header",
        "buffers",
        "check",
        "trim",
        "schedule",
        "passes",
        "compose",
        "schedules",
        "load",
    ):
        names = {name.split(".")[0] for name in imports((ROOT / "sim" / f"{file}.py").read_text(), "sim")}
        assert names <= {*sys.stdlib_module_names, "sim"}


HEAVY = {"torch", "simpy", "matplotlib", "pydantic", "numpy", "scipy", "pandas", "pyarrow", "dask", "distributed",
         "optuna", "omegaconf", "sklearn", "IPython"}  # fmt: skip


@pytest.mark.parametrize(("code", "may"), [
    ("import sim", set()),
    ("from sim import Schedule, load_schedule; load_schedule('dice', 4, 4).staleness()", set()),
    ("from sim.cli import main", set()),
    ("from sim import Trace", {"numpy"}),
    ("from sim import Cluster, Workload, MODELS", {"numpy"}),
    ("from sim import simulate", {"numpy", "simpy"}),
    ("import sim.pictures", set()),
    ("import sim.html, sim.kineto", {"numpy"}),
    ("from sim.perfetto import write_perfetto", {"numpy"}),
    ("from sim.timeline import draw_timeline", {"numpy", "matplotlib"}),
    ("from realrun.cli import main", {"numpy"}),
    ("from calibration.cli import main", set()),
])  # fmt: skip
def test_nothing_heavy_is_loaded_before_it_is_needed(code: str, may: set[str]) -> None:
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert HEAVY & {*loaded.split()} <= may


def test_drawing_needs_no_window() -> None:
    code = "import sim.timeline, sim.pictures.front, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_numbers_of_pictures_and_traces_are_within_their_limits() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "pictures.json").read_text())["rows"]
    assert {row["what"]: row["limit_s"] for row in rows} == {"import sim": 0.3, "timeline": 5.0, "trace": 3.0}
    assert max(row["spans"] for row in rows if row["what"] == "timeline") > 90_000
    for row in rows:
        assert row["best_s"] <= row["limit_s"], row


@pytest.mark.parametrize(
    "tool",
    [
        ["ruff", "check", "--quiet", "."],
        ["ruff", "format", "--check", "--quiet", "."],
        ["mypy", "--no-error-summary", *(f"--package={package}" for package in PACKAGES)],
    ],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_lint_format_and_types_are_clean(tool: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
