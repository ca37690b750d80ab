"""The reference is what the docstrings say, of every public name; the picture of the rooms is what the imports say."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from matplotlib.patches import FancyArrowPatch
from test_house import PACKAGES, imports, within

from sim.cli import main
from sim.pictures.rooms import draw_rooms
from sim.reference import Module, module, modules, reference, signature

ROOT = Path(__file__).parent.parent
MODULES = modules()


def test_every_file_is_there() -> None:
    files = {path.relative_to(ROOT) for room in PACKAGES for path in (ROOT / room).rglob("*.py")}
    assert {each.path.relative_to(ROOT) for each in MODULES} == files


@pytest.mark.parametrize("each", MODULES, ids=lambda each: each.name)
def test_every_file_says_what_it_knows_and_every_public_name_what_it_is(each: Module) -> None:
    assert len(each.summary) > 15, f"{each.name} has no docstring"
    text = reference(each)
    for node in each.public:
        said = ast.get_docstring(node)
        given = isinstance(node, ast.ClassDef) or any(ast.unparse(d).startswith("app.") for d in node.decorator_list)
        assert said or given or "typer.Argument" in ast.unparse(node), f"{each.name}.{node.name} has no docstring"
        assert f"### {signature(node)}" in text
        assert not said or said in text


def test_signatures_are_those_of_python() -> None:
    for name in ("sim.trace", "sim.report", "sim.pictures.style"):
        made = importlib.import_module(name)
        for node in module(name).public:
            if isinstance(node, ast.FunctionDef):
                assert signature(node).startswith(node.name + "(")
                names = [*inspect.signature(getattr(made, node.name)).parameters]
                assert names == [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]


def test_the_rooms_arrows_are_the_imports_between_rooms() -> None:
    figure = draw_rooms(MODULES)
    want = set()
    for each in MODULES:
        room = each.name.split(".")[0]
        for other in PACKAGES:
            if other != room and any(within(name, other) for name in imports(each.path.read_text(), room)):
                want.add((room, other))
    [axes] = figure.axes
    assert len([patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]) == len(want) == 3
    said = " ".join(text.get_text() for text in axes.texts)
    for each in MODULES:
        assert "." not in each.name or each.name.endswith("__main__") or each.name.split(".", 1)[1] in said


def test_rooms_that_import_each_other_have_no_order(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import two.b")
    (tmp_path / "b.py").write_text("import one.a")
    with pytest.raises(ValueError, match="one and two import each other"):
        draw_rooms([Module("one.a", tmp_path / "a.py"), Module("two.b", tmp_path / "b.py")])


def test_what_only_types_need_is_no_import(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import two.b\nimport three"
    )
    assert Module("one.a", tmp_path / "a.py").imports == {"typing", "typing.TYPE_CHECKING", "three"}


@pytest.mark.parametrize(("words", "code", "said"), [
    (["reference"], 0, "sim.trace"),
    (["reference", "sim.trace"], 0, "### class Trace"),
    (["reference", "sim.nothing"], 2, "no module is called sim.nothing; there are sim, "),
    (["reference", "sim.trace", "--html", "a.html"], 2, "leave out the name of one"),
    (["reference", "--html", "a.html", "--rooms", "rooms.svg"], 0, ""),
])  # fmt: skip
def test_the_command(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())
    assert len([*tmp_path.iterdir()]) == (2 if "--rooms" in words else 0)
