"""What is wrong with a file's tables, in words: pydantic's errors, and keys that nobody knows.

It knows which keys a noun has, wherever it stands in another; it refuses to know how tables are read
(sim/tables.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pydantic import ConfigDict

CLOSED: ConfigDict = {"extra": "forbid"}  # pydantic: a key that a noun does not have is an error
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")  # what pydantic calls such a key


def unknown_key(key: str, value: Any, known: Sequence[str]) -> str:
    """That nobody knows `key`, and which may be meant; tables are not spelt out."""
    found = "" if isinstance(value, Mapping) else f" ({value!r})"
    return f"unknown key{found}; {meant_by(key, known)}"


def meant_by(key: str, known: Sequence[str]) -> str:
    """The nearest of those `known`; where none is near, all."""
    near = get_close_matches(key, known, 1)
    return f"the nearest is {near[0]}" if near else f"there are {', '.join(known) or 'none here'}"


@contextmanager
def faults_told(path: Path | str, kind: Any) -> Iterator[None]:
    """What pydantic finds wrong with a `kind` becomes a ValueError, a line each that begins with `path`."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        found = [*faults(error.errors(), kind), *own_words(error.errors())]
        raise ValueError("\n".join(f"{path}: {problem}" for problem in found)) from None


def faults(errors: Any, kind: Any, meant: Mapping[str, str] | None = None) -> list[str]:
    """A line an error of pydantic's with the tables of a `kind`: dotted key, what is wrong, the value.

    `meant`: at a key where a class or something else may stand, the class that is meant, or "-Class": not that one."""
    lines = []
    for error in errors:
        where = [str(part) for part in error["loc"]]
        which = (meant or {}).get(where[0], "") if where else ""
        if which and len(where) > 1:
            if not _is_meant(where[1], which):
                continue
            del where[1]
        if error["type"] != "value_error":  # ours, of which `own_words` tells
            told = _told(error, _known(kind, where[:-1], which) if error["type"] in _UNKNOWN else ())
            lines.append(f"{'.'.join(where)}: {told}".removeprefix(": "))
    return lines


def own_words(errors: Any) -> list[str]:
    """What __post_init__ said, from pydantic's errors."""
    return [str(error["ctx"]["error"]) for error in errors if error["type"] == "value_error"]


def _told(error: Any, known: Sequence[str]) -> str:
    """What is wrong, in pydantic's words but where these are its own."""
    if error["type"] == "missing":
        return "missing"
    if error["type"] in _UNKNOWN:
        return unknown_key(str(error["loc"][-1]), error["input"], known)
    if error["type"] == "too_short":
        told = f"should be {error['ctx']['min_length']} at least, not {error['ctx']['actual_length']}"
    else:
        told = str(error["msg"])
    return f"{told} ({error['input']!r})"


def _is_meant(name: str, which: str) -> bool:
    return (name == which.removeprefix("-")) != which.startswith("-")


def _known(kind: Any, where: Sequence[str], which: str) -> list[str]:
    """The keys that the table at `where` may have, in the tables of a `kind`; `which`: as in `faults`."""
    kinds = [kind]
    for depth, part in enumerate(where):
        kinds = [inner for each in kinds for inner in _within(each, part)]
        if which and depth == 0:
            kinds = [each for each in kinds if _is_meant(getattr(each, "__name__", ""), which)]
    return [*dict.fromkeys(key for each in kinds for key in _types(each))]


def _within(kind: Any, key: str) -> Iterator[Any]:
    """What may stand at `key` of a `kind`: a field, or a value of a mapping, or an item."""
    own = _types(kind)
    values = [own[key]] if key in own else [each for each in get_args(kind) if each is not ...][-1:]
    for value in values if key in own or not own else ():
        yield from get_args(value) if get_origin(value) in (Union, UnionType) else [value]


def _types(kind: Any) -> dict[str, Any]:
    """Key -> type of a class that is written as a table; {} for what is none."""
    if hasattr(kind, "model_fields"):  # pydantic's own
        return {key: each.annotation for key, each in kind.model_fields.items()}
    if not is_dataclass(kind):
        return {}
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}
