"""What the ops of one schedule cost in many configurations at once: sim/cost.py's functions, each asked as seldom as
possible.  What configurations have in common is asked once; rates and links that differ only in numbers are asked
together, as arrays.

It knows seconds by sort of op; it refuses to know when ops run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link, Rate
from sim.cost import check_compute, compute_s, op_launches, op_s, sorts, varies
from sim.engine import LONGEST_S
from sim.gpu import Gpu
from sim.op import Op
from sim.schedule import Schedule
from sim.transfers.collectives import burst_s, over_link_s
from sim.transfers.rests import followers, rest_bytes
from sim.workload import Workload

Array = npt.NDArray[np.float64]
Ask = Callable[[Op], "Array | float"]


@dataclass(frozen=True, eq=False)
class Config:
    """One of many: a workload that has been fitted to the schedule, a cluster, and the seed of its jitter."""

    workload: Workload
    cluster: Cluster
    seed: int | None = None


class Costs:
    """Costs of the ops of `schedule`.  Objects are told apart by identity: hand in the same Workload, compute and link
    wherever they are equal."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.sorts_of: dict[tuple[bool, bool], tuple[list[int], list[Op]]] = {}
        self.followers_of: dict[tuple[bool, bool], tuple[list[int], list[tuple[int, int]]]] = {}
        self.known: dict[Hashable, Array] = {}

    def forget(self) -> None:
        """Other objects are asked about from now on, which may have the identities of former ones."""
        self.known.clear()

    def sorts(self, workload: Workload) -> tuple[list[int], list[Op]]:
        """`sim.cost.sorts`, once for all workloads that vary alike."""
        if (key := varies(workload)) not in self.sorts_of:
            self.sorts_of[key] = sorts(self.schedule, workload)
        return self.sorts_of[key]

    def seconds(self, configs: Sequence[Config]) -> Array:
        """Seconds [config, sort, rank] of configurations that vary alike and have as many ranks."""
        ops = self.sorts(configs[0].workload)[1]
        found = np.empty((len(configs), len(ops), configs[0].workload.ranks))
        for talks in (False, True):
            mine = [(n, op) for n, op in enumerate(ops) if op.collective == talks]
            if not mine:
                continue
            place, kinds = [n for n, _ in mine], [op for _, op in mine]
            for members, ask in (self._links if talks else self._computes)(configs):
                found[np.ix_(members, place)] = self._priced(kinds, ask, members, found.shape[2])
        for n, op in np.argwhere(~(found <= LONGEST_S).all(axis=2))[:1]:
            took = found[n, op].max()
            raise ValueError(f"{ops[op].name} would take {took:g} s on cluster {configs[n].cluster.name}")
        return found

    def launches(self, configs: Sequence[Config]) -> Array:
        """Kernels [config, sort]."""
        found = []
        for config in configs:
            key = (id(config.workload), id(config.cluster.compute))
            if key not in self.known:
                work, machine = config.workload, config.cluster
                each = [op_launches(op, self.schedule, work, machine) for op in self.sorts(work)[1]]
                self.known[key] = np.array(each, np.float64)
            found.append(self.known[key])
        return np.array(found)

    def bursts(self, configs: Sequence[Config]) -> Array:
        """Seconds [config, sort] that a link which was idle saves."""
        ops = self.sorts(configs[0].workload)[1]
        found = np.zeros((len(configs), len(ops)))
        for n, config in enumerate(configs):
            if isinstance(link := config.cluster.links, Link) and link.burst_bytes:
                found[n] = [burst_s(op, link) if op.collective else 0.0 for op in ops]
        return found

    def followers(self, workload: Workload) -> tuple[list[int], list[tuple[int, int]]]:
        """`sim.transfers.rests.followers`, once for all workloads that vary alike."""
        if (key := varies(workload)) not in self.followers_of:
            self.followers_of[key] = followers(self.schedule, self.sorts(workload)[0])
        return self.followers_of[key]

    def rests(self, configs: Sequence[Config]) -> Array:
        """Seconds [config, row of `followers`, rank] that the link which the next collective fills most rests before
        this one ends; where no link saves anything up, one 0 for all rows and ranks."""
        first = configs[0].workload
        ops, rows = self.sorts(first)[1], self.followers(first)[1]
        if not any(isinstance(link := config.cluster.links, Link) and link.burst_bytes for config in configs):
            return np.zeros((len(configs), 1, 1))
        found = np.zeros((len(configs), len(rows), first.ranks))
        for n, config in enumerate(configs):
            if isinstance(link := config.cluster.links, Link) and link.burst_bytes:
                key = ("rests", id(config.workload), link.scope, link.buffered)
                if key not in self.known:
                    self.known[key] = rest_bytes(rows, ops, self.schedule, config.workload, link)
                found[n] = self.known[key] / link.bytes_per_s
        return found

    @staticmethod
    def _priced(ops: Sequence[Op], ask: Ask, members: Sequence[int], ranks: int) -> Array:
        """Seconds [config, op, rank] of configurations that are asked together."""
        found = np.empty((len(ops), len(members), ranks))
        for row, op in zip(found, ops, strict=True):
            row[:] = ask(op)
        return found.transpose(1, 0, 2)

    def _computes(self, configs: Sequence[Config]) -> Iterator[tuple[list[int], Ask]]:
        """(configurations, what says how long a compute op takes on them), for all of them."""
        together: dict[Hashable, list[int]] = {}
        for n, config in enumerate(configs):
            work, compute = config.workload, config.cluster.compute
            if isinstance(compute, Gpu) or _meets(work):
                wires = (id(config.cluster.link), config.cluster.interference.rate) if _meets(work) else ()
                key: Hashable = (id(work), id(compute), wires)
            else:
                key = (id(work), *sorted(compute))
            together.setdefault(key, []).append(n)
        for members in together.values():
            first = configs[members[0]]
            for n in members:
                check_compute(configs[n].workload, configs[n].cluster)
            if isinstance(first.cluster.compute, Gpu) or _meets(first.workload):
                yield members, partial(self._alone, first)
            else:
                stacked = _stacked_rates([configs[n].cluster.compute for n in members])
                yield members, partial(compute_s, schedule=self.schedule, workload=first.workload, compute=stacked)

    def _links(self, configs: Sequence[Config]) -> Iterator[tuple[list[int], Ask]]:
        """(configurations, what says how long a collective takes on them), for all of them."""
        together: dict[Hashable, list[int]] = {}
        for n, config in enumerate(configs):
            link, rate = config.cluster.link, config.cluster.interference.rate
            same = (link.scope, link.buffered) if isinstance(link, Link) else (id(link), rate)
            together.setdefault((id(config.workload), *same), []).append(n)
        for members in together.values():
            first = configs[members[0]]
            links = [configs[n].cluster.links for n in members]
            mesh = first.workload.mesh_of(self.schedule)
            if isinstance(links[0], Link) and mesh.group_ranks > 1 and mesh.patch in (1, mesh.group_ranks):
                stacked = _stacked(links)
                yield members, partial(over_link_s, schedule=self.schedule, workload=first.workload, link=stacked)
            else:
                for n in members if isinstance(links[0], Link) else members[:1]:
                    yield ([n] if isinstance(links[0], Link) else members), partial(self._alone, configs[n])

    def _alone(self, config: Config, op: Op) -> Array | float:
        return op_s(op, self.schedule, config.workload, config.cluster)


def _meets(workload: Workload) -> bool:
    """Whether guidance halves meet, so that the solver step depends on links."""
    return workload.mesh is not None and workload.mesh.guidance > 1


def _stacked_rates(computes: Sequence[Any]) -> Mapping[str, Rate]:
    """Rates of several machines as one, with arrays [machine, 1]."""
    return {kind: _stacked([compute[kind] for compute in computes]) for kind in computes[0]}


def _stacked(nouns: Sequence[Any]) -> Any:
    """Several of one dataclass as one, its numbers arrays [noun, 1]; other fields are those of the first."""
    first = nouns[0]
    numbers = {
        key: np.array([getattr(noun, key) for noun in nouns])[:, None]
        for key, value in vars(first).items()
        if isinstance(value, float | int) and not isinstance(value, bool)
    }
    return replace(first, **numbers)
