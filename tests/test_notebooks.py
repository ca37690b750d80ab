"""Notebooks: paired, with outputs kept, executed, and without a definition of their own."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
BOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SLOW = {"03_calibrate", "05_images"}  # minutes: `make notebooks` executes them
LARGEST_BYTES = 600_000


def cells(path: Path, kind: str) -> list[str]:
    """Sources of the cells of one kind, in a .py or an .ipynb."""
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == kind]


def code(path: Path) -> str:
    """The code of a notebook, without magics."""
    lines = "\n".join(cells(path, "code")).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("%", "!", "# %")))


def outputs(book: Any) -> list[Any]:
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_notebooks_define_nothing(path: Path) -> None:
    defining = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    found = [node.lineno for node in ast.walk(ast.parse(code(path))) if isinstance(node, defining)]
    assert not found, f"{path.name} defines something in line {found} of its code: it belongs into the package"
    assert "matplotlib" not in code(path), "what is drawn is a call of the package"


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_pairs_are_the_same_and_outputs_are_kept_and_small(path: Path) -> None:
    pair = path.with_suffix(".ipynb")
    for kind in ("code", "markdown"):
        assert cells(path, kind) == cells(pair, kind)
    book = nbformat.read(pair, as_version=4)
    assert outputs(book), "no outputs: `make notebooks` keeps them"
    assert not [output for output in outputs(book) if output.output_type == "error"]
    assert [cell.execution_count for cell in book.cells if cell.cell_type == "code"] == [
        *range(1, len(cells(path, "code")) + 1)
    ], "executed from top to bottom"
    assert pair.stat().st_size < LARGEST_BYTES
    assert "/home/" not in pair.read_text()


def test_every_book_is_linked_from_another_or_the_index() -> None:
    said = (ROOT / "docs" / "README.md").read_text()
    for path in BOOKS:
        assert f"notebooks/{path.stem}.ipynb" in said


@pytest.mark.parametrize("path", [path for path in BOOKS if path.stem not in SLOW], ids=lambda path: path.stem)
def test_quick_notebooks_run(path: Path, tmp_path: Path) -> None:
    words = [
        "--quiet",
        "--to",
        "ipynb",
        "--execute",
        "--run-path",
        str(path.parent),
        "--output",
        str(tmp_path / "made.ipynb"),
        str(path),
    ]
    done = subprocess.run([sys.executable, "-m", "jupytext", *words], capture_output=True, text=True, check=False,
                          timeout=110, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    made, kept = (nbformat.read(p, as_version=4) for p in (tmp_path / "made.ipynb", path.with_suffix(".ipynb")))
    assert [o.output_type for o in outputs(made)] == [o.output_type for o in outputs(kept)]
    assert not [output for output in outputs(made) if output.output_type == "error"]


def test_a_definition_would_be_found() -> None:
    assert any(isinstance(node, ast.Lambda) for node in ast.walk(ast.parse("x = sorted(y, key=lambda z: z)")))
