"""A plan: what to measure, run and compare, written down before it is done.

    model: tiny                  # beside it: ranks, images of a rank, wire
    ranks: 2
    images: 4
    backend: paced               # realrun/backends
    rates: [15 MB/s, 30 MB/s]    # of links; [.inf]: as they are
    schedules: [sync, interweaved]
    steps: 12
    rounds: 4

It says which jobs there are and in which order.  A machine that others share drifts: so every round measures in
random order, then runs every schedule at every rate in random order, and a last measurement ends the last round.
Calibration jobs run no schedule that is compared.  The file knows jobs; it refuses to know how they are done."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from realrun.backend import load_backend
from realrun.run import Settings, check_fit
from sim.faults import CLOSED, faults_told
from sim.load import load_for
from sim.models import load_model
from sim.schedule import Schedule
from sim.tables import read_table, table_text
from sim.units import quantity
from sim.units import readable as in_words
from sim.workload import Workload

AS_THEY_ARE = math.inf  # the rate of links that nobody keeps to one; in a file: .inf
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class Job:
    """One thing to do, some seconds long, all of whose results are kept or none.

    kind "compute": ops alone, with `images` a rank.  "transfers": collectives on rested links.  "queue": back to
    back.  "together": ops and collectives at once, these taking `load` of the time.  "run": a schedule for real."""

    kind: str
    round: int
    rate: float | None = None  # bytes a second, of a link
    images: int | None = None
    load: float | None = None
    schedule: str | None = None

    @property
    def name(self) -> str:
        """A file's name: r02-together-15MB-per-s-load0.5"""
        words = [f"r{self.round:02}", self.kind]
        words += [re.sub(r"[^\w.=]+", "_", self.schedule.strip())] if self.schedule else []
        words += [f"{self.images}-images"] if self.images else []
        words += [rate_name(self.rate)] if self.rate else []
        words += [f"load{self.load:g}"] if self.load else []
        return "-".join(words)


def rate_name(bytes_per_s: float) -> str:
    """For a file: 15MB-per-s"""
    return (
        "as-they-are"
        if bytes_per_s == AS_THEY_ARE
        else in_words("_bytes_per_s", bytes_per_s).replace(" ", "").replace("/", "-per-")
    )


@dataclass(frozen=True)
class Plan:
    """See the file's docstring.  A plan without schedules only measures."""

    model: str = "tiny"
    ranks: int = 2
    images: int = 4
    wire: str = "float32"
    dtype: str = "float32"
    backend: str = "paced"
    rates: tuple[float, ...] = (20e6, 80e6)
    schedules: tuple[str, ...] = ()
    steps: int = 12
    rounds: int = 3
    other_images: tuple[int, ...] | None = None  # batch sizes at which compute is measured too; None: half, half more
    calibration_steps: int = 8  # of each compute job
    repeats: int = 6  # of each transfer
    loads: tuple[float, ...] = (0.5, 1.0)  # shares of the time that the other stream is busy
    timed_row_s: Mapping[str, float] | None = None  # timed compute (realrun/stand_in.py)
    seed: int = 0
    about: str = ""  # why these cells
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        positive = {"rounds": self.rounds, "repeats": self.repeats, "calibration_steps": self.calibration_steps - 1}
        for key, value in positive.items():
            if value < 1:
                raise ValueError(f"plan: {key}={getattr(self, key)} should be larger")
        if self.rounds > MOST_ROUNDS:
            raise ValueError(f"plan: rounds={self.rounds} should be at most {MOST_ROUNDS}")
        if not self.rates:
            raise ValueError("plan: rates should not be empty")
        if any(not 0 < load <= 1 for load in self.loads) or 1.0 not in self.loads:
            raise ValueError(f"plan: loads={self.loads} should be above 0 and at most 1, and 1 among them")
        for rate in self.rates:
            self.settings_at(rate)  # says what is wrong
        if self.schedules and "sync" not in self.schedules:
            raise ValueError("plan: schedules should have sync among them: speed-ups are over it")
        names = [job.name for job in (*self._measure(0), *self._run(0))]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"plan: {', '.join(sorted(twice))} would be done twice")

    @staticmethod
    def load(path: Path | str) -> Plan:
        """The plan in a YAML file.

        Raises ValueError with every key that is unknown or of the wrong type, OSError if it cannot be read."""
        return Plan.of(read_table(path), path)

    @staticmethod
    def of(data: Any, source: Path | str = "plan") -> Plan:
        """The plan in plain tables, as of a YAML file or `table`; errors begin with `source`."""
        from pydantic import TypeAdapter

        if isinstance(data, Mapping) and isinstance(data.get("rates"), list):
            name = f"{source}: rates.link_bytes_per_s"
            data = {**data, "rates": [quantity(name, rate) for rate in data["rates"]]}
        with faults_told(source, Plan):
            plan: Plan = TypeAdapter(Plan).validate_python(data)
        return plan

    def check(self) -> None:
        """Raises ValueError that says what ranks could not do of it: worth knowing before anything is measured."""
        for images in self.batches:
            replace(self.workload, images=images)  # says what is wrong
        settings = self.settings_at(self.rates[0])
        for text in self.schedules or ("sync",):
            check_fit(self.schedule(text), self.workload, settings, self.ranks)

    def __str__(self) -> str:
        return table_text(asdict(self))

    def table(self) -> dict[str, Any]:
        """As plain tables and numbers."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def workload(self) -> Workload:
        """What each rank works on; its router is the runs' own."""
        return Workload(load_model(self.model), self.ranks, self.images, self.wire)

    @property
    def hosts(self) -> int:
        """Hosts, each with a card that its ranks share; 0 where every pair of ranks has a link of its own."""
        return int(getattr(load_backend(self.backend), "hosts", 0))

    @property
    def teams(self) -> tuple[int, ...]:
        """Numbers of ranks, fewer than all, among which transfers are measured too; none where hosts matter."""
        return () if self.hosts else tuple(2**n for n in range(1, self.ranks.bit_length()) if 2**n < self.ranks)

    @property
    def link(self) -> str:
        """What has the rate: "pair", "port" or "host"."""
        return load_backend(self.backend).link

    @property
    def settings(self) -> Settings:
        """How to run, on links that are as they are."""
        return Settings(self.seed, self.dtype, timed_row_s=self.timed_row_s)

    def settings_at(self, rate: float | None) -> Settings:
        """The same on links of one of its rates."""
        return replace(self.settings, link_bytes_per_s=None if rate == AS_THEY_ARE else rate)

    def schedule(self, text: str) -> Schedule:
        """One of its schedules, as ops."""
        return load_for(text, self.steps, self.workload.model)

    def quick(self) -> Plan:
        """A smaller one: one round, two batch sizes, full load only."""
        return replace(self, rounds=1, other_images=self.batches[:1], calibration_steps=4, repeats=4, loads=(1.0,))

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes beside the workload's own, at which compute is measured."""
        if self.other_images is not None:
            return self.other_images
        half = max(1, self.images // 2)
        return tuple(n for n in (half, self.images + half) if n != self.images)

    def jobs(self) -> list[Job]:
        """All of it, in the order in which it is done."""
        rounds = range(self.rounds + bool(self.schedules))
        return [job for number in rounds for job in (*self._measure(number), *self._run(number))]

    def _measure(self, number: int) -> Iterator[Job]:
        jobs = [Job("compute", number, images=images) for images in (*self.batches, self.images)]
        if self.link == "host":  # what ranks of one host have between them
            jobs.append(Job("transfers", number))
        for rate in self.rates:
            jobs += [Job("transfers", number, rate), Job("queue", number, rate)]
            jobs += [Job("together", number, rate, load=load) for load in self.loads]
        yield from self._shuffled(jobs, number, 0)

    def _run(self, number: int) -> Iterator[Job]:
        if number < self.rounds:
            jobs = [Job("run", number, rate, schedule=text) for text in self.schedules for rate in self.rates]
            yield from self._shuffled(jobs, number, 1)

    def _shuffled(self, jobs: Sequence[Job], number: int, part: int) -> Iterator[Job]:
        order = np.random.default_rng((self.seed, number, part)).permutation(len(jobs))
        yield from (jobs[i] for i in order)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
