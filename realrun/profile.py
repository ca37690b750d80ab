"""A real run under torch.profiler: ranges with the schedule's own words, and one Chrome JSON (Kineto) a rank.

Every op has a range `EP:D3.1` on the thread of its stream; the file says whose run it was (schedule, rank, measured
ages), so that sim/kineto.py can read it back into a Trace.  It knows torch.profiler; it refuses to know what runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile, record_function

from sim.labels import LABEL, RUN_KEY
from sim.output import whole_file


def labelled(name: str) -> record_function:
    """A range for the op called `name` on the thread that enters it; a few microseconds, less without a profiler."""
    return record_function(f"{LABEL}{name}")


@contextmanager
def profiled(path: Path | None) -> Iterator[dict[str, Any]]:
    """Profiles what is inside, on all threads of the process, and writes `path`; nothing at all if that is None.

    What is put into the dictionary that it yields (JSON) stands in the file."""
    about: dict[str, Any] = {}
    if path is None:
        yield about
        return
    everything = _ExperimentalConfig(profile_all_threads=True)  # streams are threads of their own
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, experimental_config=everything) as running:
        yield about
        text = quote(json.dumps(about))  # Kineto would turn a backslash into a slash
        running.add_metadata_json(RUN_KEY, json.dumps(text))
    with whole_file(path) as temporary:
        running.export_chrome_trace(str(temporary))


def profile_path(folder: Path | str, rank: int) -> Path:
    """Where the profile of a rank goes."""
    return Path(folder) / f"rank{rank}.json"
