"""How long a schedule takes in each of many configurations: by the vectorised engines where they can say, by the
simulation where they cannot, and a word on which it was and why.

    found = evaluate(schedule, workloads, clusters)        # one of each for every configuration
    found.makespan_s, found.engine                         # [config]

It knows what each engine can do; it refuses to know why somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.batch import batch
from sim.cluster import Cluster
from sim.cost import varies
from sim.costs import Config, Costs
from sim.engine import TICKS_PER_S, simulate
from sim.lockstep import Lockstep
from sim.maxplus import Recurrence
from sim.mesh import Mesh
from sim.plan import shares
from sim.program import Program
from sim.schedule import Schedule
from sim.workload import Workload

Array = npt.NDArray[np.float64]
LANES = 1024  # ranks x configurations that are walked together: their rows fit into a core's cache
RECURRENCE, LOCKSTEP, SIMULATION = "recurrence", "lockstep", "simulation"
ENGINES = {
    RECURRENCE: "max-plus recurrence, equal to the simulation to the last bit",
    LOCKSTEP: "with interference, ranks alike; within 1e-6 of the simulation",
    SIMULATION: "SimPy, one configuration at a time",
}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """[config]: seconds from the first op's start to the last op's end; by which of ENGINES, and why not a faster."""

    makespan_s: Array
    engine: tuple[str, ...]
    why: tuple[str, ...]


@dataclass(frozen=True)
class _Mode:
    """What configurations have in common that are walked together."""

    engine: str
    synchronous: bool
    defers: bool
    ranks: int
    mesh: Mesh
    varies: tuple[bool, bool]


def engine_of(schedule: Schedule, workload: Workload, cluster: Cluster) -> tuple[str, str]:
    """Which of ENGINES evaluates this configuration, and why not a faster one ("": none is)."""
    if any(shares(schedule, workload, cluster)):
        return SIMULATION, "transfers of several communicators or groups share links"
    if len(schedule.streams) > 2 and (cluster.interference.any or not cluster.host.priority):
        return SIMULATION, "several communicators, and collectives wait for kernels or slow them down"
    return (LOCKSTEP if cluster.interference.any else RECURRENCE), ""


class Evaluator:
    """Evaluates configurations of one schedule, call by call; what follows from the schedule alone is found once."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule.check()
        self.costs = Costs(self.schedule)
        self.programs: dict[tuple[bool, str], Program] = {}

    def evaluate(
        self,
        workloads: Sequence[Workload],
        clusters: Sequence[Cluster],
        seeds: Sequence[int | None] | None = None,
    ) -> Evaluated:
        """Makespans with workloads[n] on clusters[n], jittered by seeds[n] (None: median times).

        Hand in the same object wherever configurations share a workload, or clusters a compute or a link: its costs
        are then found once.  Raises ValueError for what `simulate` would."""
        configs, engines = self._configs(workloads, clusters, seeds)
        makespan_s = np.empty(len(configs))
        for members, mode in _modes(self.schedule, configs, engines).items():
            makespan_s[[*members]] = self._ask([configs[n] for n in members], mode)
        return Evaluated(makespan_s, tuple(name for name, _ in engines), tuple(why for _, why in engines))

    def spans_s(self, workload: Workload, cluster: Cluster, seed: int | None = None) -> Array:
        """Reached, start and end in seconds [3, rank, op] of one configuration, as its Trace has them.

        Raises ValueError if it takes another engine than the recurrence."""
        configs, [(engine, why)] = self._configs([workload], [cluster], [seed])
        if engine != RECURRENCE:
            raise ValueError(f"the recurrence cannot say: {why}; simulate it")
        [mode] = _modes(self.schedule, configs, [(engine, why)]).values()
        seconds = self.costs.seconds(configs)
        walk = self._walk(configs, seconds, mode, mode.ranks, keep=True)
        walk.makespans()
        assert isinstance(walk, Recurrence) and walk.kept is not None
        return np.asarray((walk.kept[..., 0].transpose(0, 2, 1) - walk.begin) / TICKS_PER_S)

    def _configs(
        self, workloads: Sequence[Workload], clusters: Sequence[Cluster], seeds: Sequence[int | None] | None
    ) -> tuple[list[Config], list[tuple[str, str]]]:
        """What to evaluate, and by which engine and why."""
        self.costs.forget()
        fitted: dict[int, Workload] = {}
        configs = [
            Config(_fitted(self.schedule, workload, cluster, fitted), cluster, seed)
            for workload, cluster, seed in zip(workloads, clusters, seeds or [None] * len(workloads), strict=True)
        ]
        return configs, [engine_of(self.schedule, config.workload, config.cluster) for config in configs]

    def _ask(self, configs: Sequence[Config], mode: _Mode) -> Array:
        """Makespans [config] of configurations of one mode."""
        makespan_s = np.empty(len(configs))
        if mode.engine == SIMULATION:
            makespan_s[:] = [simulate(self.schedule, c.workload, c.cluster, c.seed).makespan_s for c in configs]
            return makespan_s
        seconds = self.costs.seconds(configs)
        seeded = np.array([config.seed is not None for config in configs])
        alike = (seconds == seconds[:, :, :1]).all(axis=(1, 2)) & ~seeded
        for ranks, mine in ((1, np.flatnonzero(alike)), (mode.ranks, np.flatnonzero(~alike))):
            for first in range(0, len(mine), step := max(1, LANES // ranks)):
                some = mine[first : first + step]
                walk = self._walk([configs[n] for n in some], seconds[some], mode, ranks)
                makespan_s[some] = walk.makespans() / TICKS_PER_S
        return makespan_s

    def _walk(
        self, configs: Sequence[Config], seconds: Array, mode: _Mode, ranks: int, keep: bool = False
    ) -> Recurrence | Lockstep:
        together = batch(self.costs, configs, seconds, ranks)
        if mode.engine == LOCKSTEP:
            return Lockstep(together, self._program(mode.synchronous, "collectives"), mode.defers)
        program = self._program(mode.synchronous, "compute" if mode.defers else "listed")
        return Recurrence(together, program, keep)

    def _program(self, synchronous: bool, first: str) -> Program:
        if (synchronous, first) not in self.programs:
            self.programs[synchronous, first] = Program(self.schedule, synchronous, first)
        return self.programs[synchronous, first]


def evaluate(
    schedule: Schedule,
    workloads: Sequence[Workload],
    clusters: Sequence[Cluster],
    seeds: Sequence[int | None] | None = None,
) -> Evaluated:
    """`Evaluator.evaluate` of `schedule`, for those who ask once."""
    return Evaluator(schedule).evaluate(workloads, clusters, seeds)


def _fitted(schedule: Schedule, workload: Workload, cluster: Cluster, fitted: dict[int, Workload]) -> Workload:
    """`workload`, fitted to the schedule; once for each."""
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")
    if id(workload) not in fitted:
        fitted[id(workload)] = workload.fits(schedule)
    return fitted[id(workload)]


def _modes(
    schedule: Schedule, configs: Sequence[Config], engines: Sequence[tuple[str, str]]
) -> dict[tuple[int, ...], _Mode]:
    """Configurations that can be walked together -> how."""
    members: dict[_Mode, list[int]] = {}
    for n, (config, (engine, _)) in enumerate(zip(configs, engines, strict=True)):
        work, host = config.workload, config.cluster.host
        mode = _Mode(engine, host.synchronous, not host.priority, work.ranks, work.mesh_of(schedule), varies(work))
        members.setdefault(mode, []).append(n)
    return {tuple(some): mode for mode, some in members.items()}
