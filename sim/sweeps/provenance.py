"""What made a part of results: which version of the program, by which command, when, where, with which libraries.

It knows names and versions; it refuses to know results."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as of
from pathlib import Path


def version() -> str:
    """The package's version and, where it is run from a repository, its commit, and what has changed since."""
    try:
        name = of("dice-sim")
    except PackageNotFoundError:
        name = "source"
    commit = _commit()
    return f"{name}+{commit}" if commit else name


def _commit() -> str:
    """Of the repository that this is run from; "" if it is installed, or there is no git."""
    home = Path(__file__).resolve().parents[2]
    said = _git(home, "rev-parse", "--show-toplevel", "HEAD")
    if len(said) < 2 or Path(said[0]).resolve() != home:
        return ""
    changed = any(_git(home, "status", "--porcelain", "--", "sim"))
    return f"{said[1][:12]}.changed-{_content(home / 'sim')}" if changed else said[1][:12]


def _git(home: Path, *words: str) -> list[str]:
    """Lines that git says; none where there is no git."""
    try:
        done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return done.stdout.splitlines()


def _content(folder: Path) -> str:
    """What the program in `folder` is known by, whatever a repository says."""
    content = blake2b(digest_size=4)
    for file in sorted(each for each in folder.rglob("*") if each.suffix in (".py", ".yaml", ".json")):
        content.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return content.hexdigest()


def this_run(command: str, *libraries: str) -> dict[str, str]:
    """What is noted of a run: command, date, machine, versions of what computes and of more `libraries`."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"command": command, "date": date, **here(), **{name: of(name) for name in libraries}}


@cache
def here() -> dict[str, str]:
    """This machine, and versions of what computes."""
    libraries = {name: of(name) for name in ("numpy", "simpy", "pyarrow")}
    return {"host": platform.node(), "system": platform.platform(terse=True),
            "python": platform.python_version(), **libraries}  # fmt: skip
