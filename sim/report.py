"""What a trace comes to, in numbers: for tables, and as JSON with units in its names.

`report(...)` is one JSON object a trace.  Names say seconds, bytes and steps (_s, _bytes, _steps), a share is of the
makespan, and axes are those of the lists:

    origin, schedule, about          what ran: "simulated" or "measured", the header, and what the trace notes of itself
    steps, layers, ranks, images     images of all ranks; null where the trace does not say
    makespan_s
    step_s [step], layer_s [step][layer]                     on the slowest rank
    exposed_communication_s [rank]   collectives under way or waited for, and nothing computed
    all_to_all_share                 of the makespan in which a D or C was under way, mean of ranks
    busy_share {stream: [rank]}
    kinds {kind: {"s", "share"}}     of the mean rank
    sent_bytes {kind: [rank]}        over links, by kind of collective; null where the workload is not known
    memory_bytes {what: bytes}       of a GPU at the moment when the fullest rank needs most (sim/memory.py); null of a
                                     trace that was measured, or where the workload is not known
    staleness {"oldest_steps" [step][layer][slot], "mean_steps" [step], "attention_steps" [step][layer] or null}
    start_up_s, decode_s             what was said of them; null: left out of what follows
    images_per_s, images_per_gpu_hour, time_to_first_image_s
    critical_path {"kinds_s", "ranks_s", "gains_s", "gains_faster_share"}   see sim/critical.py

The file knows how numbers are put together; it refuses to know how a line or a picture looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cost import computes_in
from sim.critical import critical_path, gains_s
from sim.gpu import DTYPES
from sim.memory import Reserve, memory
from sim.schedule import Schedule
from sim.trace import Trace
from sim.workload import Workload

Array = npt.NDArray[np.float64]
FASTER = 0.1  # share of time that a kind of op is thought to lose, for `gains_s`


@dataclass(frozen=True)
class Around:
    """What surrounds the sampling, in seconds, as far as it is said (None: left out, and the report says so).

    start_up_s: until the first op, once a process (loading weights, compiling).  decode_s: of one image by the VAE; a
    rank decodes its share of the images one after another, after sampling."""

    start_up_s: float | None = None
    decode_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("start_up_s", "decode_s"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} should be at least 0 and finite")


@dataclass(frozen=True)
class Throughput:
    """images: of all ranks.  per_s and per_gpu_hour: of a process that goes on, so without start-up."""

    images: int
    per_s: float
    per_gpu_hour: float
    first_image_s: float


def throughput(trace: Trace, around: Around = Around()) -> Throughput | None:  # frozen
    """Images a second and a GPU-hour, and the time to the first image; None where the trace does not say its images."""
    images = trace.about.get("images", "")
    if not images.isdecimal() or images == "0":
        return None
    every = int(trace.about.get("images_in_all", int(images) * trace.ranks))
    whole_s = trace.makespan_s + math.ceil(every / trace.ranks) * (around.decode_s or 0.0)
    first_s = (around.start_up_s or 0.0) + trace.makespan_s + (around.decode_s or 0.0)
    return Throughput(every, every / whole_s, every / trace.ranks / whole_s * 3600, first_s)


def sent_bytes(schedule: Schedule, workload: Workload) -> dict[str, Array]:
    """Kind of collective -> bytes [rank] that each rank sends over links in a run.  Token counts are left out.

    Raises ValueError if the two do not fit each other."""
    workload = workload.fits(schedule)
    found: dict[str, Array] = {}
    for op in schedule.ops:
        if op.kind in "DCK":
            found[op.kind] = found.get(op.kind, np.zeros(workload.ranks)) + workload.sent_bytes(schedule, op).sum(
                axis=1
            )
    return found


def report(trace: Trace, workload: Workload | None = None, around: Around = Around()) -> dict[str, Any]:  # frozen
    """The object that this file's docstring describes.  `workload` is what the trace ran, if it is at hand.

    Raises ValueError if trace and workload do not fit each other."""
    if workload is not None and workload.ranks != trace.ranks:
        raise ValueError(f"the workload is for {workload.ranks} ranks, the trace has {trace.ranks}")
    made, schedule, whole_s = throughput(trace, around), trace.schedule, trace.makespan_s
    sent = None if workload is None else sent_bytes(schedule, workload)
    streams = schedule.streams
    held = None
    if workload is not None and trace.origin == "simulated":
        reserve = Reserve(channels=int(trace.about.get("channels", Reserve().channels)))
        held = memory(schedule, workload, DTYPES[computes_in(workload, on_gpu=True)], reserve)
    return {
        "origin": trace.origin,
        "schedule": schedule.header,
        "about": dict(trace.about),
        "steps": schedule.steps,
        "layers": schedule.layers,
        "ranks": trace.ranks,
        "images": made and made.images,
        "makespan_s": whole_s,
        "step_s": trace.step_s.tolist(),
        "layer_s": trace.layer_s.tolist(),
        "exposed_communication_s": trace.exposed_s.tolist(),
        "all_to_all_share": float(trace.all_to_all_s.mean()) / whole_s,
        "busy_share": {stream: (trace.busy_s(stream) / whole_s).tolist() for stream in streams},
        "kinds": {kind: {"s": s, "share": share} for kind, s, share in trace.table() if len(kind) == 1},
        "sent_bytes": sent and {kind: each.tolist() for kind, each in sent.items()},
        "memory_bytes": held and {**held.bytes_of, "peak": held.peak_bytes},
        "staleness": _staleness(trace),
        "start_up_s": around.start_up_s,
        "decode_s": around.decode_s,
        "images_per_s": made and made.per_s,
        "images_per_gpu_hour": made and made.per_gpu_hour,
        "time_to_first_image_s": made and made.first_image_s,
        "critical_path": _critical(trace),
    }


def _staleness(trace: Trace) -> Mapping[str, Any]:
    gathered = trace.attention_staleness
    return {
        "oldest_steps": trace.staleness.tolist(),
        "mean_steps": trace.mean_age.tolist(),
        "attention_steps": None if gathered is None else gathered.tolist(),
    }


def _critical(trace: Trace) -> Mapping[str, Any]:
    path = critical_path(trace)
    kinds = [*dict.fromkeys(op.kind for op in trace.schedule.ops)]
    gains = gains_s(trace, [(kind, None) for kind in kinds], FASTER)
    return {
        "kinds_s": path.seconds(lambda segment: segment.kind),
        "ranks_s": {str(rank): s for rank, s in sorted(path.seconds(lambda segment: segment.rank).items())},
        "gains_s": dict(zip(kinds, gains.tolist(), strict=True)),
        "gains_faster_share": FASTER,
    }
