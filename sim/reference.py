"""The reference: what every file of the package knows, and its public names, read from the source.

Nothing is imported but the text, so that a room whose packages are missing is described too.  A module's first
docstring says what it knows; public are the names without an underscore that it defines.  The file knows docstrings and
imports; it refuses to know what they are about."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

ROOMS = ("sim", "realrun", "calibration")
_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Module:
    """One file."""

    name: str  # dotted
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """What it says."""
        return ast.parse(self.path.read_text())

    @property
    def docstring(self) -> str:
        """What it knows, and refuses to know; "" if it does not say."""
        return ast.get_docstring(self.tree) or ""

    @property
    def summary(self) -> str:
        """The first sentence of that."""
        return " ".join(self.docstring.split("\n\n")[0].split()).split(".  ")[0].rstrip(".:?") + "."

    @property
    def public(self) -> list[_Def]:
        """Functions and classes for others, in order."""
        return [node for node in self.tree.body if isinstance(node, _Def) and not node.name.startswith("_")]

    @cached_property
    def imports(self) -> frozenset[str]:
        """Dotted names of what it imports when it runs, in functions too; what only types need is left out."""
        found: set[str] = set()
        typing = {id(each) for node in ast.walk(self.tree) if _for_types(node) for each in ast.walk(node)}
        for node in ast.walk(self.tree):
            if id(node) in typing:
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        return frozenset(found)


def modules(rooms: Sequence[str] = ROOMS) -> list[Module]:
    """All files of the rooms that are installed, by name."""
    found = []
    for room in rooms:
        spec = find_spec(room)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            home = Path(place)
            for path in sorted(home.rglob("*.py")):
                parts = path.relative_to(home.parent).with_suffix("").parts
                found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def module(name: str) -> Module:
    """The file of that dotted name.  Raises ValueError that lists those of its room if there is none."""
    every = {each.name: each for each in modules()}
    if name not in every:
        near = [each for each in every if each.split(".")[0] == name.split(".")[0]] or [*ROOMS]
        raise ValueError(f"no module is called {name}; there are {', '.join(near)}")
    return every[name]


def listed(found: Sequence[Module]) -> list[list[str]]:
    """Rows of a module and its first sentence."""
    return [[each.name, each.summary] for each in found]


def reference(found: Module) -> str:
    """Docstrings and public names of one module, as Markdown."""
    parts = [f"## {found.name}", found.docstring]
    for node in found.public:
        parts += [f"### {signature(node)}", ast.get_docstring(node) or ""]
        if isinstance(node, ast.ClassDef):
            parts += [f"- `{signature(each)}`: {_one_line(each)}" for each in _methods(node)]
    return "\n\n".join(part for part in parts if part) + "\n"


def signature(node: _Def) -> str:
    """`name(arguments) -> result`, or of a class `class name(bases)`."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}" + (f"({bases})" if bases else "")
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){result}"


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_"):
            yield each


def _one_line(node: _Def) -> str:
    return " ".join((ast.get_docstring(node) or "").split())
