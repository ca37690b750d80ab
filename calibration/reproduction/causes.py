"""Candidate causes of what a prediction leaves over, each switched on alone; none of them is fitted.

Makespans come from the vectorised engines: within a millionth of the simulation, within 0.3 % where ranks differ.

With every cause the one parameter is set anew from the published share, so that a cause can only explain what the
share does not already hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from calibration.reproduction.predict import (
    FEW_STEPS,
    PUBLISHED,
    READINGS,
    STEPS,
    Case,
    Prediction,
    predict,
    predict_many,
)

SAVES_NOTHING = "conditional communication saves nothing (a bound)"
STALE = ("displaced", "dice")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Cause:
    """change: what it makes of a case; None if it changes nothing, for the reason `why`.  about: what it is a value
    of; two causes about one thing contradict each other."""

    name: str
    about: frozenset[str]
    change: Callable[[Case], Case] | None = None
    why: str = ""


def causes(reading: str) -> Iterator[Cause]:
    """Each candidate; none of them is in the base case, READINGS[reading]."""
    yield from _of_code(reading)
    yield Cause("one all-to-all per local expert", frozenset(), None, "no effect: XL has one expert a rank on 8 ranks")
    yield _cause("masks and copies of conditional communication", "masks", masks=True)
    yield Cause(SAVES_NOTHING, frozenset({"conditional", "masks"}), partial(_saving_nothing, reading))
    for steps in (2, 4):
        yield _asking(f"warm-up of {steps} more steps", f"warm_up={steps}", STALE)
    for seconds in (1.0, 3.0):
        yield _cause(f"{seconds:g} s beside the steps in every run", "fixed_s", fixed_s=seconds)
    for images in (4, 16):
        yield _cause(f"{images} images a rank", "images", images={STEPS: images, FEW_STEPS: images})
    for name, changed in _DOUBTS.items():
        yield Cause(name, frozenset(changed), partial(_doubting, changed))


def _of_code(reading: str) -> Iterator[Cause]:
    """What the released code does and the paper does not say, or the other way round."""
    if reading == "as intended":
        yield _asking("count exchange, and the host waits", "counts=blocking")
        yield _asking("wasted re-runs after a forced step", "released=reruns", STALE)
        yield _asking("conditional communication as released", "released=conditional", ("dice",), "conditional")
    else:
        yield _asking("counts on a communicator of their own", "communicators=N+DC")


def _asking(name: str, words: str, methods: tuple[str, ...] = ("sync", *STALE), about: str = "") -> Cause:
    return Cause(name, frozenset({about or words.split("=")[0]}), lambda case: case.asking(words, methods))


def _cause(name: str, about: str, **changed: Any) -> Cause:
    return Cause(name, frozenset({about}), lambda case: replace(case, **changed))


def _doubting(changed: Mapping[str, Any], case: Case) -> Case:
    return replace(case, doubt=replace(case.doubt, **changed))


def _saving_nothing(reading: str, case: Case) -> Case:
    """DICE without conditional communication, and whatever else is asked of it."""
    asked = case.schedules["dice"].removeprefix(READINGS[reading]["dice"])
    return replace(case, schedules={**case.schedules, "dice": _UNCONDITIONAL[reading] + asked})


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
    """A row a cause, and before them one for none: what it leaves of each published number."""
    tell(f"{reading}: single causes")
    base, listed = Case(READINGS[reading]), [*causes(reading)]
    alone = predict(base)
    made = iter(predict_many([cause.change(base) for cause in listed if cause.change]))
    rows = [{"cause": "none", "share": round(alone.share, 4), **_row(alone)}]
    return rows + [{"cause": c.name, **(_row(next(made)) if c.change else {"why": c.why})} for c in listed]


def _row(made: Prediction) -> Mapping[str, Any]:
    return {
        "factor": round(made.factor, 4),
        "speed_up": [round(made.speed_up(each), 4) for each in PUBLISHED],
        "residual": [round(made.residual(each), 4) for each in PUBLISHED],
        "closing_s": [None if (s := made.fixed_s(each)) is None else round(s, 2) for each in PUBLISHED],
        "sync_s": round(made.makespan_s[f"sync, {STEPS} steps"], 3),
    }
