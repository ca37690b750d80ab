"""How long a schedule takes in each of many configurations: by the vectorised engines where they can say, by the
simulation where they cannot, and a word on which it was and why.

    found = evaluate(schedule, workloads, clusters)        # one of each for every configuration
    found.makespan_s, found.engine                         # [config]

It knows what each engine can do; it refuses to know why somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster
from sim.cost import varies
from sim.engine import TICKS_PER_S, simulate
from sim.mesh import Mesh
from sim.plan import shares
from sim.schedule import Schedule
from sim.vectorised.batch import batch
from sim.vectorised.costs import Config, Costs
from sim.vectorised.lockstep import Lockstep
from sim.vectorised.maxplus import Recurrence
from sim.vectorised.program import Program
from sim.vectorised.uneven import Uneven
from sim.workload import Workload

Array = npt.NDArray[np.float64]
LANES = 1024  # ranks x configurations that are walked together: their rows fit into a core's cache
UNEVEN_LANES = 8192  # the same of the uneven engine, where a few take almost as long as many
UNEVEN_NUMBERS = 1 << 25  # which are kept for these: 256 MiB of costs, or of when hosts went on
FEW = 4  # configurations: fewer are simulated before the uneven engine has walked them
RECURRENCE, LOCKSTEP, UNEVEN, SIMULATION = "recurrence", "lockstep", "uneven", "simulation"
_UNEVEN = "ranks differ while compute and communication slow each other down"
ENGINES = {
    RECURRENCE: "max-plus recurrence, equal to the simulation to the last bit",
    LOCKSTEP: "compute op by compute op, with interference; within a millionth of the simulation",
    UNEVEN: "event by event, for ranks that differ; within a millionth of the simulation",
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
    why: str
    synchronous: bool
    defers: bool
    told_apart: int  # ranks
    mesh: Mesh
    varies: tuple[bool, bool]


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
        configs = self._configs(workloads, clusters, seeds)
        makespan_s = np.empty(len(configs))
        engines = [("", "")] * len(configs)
        for mode, members in self._modes(configs).items():
            for part, mine, seconds in self._split(mode, members, configs):
                makespan_s[mine] = self._ask([configs[n] for n in mine], part, seconds)
                for n in mine:
                    engines[n] = part.engine, part.why
        return Evaluated(makespan_s, tuple(name for name, _ in engines), tuple(why for _, why in engines))

    def engine_of(self, workload: Workload, cluster: Cluster, seed: int | None = None) -> tuple[str, str]:
        """Which of ENGINES evaluates this configuration, and why not a faster one ("": none is)."""
        [mode] = self._modes(configs := self._configs([workload], [cluster], [seed]))
        [(part, *_)] = self._split(mode, [0], configs)
        return part.engine, part.why

    def spans_s(self, workload: Workload, cluster: Cluster, seed: int | None = None) -> Array:
        """Reached, start and end in seconds [3, rank, op] of one configuration, as its Trace has them.

        Raises ValueError if it takes another engine than the recurrence."""
        [mode] = self._modes(configs := self._configs([workload], [cluster], [seed]))
        if mode.engine != RECURRENCE:
            raise ValueError(f"the recurrence cannot say when ops run, as engine {mode.engine} is needed: simulate it")
        whole = replace(mode, told_apart=workload.ranks)
        walk = self._walk(configs, self.costs.seconds(configs), whole, keep=True)
        walk.makespans()
        assert isinstance(walk, Recurrence)
        assert walk.kept is not None
        return np.asarray((walk.kept[..., 0].transpose(0, 2, 1) - walk.begin) / TICKS_PER_S)

    def _configs(
        self, workloads: Sequence[Workload], clusters: Sequence[Cluster], seeds: Sequence[int | None] | None
    ) -> list[Config]:
        self.costs.forget()
        fitted: dict[int, Workload] = {}
        return [
            Config(_fitted(self.schedule, workload, cluster, fitted), cluster, seed)
            for workload, cluster, seed in zip(workloads, clusters, seeds or [None] * len(workloads), strict=True)
        ]

    def _modes(self, configs: Sequence[Config]) -> dict[_Mode, list[int]]:
        """Configurations that can be walked together, as far as workload and cluster tell."""
        members: dict[_Mode, list[int]] = {}
        for n, config in enumerate(configs):
            work, host, mesh = config.workload, config.cluster.host, config.workload.mesh_of(self.schedule)
            engine, why = engine_of(self._program(host.synchronous, "collectives"), work, config.cluster)
            defers = engine == RECURRENCE and not host.priority  # the others have no order of their own for it
            mode = _Mode(engine, why, host.synchronous, defers, mesh.ranks, mesh, varies(work))
            members.setdefault(mode, []).append(n)
        return members

    def _split(
        self, mode: _Mode, members: Sequence[int], configs: Sequence[Config]
    ) -> list[tuple[_Mode, list[int], Array]]:
        """Those whose ranks are alike, of which one is enough, and the others; and seconds [config, sort, rank]."""
        if mode.engine == SIMULATION:
            return [(mode, [*members], np.empty(0))]
        chosen = [configs[n] for n in members]
        seconds = self.costs.seconds(chosen)
        unseeded = np.array([config.seed is None for config in chosen])
        alike = unseeded & _alike(seconds) & _alike(self.costs.rests(chosen))
        apart = mode
        if mode.engine == LOCKSTEP:
            engine, why = (UNEVEN, _UNEVEN) if all_meet(mode.mesh) else (SIMULATION, f"{_UNEVEN}, and do not all meet")
            if engine == UNEVEN and (~alike).sum() < FEW:
                engine, why = SIMULATION, f"{_UNEVEN}, and fewer than {FEW} configurations are like that"
            apart = replace(mode, engine=engine, why=why)
        parts = [(replace(mode, told_apart=1), alike), (apart, ~alike)]
        return [(part, np.array(members)[mask].tolist(), seconds[mask]) for part, mask in parts if mask.any()]

    def _ask(self, configs: Sequence[Config], mode: _Mode, seconds: Array) -> Array:
        """Makespans [config] of configurations of one mode."""
        if mode.engine == SIMULATION:
            return np.array([simulate(self.schedule, c.workload, c.cluster, c.seed).makespan_s for c in configs])
        rows = seconds.shape[1] if all(config.seed is None for config in configs) else len(self.schedule.ops)
        rows = max(rows, sum(self._program(mode.synchronous, "collectives").blocks))
        step, found = room(mode.engine, mode.told_apart, rows), []
        for first in range(0, len(configs), step):
            some = slice(first, first + step)
            found.append(self._walk(configs[some], seconds[some], mode).makespans() / TICKS_PER_S)
        return np.concatenate(found)

    def _walk(
        self, configs: Sequence[Config], seconds: Array, mode: _Mode, keep: bool = False
    ) -> Recurrence | Lockstep | Uneven:
        together = batch(self.costs, configs, seconds, mode.told_apart)
        if mode.engine in (LOCKSTEP, UNEVEN):
            defers = np.array([not config.cluster.host.priority for config in configs])
            walk = Lockstep if mode.engine == LOCKSTEP else Uneven
            return walk(together, self._program(mode.synchronous, "collectives"), defers)
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


def room(engine: str, ranks: int, rows: int) -> int:
    """Configurations of so many ranks, told apart, that are walked together; rows: of costs, or ops that hold hosts
    up, whichever are more."""
    lanes = min(UNEVEN_LANES, UNEVEN_NUMBERS // rows) if engine == UNEVEN else LANES
    return max(1, lanes // ranks)


def all_meet(mesh: Mesh) -> bool:
    """Whether all ranks meet in every collective."""
    return max(mesh.expert, mesh.patch) == mesh.ranks


def _alike(seconds: Array) -> npt.NDArray[np.bool_]:
    """[config]: whether all ranks take as long; seconds [config, sort, rank]."""
    return np.asarray((seconds == seconds[:, :, :1]).all(axis=(1, 2)))


def _fitted(schedule: Schedule, workload: Workload, cluster: Cluster, fitted: dict[int, Workload]) -> Workload:
    """`workload`, fitted to the schedule; once for each."""
    if workload.ranks != cluster.ranks:
        raise ValueError(f"workload has {workload.ranks} ranks, but cluster {cluster.name} has {cluster.ranks}")
    if id(workload) not in fitted:
        fitted[id(workload)] = workload.fits(schedule)
    return fitted[id(workload)]


def engine_of(program: Program, workload: Workload, cluster: Cluster) -> tuple[str, str]:
    """Which of ENGINES evaluates this configuration as long as its ranks are alike, and why not a faster one ("": none
    is).  Where ranks differ, LOCKSTEP gives way to UNEVEN or SIMULATION (`Evaluator.evaluate`)."""
    schedule, interferes = program.schedule, cluster.interference.any
    if any(shares(schedule, workload, cluster)):
        return SIMULATION, "transfers of several communicators or groups share links"
    if len(schedule.streams) > 2 and (interferes or not cluster.host.priority):
        return SIMULATION, "several communicators, and collectives wait for kernels or slow them down"
    if interferes and program.overtakes:
        return SIMULATION, "hosts go on behind a collective while what they issued before it still computes"
    return (LOCKSTEP if interferes else RECURRENCE), ""
