"""Files that are written whole or not at all, and folders that belong to one kind of results and one process.

It knows names and directories; it refuses to know what is written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LOCK = "_lock"  # of a folder of results


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


def refuse_strangers(folder: Path, known_by: str, whose: str, but: Collection[str] = ()) -> None:
    """Raises ValueError if `folder` is no folder, or holds files, but `but`, and none called `known_by`: the results
    of a `whose` are not put beside anything else."""
    if not folder.exists() or (folder / known_by).exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    names = [name for name in sorted(os.listdir(folder)) if name not in but and not name.startswith(".")]
    if names:
        raise ValueError(f"{folder} holds {names[0]}, and no {whose}: nothing is put beside it; say another --out")


@contextmanager
def owned_folder(folder: Path, known_by: str, whose: str, keeps: Callable[[], bool]) -> Iterator[None]:
    """`folder`, new or begun earlier, for this process alone; a new one does not outlive a failure that leaves nothing
    in it which `keeps` it.

    Raises ValueError, and changes nothing, where it holds anything but the results of a `whose`, which the file
    `known_by` marks, or where another process has it."""
    import fcntl  # which not every system has that writes files

    refuse_strangers(folder, known_by, whose, but=(LOCK,))
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{folder}: another process is writing there") from None
        try:
            yield
        except BaseException:
            if new and not keeps():
                shutil.rmtree(folder)
            raise


def refuse_existing(path: Path) -> None:
    """Raises ValueError if there is a `path`: what somebody keeps is not written over."""
    if path.exists():
        raise ValueError(f"{path}: is there already, and is not written over; give another name, or remove it first")


def write_new(texts: Mapping[Path, str]) -> set[Path]:
    """Writes texts into new files, of which those that hold the same already stay; returns those that it wrote.

    Raises ValueError, and writes nothing, if one of them holds anything else; OSError if it cannot be read."""
    there = {path for path in texts if path.exists()}
    if others := [str(path) for path in texts if path in there and path.read_bytes() != texts[path].encode()]:
        told = f"{others[0]}{f' and {len(others) - 1} more' if len(others) > 1 else ''}"
        raise ValueError(f"{told}: there already, with other contents; nothing was written: give another folder")
    for path, text in texts.items():
        if path not in there:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as part:
                part.write_text(text)
    return {*texts} - there


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
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None  # a full disk, say: whose file?
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
