"""Profiles of a real run (torch.profiler's Chrome JSON, one file a rank), read back into a Trace.

An op's span is its range `EP:D3.1`: on a GPU that of its kernels, on a processor that of the thread.  What the file
says of its run (schedule, measured ages) is taken from there; profiles of other programs, whose ranges are labelled
alike, need the schedule from elsewhere, and have its ages.  Clocks of the ranks must be one clock, as those of one
machine are.  The file knows ranges; it refuses to know what else a profile holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from sim.labels import LABEL, RUN_KEY
from sim.schedule import Schedule
from sim.trace import Trace

Array = npt.NDArray[np.float64]
_ON_GPU, _ON_HOST = "gpu_user_annotation", "user_annotation"
_SECONDS = 1e-6  # of the unit of `ts` and `dur`


class _Profile(NamedTuple):
    """One file: what it says of its run, and name of an op -> (begin, end) of its ranges in seconds since 1970."""

    path: Path
    about: Mapping[str, Any]
    spans: Mapping[str, Sequence[tuple[float, float]]]


def profile_files(folder: Path | str) -> list[Path]:
    """The files in which a real run has left a rank's profile each, in order of ranks."""
    found = sorted(Path(folder).glob("rank*.json"), key=lambda path: (len(path.stem), path.stem))
    if not found:
        raise ValueError(f"{folder} has no profiles: files rank0.json, rank1.json, ... of a run with --profile")
    return found


def read_profiles(paths: Sequence[Path | str], schedule: Schedule | None = None) -> Trace:
    """The measured Trace of a run, from the profile of each of its ranks in order of ranks.

    schedule: what ran, if the profiles do not say so themselves.  Raises ValueError for a file that is no profile, an
    op that has no range or several, ranks that are missing or ran different schedules, or a schedule given in vain."""
    profiles = [_read(Path(path)) for path in paths]
    plan = _schedule(profiles, schedule)
    said = [int(profile.about.get("rank", rank)) for rank, profile in enumerate(profiles)]
    world = int(profiles[0].about.get("world", len(profiles)))
    if said != [*range(world)]:
        raise ValueError(f"profiles of ranks {', '.join(map(str, said))} of a run with {world}: one of each is needed")
    spans = np.array([_of_ops(profile, plan) for profile in profiles])  # [rank, op, 2]
    spans -= spans.min()
    reached, end = spans[..., 0], spans[..., 1]
    start = np.where(plan.on_communication, np.minimum(reached.max(axis=0), end), reached)
    about = {**profiles[0].about.get("about", {}), "read from": "profiles of torch.profiler"}
    return Trace(plan, "measured", reached, start, end, about=about, **_ages(profiles, plan))


def _read(path: Path) -> _Profile:
    try:
        data = json.loads(path.read_text())
        events, base_s = data["traceEvents"], float(data.get("baseTimeNanoseconds", 0)) * 1e-9
        found: dict[str, dict[str, list[tuple[float, float]]]] = {_ON_GPU: {}, _ON_HOST: {}}
        for event in events:
            if event.get("ph") == "X" and str(event.get("name", "")).startswith(LABEL) and event.get("cat") in found:
                begin = base_s + event["ts"] * _SECONDS
                name = event["name"].removeprefix(LABEL)
                found[event["cat"]].setdefault(name, []).append((begin, begin + event["dur"] * _SECONDS))
        about = json.loads(unquote(data.get(RUN_KEY, "{}")))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no profile of torch.profiler (Chrome JSON): {error!r}") from None
    return _Profile(path, about, {**found[_ON_HOST], **found[_ON_GPU]})


def _schedule(profiles: Sequence[_Profile], given: Schedule | None) -> Schedule:
    texts = {profile.about.get("schedule") for profile in profiles}
    if len(texts) != 1:
        raise ValueError(f"not one run: {len(texts)} schedules in {', '.join(str(p.path) for p in profiles) or 'none'}")
    text, path = texts.pop(), profiles[0].path
    if text is None:
        if given is None:
            raise ValueError(f"{path} does not say which schedule ran; say it")
        return given.check()
    if given is not None and str(given) != text:
        raise ValueError(f"{path} is of another schedule:\n{text.splitlines()[0]}, not\n{given.header}")
    return Schedule.parse(text).check()


def _of_ops(profile: _Profile, schedule: Schedule) -> Array:
    """[op, (begin, end)]"""
    found = [profile.spans.get(op.name, ()) for op in schedule.ops]
    for op, ranges in zip(schedule.ops, found, strict=True):
        if len(ranges) != 1:
            wrong = sum(len(each) != 1 for each in found)
            told = f"{len(ranges)} ranges {LABEL}{op.name} ({wrong} of {len(found)} ops have not one)"
            raise ValueError(f"{profile.path} has {told}")
    return np.array([ranges[0] for ranges in found])


def _ages(profiles: Sequence[_Profile], schedule: Schedule) -> dict[str, Any]:
    """Ages as measured, over all ranks; else those that the schedule has."""
    if all("staleness" in profile.about for profile in profiles):
        each = {key: [np.array(p.about[key], dtype=np.int64) for p in profiles]
                for key in ("staleness", "ages", "attention_staleness")}  # fmt: skip
        found: dict[str, Any] = {key: np.max(arrays, axis=0) for key, arrays in each.items()}
        found["ages"] = np.sum(each["ages"], axis=0)
    elif schedule.policy is not None:
        raise ValueError(f"{schedule.name} has a policy, and the profiles do not say what it picked")
    else:
        found = {"staleness": np.array(schedule.staleness()), "ages": None,
                 "attention_staleness": np.array(schedule.attention_staleness())}  # fmt: skip
    found["ages"] = found["ages"] if schedule.policy is not None else None
    found["attention_staleness"] = found["attention_staleness"] if schedule.sharded_patches else None
    return found
