"""Candidate causes of what a prediction leaves over, each switched on alone; none of them is fitted.

With every cause the one parameter is set anew from the published share, so that a cause can only explain what the
share does not already hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from calibration.reproduction.predict import FEW_STEPS, PUBLISHED, READINGS, STEPS, Case, Prediction, predict

SAVES_NOTHING = "conditional communication saves nothing (a bound)"
STALE = ("displaced", "dice")
Tell = Callable[[str], None]


def causes(reading: str) -> Iterator[tuple[str, Case | str]]:
    """(cause, the case with it alone; or why it changes nothing)."""
    base = Case(READINGS[reading])
    yield "none", base
    if reading == "as intended":
        yield "count exchange, and the host waits", base.asking("counts=blocking")
        yield "wasted re-runs after a forced step", base.asking("released=reruns", STALE)
        released = base.asking("released=conditional", ("dice",))
        yield "conditional communication as released", released
    else:
        yield "counts on a communicator of their own", base.asking("communicators=N+DC")
    yield "one all-to-all per local expert", "no effect: XL has one expert a rank on 8 ranks"
    yield "masks and copies of conditional communication", replace(base, masks=True)
    yield SAVES_NOTHING, replace(base, schedules={**base.schedules, "dice": _UNCONDITIONAL[reading]})
    for steps in (2, 4):
        yield f"warm-up of {steps} more steps", base.asking(f"warm_up={steps}", STALE)
    for seconds in (1.0, 3.0):
        yield f"{seconds:g} s beside the steps in every run", replace(base, fixed_s=seconds)
    for images in (4, 16):
        yield f"{images} images a rank", replace(base, images={STEPS: images, FEW_STEPS: images})
    for name, changed in _DOUBTS.items():
        yield name, replace(base, doubt=replace(base.doubt, **changed))


_UNCONDITIONAL = {
    "as intended": "interweaved synchronous=deep",
    "as released": "interweaved synchronous=deep counts=blocking released=reruns",
}
_DOUBTS: dict[str, dict[str, Any]] = {
    "no interference": {"slow_compute": 0.0, "slow_transfer": 0.0},
    "interference of 19 % either way": {"slow_compute": 0.19, "slow_transfer": 0.19},
    "interference of 40 % either way": {"slow_compute": 0.4, "slow_transfer": 0.4},
    "half of an all-to-all's time does not depend on bytes": {"unscaled": 0.5},
    "products at 0.6 of their rates": {"compute": 0.6},
    "attention at 0.2 of the peak": {"attention_share": 0.2},
    "four bytes an element on the wire": {"wire": "float32"},
    "launches of 15 us": {"launch_s": 1.5e-5},
    "jitter of 5 %": {"jitter": 0.05},
    "imbalance of 1.3": {"imbalance": 1.3},
    "share counts waits (jitter of 5 %)": {"jitter": 0.05, "share_waits": True},
}


def found(reading: str, tell: Tell) -> list[dict[str, Any]]:
    """A row a cause: what it leaves of each published number."""
    rows = []
    for cause, case in causes(reading):
        tell(f"{reading}: {cause}")
        rows.append({"cause": cause, **({"why": case} if isinstance(case, str) else _row(predict(case)))})
    return rows


def _row(made: Prediction) -> Mapping[str, Any]:
    return {
        "factor": round(made.factor, 4),
        "share": round(made.share, 4),
        "speed_up": [round(made.speed_up(each), 4) for each in PUBLISHED],
        "residual": [round(made.residual(each), 4) for each in PUBLISHED],
        "closing_s": [None if (s := made.fixed_s(each)) is None else round(s, 2) for each in PUBLISHED],
        "sync_s": round(made.makespan_s[f"sync, {STEPS} steps"], 3),
    }
