"""Two traces of one schedule, joined op by op: how far a prediction was off, level by level.

Errors cancel end to end, so a run that is right in all can be wrong in each part: read every level.  An error is
predicted over measured, minus 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.schedule import COLLECTIVES
from sim.trace import Trace

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One comparison: seconds predicted and measured, of one thing at one level."""

    level: str  # "run", "step", "layer", "op" or "collective"
    key: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Signed and relative: +0.1 says that the prediction was 10 % too long; nan where nothing was measured."""
        return self.predicted_s / self.measured_s - 1 if self.measured_s else float("nan")


def compare(predicted: Trace, measured: Trace) -> list[Row]:
    """Rows for the whole run, every step, every layer and every kind of op or collective.

    run: makespan.  step: from one solver step to the next.  layer: from the residual add of the layer before to its
    own, waits included, mean over steps and ranks.  op, collective: seconds of all of a kind on a rank, collectives
    from when the last rank reached them.  Raises ValueError if the traces are not of the same schedule and ranks."""
    if str(predicted.schedule) != str(measured.schedule) or predicted.ranks != measured.ranks:
        raise ValueError(
            f"cannot compare {predicted.schedule.header} on {predicted.ranks} ranks "
            f"with {measured.schedule.header} on {measured.ranks} ranks: not the same ops"
        )
    pairs: list[tuple[str, dict[str, float], dict[str, float]]] = [
        (level, seconds(predicted), seconds(measured))
        for level, seconds in [("run", _run_s), ("step", _step_s), ("layer", _layer_s), ("", _kind_s)]
    ]
    return [Row(level or _level_of(key), key, p[key], m[key]) for level, p, m in pairs for key in p]


def _level_of(kind: str) -> str:
    return "collective" if kind in COLLECTIVES else "op"


def _run_s(trace: Trace) -> dict[str, float]:
    return {"makespan": trace.makespan_s}


def _step_s(trace: Trace) -> dict[str, float]:
    return {str(step): float(seconds) for step, seconds in enumerate(trace.step_s)}


def _layer_s(trace: Trace) -> dict[str, float]:
    """Mean seconds by which each layer moves the last of its micro-batches on."""
    schedule = trace.schedule
    ends = np.empty((schedule.steps, schedule.layers + 1, trace.ranks))
    for step in range(schedule.steps):
        ends[step, 0] = trace.end_s[:, schedule.position[f"P{step}"]]
        for layer in range(schedule.layers):
            adds = [schedule.position[f"R{step}.{layer}{part}"] for part in schedule.parts]
            ends[step, layer + 1] = trace.end_s[:, adds].max(axis=1)
    mean = np.diff(ends, axis=1).mean(axis=(0, 2))
    return {str(layer): float(seconds) for layer, seconds in enumerate(mean)}


def _kind_s(trace: Trace) -> dict[str, float]:
    spans = trace.end_s - trace.start_s
    kinds = np.array([op.kind for op in trace.schedule.ops])
    return {str(kind): float(spans[:, kinds == kind].sum() / trace.ranks) for kind in dict.fromkeys(kinds)}
