"""Many machines at once are those machines one by one, to the last bit; and engines are chosen by what they can do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim.cluster import Cluster, Link, cluster_tables
from sim.cost import sorts
from sim.load import load_schedule
from sim.mesh import Mesh
from sim.vectorised.batch import Batch, batch
from sim.vectorised.costs import Config, Costs
from sim.vectorised.engines import Case, evaluate, simulated
from sim.vectorised.machines import Machines, costs_of, may_differ
from sim.workload import MODELS, Workload

SIZE = 5
NETWORK = {
    "times.cluster.link.resources.*.bytes_per_s": (0.2, 2), "cluster.link.ramp_s": (0, 1e-3),
    "cluster.link.ramp_bytes": (1e6, 1e8), "cluster.link.least_s": (0, 1e-3), "cluster.host.launch_s": (0, 1e-4),
    "times.cluster.compute.attention_share": (0.5, 1), "cluster.interference.communication": (0, 0.5),
    "cluster.interference.compute.E": (0, 0.5), "cluster.interference.multiprocessors": (0.01, 0.2),
}  # fmt: skip
LATENCIES = {
    "cluster.link.resources.host.latency_s": (0, 1e-3),
    "times.cluster.link.resources.sockets.bytes_per_s": (0.5, 1),
}
LINK = {
    "cluster.link.bytes_per_s": (1e7, 1e8), "cluster.link.latency_s": (0, 1e-3), "cluster.link.counts_s": (0, 1e-3),
    "cluster.link.burst_bytes": (0, 1e5), "cluster.compute.E.flops_per_s": (1e10, 1e11),
    "times.cluster.host.wake_s": (0.5, 2),
}  # fmt: skip
CASES: list[tuple[str, dict[str, tuple[float, float]], int, Mesh | None]] = [
    ("8x-h100", NETWORK, 8, None),
    ("8x-rtx4090", {**NETWORK, **LATENCIES}, 8, None),
    ("8x-l40s", LATENCIES, 8, Mesh(expert=4, guidance=2)),
    ("2x8-h100", {"cluster.link.resources.nic.latency_s": (0, 1e-3)}, 16, None),
    ("cpu-2-ranks", LINK, 2, None),
]


def drawn(ranges: dict[str, tuple[float, float]], seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {key: random.uniform(low, high, SIZE) for key, (low, high) in ranges.items()}


@pytest.mark.parametrize(("name", "ranges", "ranks", "mesh"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("source", ["sync", "dice", "overlap", "distrifusion"])
def test_costs_are_those_of_each_machine(
    name: str, ranges: dict[str, tuple[float, float]], ranks: int, mesh: Mesh | None, source: str
) -> None:
    if mesh is not None and source == "distrifusion":
        mesh = Mesh(patch=4, guidance=2)
    schedule = load_schedule(source, 2, 4)
    experts = 16 if ranks == 16 else 8
    model = MODELS["tiny"].__class__(**{**vars(MODELS["tiny"]), "experts": experts, "latent": 32})
    workload = Workload(model, ranks, 4, mesh=mesh).fits(schedule)
    machines = Machines.of(cluster_tables(name), SIZE, drawn(ranges))
    batch = costs_of(schedule, workload, machines, sorts(schedule, workload))
    costs = Costs(schedule)
    for i in range(SIZE):
        one = Config(workload, machines.of_machine(i))
        seconds = costs.seconds([one])[0][:, : batch.ranks]
        assert np.array_equal(batch.ticks[..., i], np.rint(seconds * 1e12))
        assert np.array_equal(batch.burst[:, i], np.rint(costs.bursts([one])[0] * 1e12))
        assert np.array_equal(batch.kernels[:, i], costs.launches([one])[0])
        host, slow = one.cluster.host, one.cluster.interference
        assert batch.wake[i] == np.rint(host.wake_s * 1e12)
        assert batch.slow_transfer[i] == 1 + slow.communication
        kinds = [op.kind for op in sorts(schedule, workload)[1]]
        assert batch.slow_compute[:, i].tolist() == [1 + slow.of_compute(kind) for kind in kinds]


@pytest.mark.parametrize("name", ["8x-h100", "8x-rtx4090", "cpu-2-ranks"])
@pytest.mark.parametrize("calm", [True, False])
@pytest.mark.parametrize("source", ["sync", "interweaved", "dice", "overlap"])
def test_outcomes_are_those_of_simpy(name: str, calm: bool, source: str) -> None:
    tables = cluster_tables(name)
    factor = np.zeros(SIZE) if calm else np.linspace(0.1, 0.5, SIZE)
    changes = drawn({"times.cluster.host.launch_s": (0.5, 2)}) | {
        f"cluster.interference.{key}": factor for key in ("compute.*", "communication", "multiprocessors")
    }
    case = Case(load_schedule(source, 3, 4), Workload(MODELS["tiny"], tables["ranks"], 4), tables, SIZE, changes)
    fast, slow = evaluate(case), simulated(case)
    assert {*fast.engine} == {"recurrence" if calm else "lockstep"}
    assert {*slow.engine} == {"simulation"}
    assert fast.makespan_s == pytest.approx(slow.makespan_s, rel=0 if calm else 1e-6, abs=0)
    assert fast.computing_alone_s == pytest.approx(slow.computing_alone_s, rel=1e-9)
    assert fast.communicating_alone_s == pytest.approx(slow.communicating_alone_s, rel=1e-9)


def test_machines_with_and_without_interference_go_to_their_engines() -> None:
    tables = cluster_tables("8x-h100")
    factor = np.array([0.0, 0.2, 0.0, 0.3, 0.0])
    changes = {f"cluster.interference.{key}": factor for key in ("compute.*", "communication", "multiprocessors")}
    case = Case(load_schedule("dice", 2, 4), Workload(MODELS["tiny"], 8, 2), tables, SIZE, changes)
    found = evaluate(case)
    assert found.engine.tolist() == ["recurrence", "lockstep"] * 2 + ["recurrence"]
    assert found.makespan_s == pytest.approx(simulated(case).makespan_s, rel=1e-6)


def test_a_machine_that_cannot_be_is_refused_and_the_others_run() -> None:
    rates = np.array([1e9, -1e9, 2e9, 0.0, 3e9])
    case = Case(load_schedule("sync", 2, 4), Workload(MODELS["tiny"], 8, 2), cluster_tables("8x-h100"), SIZE,
                {"cluster.link.resources.port.bytes_per_s": rates})  # fmt: skip
    found = evaluate(case)
    assert [error is None for error in found.error] == [True, False, True, False, True]
    assert "bytes_per_s=-1e+09 should be above 0" in found.error[1]
    assert np.isnan(found.makespan_s).tolist() == [False, True, False, True, False]


def test_only_numbers_that_engines_take_may_differ_within_a_batch() -> None:
    for key in ("cluster.link.bytes_per_s", "times.cluster.link.resources.*.latency_s", "cluster.host.wake_s",
                "cluster.interference.compute.E", "times.cluster.interference.multiprocessors",
                "times.cluster.compute.gemm.fixed_s"):  # fmt: skip
        assert may_differ(key), key
    for key in ("cluster.ranks", "cluster.compute.gpu", "cluster.host.priority", "cluster.link.scope", "images",
                "cluster.interference.rate_at.0.1", "cluster.jitter.A", "cluster.link.routes.0.weight",
                ):  # fmt: skip
        assert not may_differ(key), key


def test_a_key_that_leads_nowhere_is_said_to() -> None:
    with pytest.raises(ValueError, match=r"link\.latency: unknown key"):
        Machines.of(cluster_tables("cpu-2-ranks"), 2, {"cluster.link.latency": np.ones(2)})
    with pytest.raises(ValueError, match="there is no nowhere"):
        Machines.of(cluster_tables("cpu-2-ranks"), 2, {"cluster.nowhere.latency": np.ones(2)})


def test_stars_stand_for_every_name() -> None:
    tables = cluster_tables("8x-rtx4090")
    half = Machines.of(tables, 1, {"times.cluster.link.resources.*.bytes_per_s": np.array([0.5])}).first
    whole = Cluster.of_tables(tables, "x")
    for name, resource in half.link.resources.items():  # type: ignore[union-attr]
        assert resource.bytes_per_s == 0.5 * whole.link.resources[name].bytes_per_s  # type: ignore[union-attr]


def test_batches_are_joined_whatever_their_links_save_up() -> None:
    schedule = load_schedule("sync", 2, 4)
    workload = Workload(MODELS["tiny"], 2, 4).fits(schedule)
    costs = Costs(schedule)
    parts = []
    for burst_bytes in (0.0, 1e-9, 2e4):  # the second is less than a tick
        machine = replace(Cluster.load("cpu-2-ranks"), link=Link(1e-4, 3e7, "pair", burst_bytes=burst_bytes))
        one = [Config(workload, machine)]
        parts.append(batch(costs, one, costs.seconds(one), 1))
    for some in (parts, parts[:2], parts[1:]):
        joined = Batch.joined(some)
        assert joined.size == len(some)
        assert joined.rest.shape[2] == len(some)
