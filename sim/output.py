"""Files that are written whole or not at all.

It knows names and directories; it refuses to know what is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def refuse_unwritable(path: Path | str) -> None:
    """Raises OSError, with `path` in it, if no file can be put there: worth knowing before long work."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "its directory does not exist", str(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "is not a regular file and will not be replaced", str(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "is write-protected", str(path))
    probe = _beside(path)
    try:
        probe.touch()
    except OSError as error:
        raise PermissionError(errno.EACCES, f"cannot be written: {error.strerror}", str(path)) from None
    finally:
        probe.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """A name beside `path`, of the same suffix, to write to: it becomes `path` at the end, and vanishes on an error.

    Raises OSError if no file can be put there."""
    refuse_unwritable(path)
    target = Path(path).resolve()
    temporary = _beside(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
