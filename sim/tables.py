"""Tables as YAML files hold them: read once a key, and in SI.

It knows dotted keys ("link.latency_s") and units; it refuses to know what a table is about, and what is wrong with it
(sim/faults.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sim.units import quantity, units_of


def read_table(path: Path | str) -> Any:
    """What a YAML file holds.  Raises ValueError with the path if it is none, or has a key twice; OSError."""
    try:
        return yaml.load(Path(path).read_text(), _OnceOnly) or {}
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from None


def table_text(tables: Mapping[str, Any]) -> str:
    """YAML that `read_table` reads; a list of numbers is a line."""
    text: str = yaml.dump(tables, Dumper=_Lines, sort_keys=False, width=110, allow_unicode=True)
    return text


def table(tables: Any, key: str) -> Mapping[str, Any] | None:
    """The table at the dotted `key`, if there is one."""
    for name in key.split("."):
        tables = tables.get(name) if isinstance(tables, Mapping) else None
    return tables if isinstance(tables, Mapping) else None


def numbers(value: Any, key: str = "") -> dict[str, float]:
    """{"link.latency_s": 1e-5, ...}: every number, by dotted key; those in lists are left out."""
    if isinstance(value, Mapping):
        return {k: v for name, inner in value.items() for k, v in numbers(inner, f"{key}.{name}".strip(".")).items()}
    return {key: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def number_or_none(key: object) -> float | None:
    """The number that a key of a mapping is, if it is one: YAML's may be text."""
    try:
        return float(str(key))
    except ValueError:
        return None


def in_si(value: Any, key: str, problems: list[str]) -> Any:
    """`value` with every text of number and unit turned into SI, by the suffix of its key; `problems` gets the rest.

    What `sources` says of a number stays as it is."""
    if isinstance(value, dict) and key.rsplit(".", 1)[-1] == "sources":
        return value
    if isinstance(value, dict):
        return {str(name): in_si(inner, f"{key}.{name}".strip("."), problems) for name, inner in value.items()}
    try:
        return quantity(key, value) if units_of(key) else value
    except ValueError as error:
        problems.append(str(error))
        return 1.0  # stands in, so that the rest can be looked at


class _Lines(yaml.SafeDumper):
    """YAML with keys below one another, and the innermost lists on one line."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        innermost = not any(isinstance(each, list | tuple | dict) for each in sequence)
        return super().represent_sequence(tag, sequence, flow_style=innermost)

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _OnceOnly(yaml.SafeLoader):
    """YAML in which a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", node.value[i][0].start_mark)
        return super().construct_mapping(node, deep)
