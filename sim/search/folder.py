"""The folder of a search: whose it is, that nothing else lies there, and that one process at a time writes to it.

    _search.json     what the search is known by, the version of the program, and of every run of it: command, date,
                     machine, libraries

It knows whom a folder belongs to; it refuses to know what a search puts there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.output import owned_folder, whole_file

if TYPE_CHECKING:
    from sim.search.file import Search

STATE = "_search.json"


def digest(search: Search) -> str:
    """What a search is known by, contents of its files included; with more trials it is the same one."""
    said: list[object] = [type(search).__name__]
    counts = b""
    for name, value in vars(search).items():
        if name == "sweep":
            said.append(value.digest)
        elif name == "start":
            said += [str(value.schedule), value.workload, value.cluster]
            counts = b"" if value.workload.routing is None else value.workload.routing.counts.tobytes()
        elif name != "trials":
            said.append((name, value))
    return hashlib.blake2b(repr(said).encode() + counts, digest_size=8).hexdigest()


@contextmanager
def opened(
    folder: Path, made: Mapping[str, str], run: Mapping[str, Any], found: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """The folder of a search, new or begun earlier, for this process alone.

    made: what the search is known by, and version, which must be those of what is there; run: what is noted of this
    run; found: whether there is anything to go on with, without which a new folder does not outlive a failure.  Raises
    ValueError, and changes nothing, where the folder belongs to something else or to another process."""
    with owned_folder(folder, STATE, "search", keeps=found):
        runs = _earlier_runs(folder, made)
        with whole_file(folder / STATE) as part:
            part.write_text(json.dumps({**made, "runs": [*runs, run]}, indent=1) + "\n")
        yield


def command_there(folder: Path) -> str | None:
    """The command that searched last in this folder; None if it is no search's."""
    return str(_state(folder)["runs"][-1]["command"]) if (folder / STATE).exists() else None


def _earlier_runs(folder: Path, made: Mapping[str, str]) -> list[Any]:
    if not (folder / STATE).exists():
        return []
    held = _state(folder)
    for key, what in (("search", "another search"), ("version", "a search by another version")):
        if (there := held.get(key, "unknown")) != made[key]:
            told = f"{there}, not {made[key]}"
            raise ValueError(f"{folder} holds {what} ({told}); say another --out: nothing was changed")
    return list(held["runs"])


def _state(folder: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads((folder / STATE).read_text())
        _ = held["search"], held["runs"][-1]["command"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(f"{folder / STATE}: is not what a search writes ({error}); say another --out") from None
    return held
