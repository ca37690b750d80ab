"""What made a part of results: which version of the program, where, with which libraries.

It knows names and versions; it refuses to know results."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as of
from pathlib import Path


def version() -> str:
    """The package's version and, where it is run from a repository, its commit."""
    try:
        name = of("dice-sim")
    except PackageNotFoundError:
        name = "source"
    commit = _commit()
    return f"{name}+{commit}" if commit else name


def _commit() -> str:
    """Of the repository that this is run from; "" if it is installed, or there is no git."""
    home = Path(__file__).resolve().parents[2]
    words = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        said = subprocess.run(words, cwd=home, capture_output=True, text=True, check=False).stdout.split("\n")
    except OSError:
        return ""
    return said[1][:12] if len(said) > 1 and Path(said[0]).resolve() == home else ""


@cache
def here() -> dict[str, str]:
    """This machine, and versions of what computes."""
    libraries = {name: of(name) for name in ("numpy", "simpy", "pyarrow")}
    return {"host": platform.node(), "system": platform.platform(terse=True),
            "python": platform.python_version(), **libraries}  # fmt: skip
