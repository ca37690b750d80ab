"""Many machines of one layout: a cluster's tables, and numbers in them that differ from machine to machine.

Rates and latencies of links enter the cost of a collective in closed form, so they are arrays here; numbers of the
devices are few in most sweeps, and each set of them is asked of sim/cost.py once.  What comes out is what
sim/vectorised/batch.py makes of single machines, to the last bit.  It knows numbers by dotted key; it refuses to
know settings and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Link, Rate
from sim.cost import check_compute, compute_s, op_launches, op_s
from sim.engine import LONGEST_S
from sim.gpu import Gpu
from sim.jitter import noise
from sim.schedule import Op, Schedule
from sim.sweeps.point import changed
from sim.transfers.collectives import brings_counts, transfers
from sim.transfers.fabric import Fabric, routes_taken
from sim.transfers.network import Network
from sim.transfers.rests import followers, rest_bytes
from sim.vectorised.batch import Batch, whole
from sim.workload import Workload

Array = npt.NDArray[np.float64]
_LINK = r"link\.(resources\.[^.]+\.(bytes_per_s|latency_s)|ramp_s|ramp_bytes|least_s)"
_LINK += r"|link\.(latency_s|bytes_per_s|counts_s|burst_bytes)"
_OTHER = (
    r"host\.(launch_s|collective_s|wake_s)|interference\.(compute\.[A-Z]|communication|multiprocessors)|compute\..*"
)
_MANY = re.compile(f"{_LINK}|{_OTHER}")


def may_differ(key: str) -> bool:
    """Whether the setting `key` (cluster.KEY, times.cluster.KEY) may be another number on every machine of a batch."""
    path = key.removeprefix("times.").removeprefix("cluster.").replace("*", "X")
    return key.startswith(("cluster.", "times.cluster.")) and path != "compute.gpu" and bool(_MANY.fullmatch(path))


@dataclass(frozen=True, eq=False)
class Machines:
    """`size` machines: `first` is the cluster of the first; numbers {dotted key: its value [machine]}."""

    first: Cluster
    tables: Any
    size: int
    numbers: Mapping[str, Array]

    @staticmethod
    def of(tables: Any, size: int, changes: Mapping[str, npt.NDArray[Any]]) -> Machines:
        """Machines that `changes` (setting -> values [machine]) make of `tables`.

        Raises ValueError if the least or the greatest of any number makes no cluster; what lies between makes one."""
        numbers: dict[str, Array] = {}
        for key in sorted(changes, key=lambda each: each.startswith("times.")):
            values = np.asarray(changes[key], np.float64)
            for leaf in _leaves(tables, key):
                value = values * numbers.get(leaf, number_at(tables, leaf)) if key.startswith("times.") else values
                numbers[leaf] = value
        least, most = (_with(tables, {k: float(end(v)) for k, v in numbers.items()}) for end in (np.min, np.max))
        for corner in (least, most):
            Cluster.of_tables(corner, tables["name"])
        first = Cluster.of_tables(_with(tables, {key: float(v[0]) for key, v in numbers.items()}), tables["name"])
        return Machines(first, tables, size, numbers)

    def of_machine(self, i: int) -> Cluster:
        """The cluster of one machine."""
        return Cluster.of_tables(_with(self.tables, {k: float(v[i]) for k, v in self.numbers.items()}), f"machine {i}")

    def number(self, key: str) -> Array:
        """[machine] of one number."""
        found = self.numbers.get(key)
        return np.full(self.size, number_at(self.tables, key)) if found is None else found

    def factor(self, kind: str) -> Array:
        """[machine]: of interference, for compute ops of `kind`."""
        own, slow = self.numbers.get(f"interference.compute.{kind}"), self.first.interference
        if own is None and kind not in slow.compute:
            share = self.number("interference.multiprocessors")
            return share / (1 - share)
        return np.full(self.size, slow.of_compute(kind)) if own is None else own

    def rate(self) -> Array:
        """[machine]: of the full rate of the ports, that communication reaches with its multiprocessors."""
        return self.first.interference.rates(self.number("interference.multiprocessors"))

    def interferes(self) -> npt.NDArray[np.bool_]:
        """[machine]: whether anything slows down."""
        changed_keys = [key for key in self.numbers if key.startswith("interference.")]
        if not changed_keys:
            return np.full(self.size, self.first.interference.any)
        kinds = {*self.first.interference.compute, *(key.rsplit(".", 1)[-1] for key in changed_keys)}
        factors = [self.factor(kind) for kind in kinds if len(kind) == 1]
        slow = np.any([self.number("interference.communication") > 0, *(f > 0 for f in factors)], axis=0)
        return np.asarray(slow) | (self.number("interference.multiprocessors") > 0)


def _leaves(tables: Any, key: str) -> Iterator[str]:
    """Dotted keys of all numbers that a setting names; a * is every name there is."""
    path = key.removeprefix("times.").removeprefix("cluster.").split(".")

    def walk(inner: Any, at: int, so_far: str) -> Iterator[str]:
        if at == len(path):
            yield so_far
            return
        names = [*inner] if path[at] == "*" and isinstance(inner, Mapping) else [path[at]]
        for name in names:
            inside = inner.get(name) if isinstance(inner, Mapping) else None
            yield from walk(inside, at + 1, f"{so_far}.{name}".strip("."))

    changed(tables, key, 1.0)  # raises if it leads nowhere
    yield from walk(tables, 0, "")


def number_at(tables: Any, key: str) -> float:
    """The number at a dotted key; 0 where a mapping lacks it."""
    for name in key.split("."):
        tables = tables.get(name, {}) if isinstance(tables, Mapping) else {}
    return 0.0 if isinstance(tables, Mapping) else float(tables)


def _with(tables: Any, numbers: Mapping[str, float]) -> Any:
    for key, value in numbers.items():
        tables = changed(tables, f"cluster.{key}", value)
    return tables


# ------------------------------------------------------------------------------------------------- costs


def costs_of(
    schedule: Schedule, workload: Workload, machines: Machines, sorted_ops: tuple[list[int], list[Op]],
    seeds: npt.NDArray[np.int64] | None = None,
) -> Batch:  # fmt: skip
    """What every op costs on every machine, in ticks; `workload` must have been fitted to the schedule.

    sorted_ops: `sim.cost.sorts` of the two, which serves all workloads that vary alike.  seeds [machine]: of jitter.
    Raises ValueError as sim/cost.py and sim/jitter.py do, or if an op would take too long."""
    check_compute(workload, machines.first)
    sort_of, ops = sorted_ops
    seconds = np.empty((len(ops), workload.ranks, machines.size))
    compute = [n for n, op in enumerate(ops) if not op.collective]
    seconds[compute] = _compute(schedule, workload, machines, [ops[n] for n in compute])
    for n, op in enumerate(ops):
        if op.collective:
            seconds[n] = _collective(op, schedule, workload, machines)
    row_of, rows = sort_of, ops
    if seeds is not None:
        row_of, rows, seconds = [*range(len(sort_of))], [*schedule.ops], seconds[sort_of]
        for seed in np.unique(seeds):
            seconds[..., seeds == seed] *= noise(schedule, workload, machines.first, int(seed))[..., None]
    if not (seconds <= LONGEST_S).all():
        op = rows[int(np.argmax(~(seconds <= LONGEST_S).all(axis=(1, 2))))]
        raise ValueError(f"{op.name} would take {np.max(seconds):g} s on cluster {machines.first.name}")
    burst = whole(np.array([_burst_s(op, machines) for op in ops]))
    rest_of, followed = followers(schedule, sort_of)
    rest = np.zeros((1, 1, machines.size))
    if burst.any():
        assert isinstance(machines.first.link, Link), "no other bursts"
        left = rest_bytes(followed, ops, schedule, workload, machines.first.link)
        rest = whole(left[..., None] / (machines.number("link.bytes_per_s") * machines.rate()))
    ranks = 1 if all((each == each[:, :1]).all() for each in (seconds, rest)) else workload.ranks
    talks = np.array([op.collective for op in ops])[:, None]
    kernels = [op_launches(op, schedule, workload, machines.first) for op in ops]
    launched = np.repeat(np.array(kernels, np.float64)[:, None], machines.size, axis=1)
    mesh, alone = workload.mesh_of(schedule), ranks == 1
    link = isinstance(machines.first.link, Link)
    return Batch(
        schedule=schedule,
        sort_of=sort_of,
        row_of=row_of,
        ticks=whole(np.ascontiguousarray(seconds[:, :ranks])),
        launch=whole(
            np.where(talks, machines.number("host.collective_s"), machines.number("host.launch_s") * launched)
        ),
        kernels=launched,
        burst=burst,
        rest_of=rest_of,
        rest=rest[:, :ranks],
        slow_compute=np.array([1.0 + machines.factor(op.kind) for op in ops]),
        wake=whole(machines.number("host.wake_s")),
        latency=whole(machines.number("link.latency_s") if link else np.zeros(machines.size)),
        slow_transfer=1.0 + machines.number("interference.communication"),
        teams=[((0,),) if alone else workload.teams(schedule, op) if op.collective else () for op in schedule.ops],
        halves=() if alone or mesh.guidance == 1 else mesh.halves,
    )


def _of_links(key: str) -> bool:
    """Whether the number at `key` changes what a transfer takes alone."""
    return key.startswith("link.") or key == "interference.multiprocessors"


def _burst_s(op: Op, machines: Machines) -> Array:
    """[machine]: `sim.transfers.collectives.burst_s`, 0 for compute ops and networks."""
    if not (op.collective and isinstance(machines.first.link, Link)) or op.kind == "N":
        return np.zeros(machines.size)
    rate = machines.number("link.bytes_per_s") * machines.rate()
    return machines.number("link.burst_bytes") / rate


def _compute(schedule: Schedule, workload: Workload, machines: Machines, ops: Sequence[Op]) -> Array:
    """Seconds [op, rank, machine] of compute ops: each set of the devices' numbers once, rates all together."""
    keys = [key for key in machines.numbers if key.startswith("compute.") and key != "compute.memory_bytes"]
    exchanges = workload.mesh is not None and workload.mesh.guidance > 1  # Z then waits for a link, too
    keys += [key for key in machines.numbers if _of_links(key) and exchanges]
    found = np.empty((len(ops), workload.ranks, machines.size))
    if keys and not exchanges and not isinstance(machines.first.compute, Gpu):
        rates = _stacked(machines, machines.first.compute)
        for row, op in zip(found, ops, strict=True):
            row[:] = np.broadcast_to(compute_s(op, schedule, workload, rates), (machines.size, workload.ranks)).T
        return found
    values = np.array([machines.numbers[key] for key in keys]).reshape(len(keys), machines.size)
    _, sets, which = np.unique(values, axis=1, return_index=True, return_inverse=True)
    seconds = np.empty((len(ops), workload.ranks, len(sets)))
    for n, machine in enumerate(sets.tolist() if keys else [0]):
        cluster = machines.of_machine(machine) if keys else machines.first
        for i, op in enumerate(ops):
            seconds[i, :, n] = op_s(op, schedule, workload, cluster)
    return seconds[:, :, which.ravel()] if keys else np.broadcast_to(seconds[:, :, :1], found.shape)


def _stacked(machines: Machines, rates: Mapping[str, Rate]) -> Mapping[str, Rate]:
    """Rates with arrays [machine, 1], of which sim.cost.compute_s makes seconds [machine, rank]."""

    def many(kind: str, name: str) -> Any:
        return machines.number(f"compute.{kind}.{name}")[:, None]

    return {kind: Rate(many(kind, "fixed_s"), many(kind, "flops_per_s")) for kind in rates}


def _collective(op: Op, schedule: Schedule, workload: Workload, machines: Machines) -> Array:
    """Seconds [rank, machine] of a collective alone: sim.transfers.collectives.collective_s, on every machine."""
    if not any(_of_links(key) for key in machines.numbers):
        once = np.broadcast_to(op_s(op, schedule, workload, machines.first), (workload.ranks,))
        return np.broadcast_to(once[:, None], (workload.ranks, machines.size))
    teams, link = workload.teams(schedule, op), machines.first.links
    if len(teams[0]) == 1:
        return np.zeros((workload.ranks, machines.size))
    if isinstance(link, Link):
        return _over_link(op, schedule, workload, machines, link)
    fabric = machines.first.fabric
    seconds = np.zeros((workload.ranks, machines.size))
    for team in teams:
        *before, last = transfers(op, schedule, workload, fabric, team)
        wait = sum((transfer_s(part, fabric, machines).max(axis=0) for part in before), np.zeros(machines.size))
        seconds[[*team]] = (wait + transfer_s(last, fabric, machines))[[*team]]
    return seconds


def _over_link(op: Op, schedule: Schedule, workload: Workload, machines: Machines, link: Link) -> Array:
    latency_s = machines.number("link.latency_s")
    if op.kind == "N":
        return np.broadcast_to(latency_s, (workload.ranks, machines.size))
    away = workload.sent_bytes(schedule, op)
    through = np.max if link.scope == "pair" else np.sum
    received, sent = through(away, axis=0), through(away, axis=1)
    fullest = received if link.buffered else np.maximum(received, sent)
    rate = machines.number("link.bytes_per_s") * machines.rate()
    counts_s = machines.number("link.counts_s") if brings_counts(op, schedule) else 0.0
    return np.asarray(latency_s + fullest[:, None] / rate + counts_s)


def transfer_s(moved_bytes: Array, fabric: Fabric, machines: Machines) -> Array:
    """Seconds [rank, machine] of a transfer alone: `Fabric.transfer_s` on machines of the same layout."""
    ways = fabric.passes & (moved_bytes * fabric.weight > 0)  # [resource, src, dst]
    mine = np.any(ways, axis=1)  # [resource, rank]
    if not fabric.receives_only:
        mine |= np.any(ways, axis=2)
    load = fabric.passes.reshape(len(fabric.names), -1).astype(np.float64) @ (moved_bytes * fabric.weight).ravel()
    some = np.flatnonzero(np.any(mine, axis=1))
    busy_s = load[some, None] / _rates(fabric, machines)[some]
    moving_s = np.max(np.where(mine[some, :, None], busy_s[:, None, :], 0.0), axis=0, initial=0.0)
    whole_s = _start_s(moved_bytes, fabric, machines, moving_s.max(axis=0)) + moving_s
    return np.asarray(whole_s * fabric.factor(moved_bytes))


def _rates(fabric: Fabric, machines: Machines) -> Array:
    """[resource, machine] bytes a second."""
    network, share = machines.first.link, machines.rate()
    assert isinstance(network, Network)
    found = []
    for name in fabric.names:
        resource = name.split(" ")[0]
        rate = machines.number(f"link.resources.{resource}.bytes_per_s")
        found.append(rate * share if network.resources[resource].of_ranks == 1 else rate)
    return np.array(found)


def _start_s(moved_bytes: Array, fabric: Fabric, machines: Machines, slowest_s: Array) -> Array:
    """[machine]: `Fabric.start_s`."""
    away = moved_bytes * ~np.eye(fabric.ranks, dtype=bool)
    latency_s, taken = np.zeros(machines.size), routes_taken(fabric.network, fabric.ranks)
    for number, route in enumerate(fabric.network.routes):
        if (away[taken == number] > 0).any():
            each = [machines.number(f"link.resources.{name}.latency_s") for name in route.via]
            latency_s = np.maximum(latency_s, np.sum(each, axis=0))
    most = float(max(away.sum(axis=0).max(), away.sum(axis=1).max()))
    ramp_s = machines.number("link.ramp_s") * most / (most + machines.number("link.ramp_bytes")) if most else 0.0
    return np.maximum(latency_s + ramp_s, machines.number("link.least_s") - slowest_s)
