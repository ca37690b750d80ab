"""What all command lines share: a mistake that the user can mend ends in one message on stderr and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

import typer


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None, faults: tuple[type[Exception], ...] = ()) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits.

    ValueError and OSError are mistakes that can be mended: exit code 2.  `faults` are the machine's, and say
    what happened: exit code 1.  Anything else is a fault of ours and keeps its traceback."""
    try:
        app(arguments)
    except faults as error:
        _exit(str(error), code=1)
    except OSError as error:
        _exit(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except ValueError as error:
        _exit(str(error))


def end_orderly() -> None:
    """From now on SIGTERM ends this process as Ctrl-C does: what its `with` blocks made is taken down."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _exit(message: str, code: int = 2) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(code)
