"""A sweep: settings that all points share, axes, how points are drawn, filters, and what all of it names.

It knows what a sweep consists of and what it is known by; how it is written stands in sim/sweeps/file.py, which points
it has in sim/sweeps/points.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.faults import CLOSED
from sim.sweeps.point import Sources
from sim.sweeps.settings import DEFAULTS, setting_kind

NAMING = {"cluster": "clusters", "model": "models", "schedule": "schedules", "routing": "routings",
          "vulnerability": "vulnerabilities"}  # fmt: skip


class Plan(BaseModel):
    """How points are drawn: a grid has every combination; the others draw `points` of them, seeded."""

    model_config = ConfigDict(**CLOSED, frozen=True)
    kind: Literal["grid", "random", "latin", "sobol"] = "grid"
    points: Annotated[int, Field(ge=1, le=10**7)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Axis:
    """A setting and its values; or, where a plan draws them, its range."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its values, or the ends of its range: what can be looked at one by one."""
        return self.values or tuple(int(end) if self.whole else end for end in (self.low, self.high))


@dataclass(frozen=True)
class Sweep:
    """A file that has been looked at.  base: settings of every point, in SI; axes in the order of the file."""

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    plan: Plan
    filters: tuple[str, ...]
    sources: Sources

    @cached_property
    def digest(self) -> str:
        """What it is known by: two sweeps of the same digest have the same points, files and presets included."""
        values = {"base": dict(self.base), "axes": [repr(axis) for axis in self.axes]}
        held = [
            (key, name, self.sources.digest(key, name))
            for key, place in NAMING.items()
            for name in sorted(getattr(self.sources, place))
        ]
        text = json.dumps([values, self.plan.model_dump(), self.filters, held], sort_keys=True, default=str)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Settings by name -> kind of column: those that are something by default, and those that this one says."""
        usual = {key: (value,) for key, value in DEFAULTS.items() if value is not None}
        values: dict[str, tuple[Any, ...]] = {**usual, **{key: (value,) for key, value in self.base.items()}}
        values |= {axis.key: axis.ends for axis in self.axes}
        return {key: setting_kind(key, said) for key, said in values.items()}
