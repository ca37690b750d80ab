"""The journal of a search's trials, as a file: a line of JSON for everything that happened, in order.

Its beginning is a journal, too, so that one that a stop or a full disk cut off goes on without the line that was being
written.  It knows lines; it refuses to know what they mean."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

_RESULTS = b'"user_attr":'  # of a line that keeps what a trial came to


def mended(journal: Path) -> str:
    """Takes a last line away that was not written to its end, and says so; "" where there is none.

    Raises ValueError, with the way out, if another line cannot be read."""
    if not journal.exists():
        return ""
    held = journal.read_bytes()
    *lines, half = held.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError:
            way_out = f"`sed -i '{number},$d' {shlex.quote(str(journal))}` keeps what was before; or say another --out"
            raise ValueError(f"{journal}: line {number} is damaged; {way_out}") from None
    if not half:
        return ""
    os.truncate(journal, len(held) - len(half))
    return f"{journal}: its last line was not written to its end, and is left out: the trial is asked again"


def holds_trials(journal: Path) -> bool:
    """Whether any trial came to something."""
    return journal.exists() and _RESULTS in journal.read_bytes()
