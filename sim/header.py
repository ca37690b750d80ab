"""The header of a schedule: a name and settings, as the first line of its text says them.

It knows which settings there are and what each looks like; whether their values go together is sim/check.py's."""

from __future__ import annotations

import re
from typing import Any

from sim.op import ScheduleError
from sim.policy import Policy

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
_HEADER = re.compile(r"(?P<name>[A-Za-z][\w+.-]*)(?P<settings>(?:[ \t]+[\w-]+=\S*)+)[ \t]*")
_SETTINGS = {  # of a header -> what its value looks like
    **dict.fromkeys(("steps", "layers", "top_k", "micro_batches", "pieces"), _NUMBER),
    "experts": "sharded|replicated",
    "patches": "whole|sharded",
    "policy": r"[a-z]\w*",
    "threshold": r"[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?",
    **dict.fromkeys(("interval", "seed"), _NUMBER),
}
_POLICY = ("threshold", "interval", "seed")


def is_header(line: str) -> bool:
    """Whether `line` is a name and settings, whatever they are."""
    return _HEADER.fullmatch(line) is not None


def read_header(line: str, number: int) -> dict[str, Any]:
    """`sync steps=5 layers=3` -> {"name": "sync", "steps": 5, "layers": 3}: what Schedule takes beside the ops."""
    found = _HEADER.fullmatch(line)
    if found is None:
        raise ScheduleError(
            f"line {number}: cannot read the header\n    {line}\nit should look like: sync steps=5 layers=3 top_k=2"
        )
    texts: dict[str, str] = {}
    for setting in found["settings"].split():
        key, value = setting.split("=", 1)
        if key not in _SETTINGS or key in texts or not re.fullmatch(_SETTINGS[key], value):
            known = ", ".join(f"{k}={'N' if v == _NUMBER else v if '|' in v else '...'}" for k, v in _SETTINGS.items())
            raise ScheduleError(f"line {number}: {setting!r} in the header; it takes, once each, {known}\n    {line}")
        texts[key] = value
    if missing := {"steps", "layers"} - texts.keys():
        raise ScheduleError(f"line {number}: the header lacks {' and '.join(sorted(missing))}\n    {line}")
    values: dict[str, Any] = {key: int(text) if _SETTINGS[key] == _NUMBER else text for key, text in texts.items()}
    settings: dict[str, Any] = {key: values.pop(key) for key in _POLICY if key in values}
    if "threshold" in settings:
        settings["threshold"] = float(settings["threshold"])
    if settings and "policy" not in values:
        raise ScheduleError(
            f"line {number}: {next(iter(settings))} in the header has no effect without policy=\n    {line}"
        )
    if "policy" in values:
        values["policy"] = Policy(values["policy"], **settings)
    return {"name": found["name"], **values}
