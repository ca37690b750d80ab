"""Networks: as files, as closed forms and as max-min fair flows, and the presets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from cases import cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cluster import COMPUTE_KINDS, Cluster, Link, presets
from sim.schedule import COLLECTIVES
from sim.transfers.collectives import all_to_all_s
from sim.transfers.fabric import Fabric
from sim.transfers.flows import binding, completions_s, max_min_rates
from sim.transfers.network import Network, Resource, Route

Array = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[1]
SWITCH = Network({"port": Resource(10.0, latency_s=1.0)}, (Route(8, ("port",)),))
HOSTED = Network(
    {"port": Resource(20.0), "bridge": Resource(30.0, 2), "host": Resource(40.0, 8, duplex=False)},
    (Route(2, ("port",)), Route(8, ("port", "bridge", "host"))),
)
NODES = Network(
    {"port": Resource(100.0), "nic": Resource(10.0, latency_s=2.0)}, (Route(4, ("port",)), Route(8, ("nic",)))
)


def even(ranks: int, pair_bytes: float = 1.0) -> Array:
    return np.full((ranks, ranks), pair_bytes)


def uneven(ranks: int, seed: int, skew: float = 0.5) -> Array:
    return np.asarray(np.exp(skew * np.random.default_rng(seed).standard_normal((ranks, ranks))) * 1e3)


# ------------------------------------------------------------------------------------------ closed form


@pytest.mark.parametrize("exact", [False, True])
def test_on_a_switch_the_fullest_port_decides(exact: bool) -> None:
    sent = np.array([[0.0, 20, 30], [0, 0, 0], [0, 0, 0]])
    assert Fabric.of(SWITCH, 3).transfer_s(sent, exact).tolist() == pytest.approx(
        [1 + 5, 1 + (4 if exact else 5), 1 + 5]
    )
    assert Fabric.of(SWITCH, 3).transfer_s(even(3, 10.0), exact).tolist() == [1 + 2] * 3


@given(st.integers(2, 8), st.integers(0, 999))
def test_where_traffic_is_even_a_switch_is_a_link_of_ports(ranks: int, pair_bytes: int) -> None:
    sent = even(ranks, float(pair_bytes))
    np.testing.assert_allclose(
        Fabric.of(SWITCH, ranks).all_to_all_s(sent), all_to_all_s(sent, Link(1.0 * (pair_bytes > 0), 10.0))
    )


@pytest.mark.parametrize("exact", [False, True])
def test_neighbours_share_their_bridge_and_all_share_the_host(exact: bool) -> None:
    sent = np.zeros((8, 8))
    sent[0, 1] = 60.0
    assert Fabric.of(HOSTED, 8).transfer_s(sent, exact).max() == 60 / 20
    sent[0, 2] = sent[1, 3] = 30.0
    assert Fabric.of(HOSTED, 8).transfer_s(sent, exact).max() == pytest.approx(90 / 20)
    sent[0, 1] = 0.0
    assert Fabric.of(HOSTED, 8).transfer_s(sent, exact).max() == pytest.approx(60 / 30), "through one bridge, both"
    sent[4, 6] = sent[6, 4] = 30.0
    assert Fabric.of(HOSTED, 8).transfer_s(sent, exact).max() == pytest.approx(120 / 40, rel=0.01), (
        "all through the host"
    )


def test_between_nodes_the_cards_carry_it_and_ports_stay_free() -> None:
    names = Fabric.of(NODES, 8).names
    assert len(names) == 2 * 2 * 8
    sent = np.zeros((8, 8))
    sent[0, 5] = 30.0
    busy = dict(zip(names, Fabric.of(NODES, 8).busy_s(sent).tolist(), strict=True))
    assert {name: s for name, s in busy.items() if s} == {"nic 0 out": 3.0, "nic 5 in": 3.0}
    assert Fabric.of(NODES, 8).transfer_s(sent).tolist() == [5.0, 2, 2, 2, 2, 5.0, 2, 2], "latency, and who moves bytes"


def test_what_a_rank_keeps_is_free_unless_a_route_says_what_it_costs() -> None:
    copying = replace(SWITCH, routes=(Route(1, ("port",), 0.5), *SWITCH.routes))
    assert Fabric.of(SWITCH, 2).transfer_s(even(2, 10.0)).tolist() == [1 + 1] * 2
    assert Fabric.of(copying, 2).transfer_s(even(2, 10.0)).tolist() == [1 + 1.5] * 2


def test_a_transfer_starts_up_and_has_a_floor() -> None:
    slow = replace(SWITCH, ramp_s=4.0, ramp_bytes=10.0)
    assert Fabric.of(slow, 2).transfer_s(even(2, 10.0)).tolist() == [1 + 4 / 2 + 1] * 2
    assert Fabric.of(slow, 2).transfer_s(even(2, 0.0)).tolist() == [0.0] * 2
    assert Fabric.of(replace(SWITCH, least_s=3.0), 2).transfer_s(even(2, 10.0)).tolist() == [3.0] * 2
    assert Fabric.of(replace(SWITCH, least_s=3.0), 2).transfer_s(even(2, 90.0)).tolist() == [1 + 9.0] * 2


def test_an_all_gather_brings_every_rank_all() -> None:
    for network, ranks in [(SWITCH, 4), (HOSTED, 8), (NODES, 8)]:
        moved = Fabric.of(network, ranks).all_gather(3.0)
        np.testing.assert_allclose((moved - 3.0 * np.eye(ranks)).sum(axis=0), 3.0 * (ranks - 1))
    assert Fabric.of(SWITCH, 4).all_gather_s(10.0).tolist() == [1 + 3.0] * 4
    assert Fabric.of(NODES, 8).all_gather_s(10.0).max() == pytest.approx(2 + 70 / 4 / 10), "a ring a card"


@pytest.mark.parametrize("sent", [np.zeros((2, 2)), -even(3)])
def test_what_is_no_byte_matrix_is_refused(sent: Array) -> None:
    with pytest.raises(ValueError, match=r"bytes \[src, dst\] of 3 ranks should not be negative, not\n"):
        Fabric.of(SWITCH, 3).transfer_s(sent)


# ----------------------------------------------------------------------------------------- hierarchical


@given(st.integers(0, 99))
def test_a_hierarchical_all_to_all_brings_every_byte_and_evens_the_cards(seed: int) -> None:
    fabric = Fabric.of(replace(NODES, all_to_all="hierarchical"), 8)
    moved = uneven(8, seed)
    collect, across, spread = fabric.all_to_all(moved)
    same = np.arange(8)[:, None] // 4 == np.arange(8) // 4
    away, home = np.where(same, 0, moved), np.where(same, moved, 0)
    np.testing.assert_allclose((collect - home).sum(axis=1), away.sum(axis=1), err_msg="all leaves its rank")
    np.testing.assert_allclose(across[:4].sum(axis=1), away[:4].sum() / 4, err_msg="the same through each card")
    np.testing.assert_allclose(spread.sum(axis=0), away.sum(axis=0), err_msg="all comes to its rank")
    np.testing.assert_allclose(collect[:, :4].sum(axis=0) - home[:, :4].sum(axis=0), across[:4].sum(axis=1))
    assert fabric.all_to_all_s(moved).max() == pytest.approx(
        sum(fabric.transfer_s(part).max() for part in (collect, across, spread))
    )


def test_hierarchical_pays_where_one_card_has_much_more_than_the_others() -> None:
    direct, hierarchical = Fabric.of(NODES, 8), Fabric.of(replace(NODES, all_to_all="hierarchical"), 8)
    assert hierarchical.all_to_all_s(even(8, 100.0)).max() > direct.all_to_all_s(even(8, 100.0)).max()
    hot = even(8, 1.0)
    hot[:, 5] = 100.0  # everybody wants the experts of rank 5
    assert hierarchical.all_to_all_s(hot).max() < 0.5 * direct.all_to_all_s(hot).max()


# ------------------------------------------------------------------------------------------------- flows


@st.composite
def ways(draw: st.DrawFn) -> tuple[Array, Array]:
    """passes [resource, flow], each flow through at least one, and rates [resource]."""
    resources, flows = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    passes = (random.random((resources, flows)) < 0.4).astype(np.float64)
    passes[random.integers(resources, size=flows), np.arange(flows)] = 1.0
    return passes, np.exp(random.normal(0, 3, resources))


@given(ways())
def test_no_resource_is_over_its_rate_and_nobody_can_gain_at_the_cost_of_somebody_richer_alone(
    way: tuple[Array, Array],
) -> None:
    passes, rates = way
    flows = max_min_rates(passes, rates)
    through = passes @ flows
    assert (through <= rates * (1 + 1e-9)).all()
    full = through >= rates * (1 - 1e-6)
    for flow in range(passes.shape[1]):
        bottlenecks = [
            resource
            for resource in np.flatnonzero(full & (passes[:, flow] > 0))
            if flows[flow] >= flows[passes[resource] > 0].max() * (1 - 1e-6)
        ]
        assert bottlenecks, f"flow {flow} could be faster without slowing one that is no faster"


@given(ways(), st.integers(1, 6), st.integers(0, 99))
def test_rates_of_many_sets_are_those_of_each_and_only_binding_resources_decide(
    way: tuple[Array, Array], sets: int, seed: int
) -> None:
    passes, rates = way
    flowing = np.random.default_rng(seed).random((sets, passes.shape[1])) < 0.6
    rows = binding(passes, rates)
    found = max_min_rates(passes[rows], rates[rows], flowing.astype(np.float64))
    for mine, some in zip(found, flowing, strict=True):
        np.testing.assert_allclose(mine[some], max_min_rates(passes[:, some], rates), rtol=1e-9)
        assert not mine[~some].any()


def test_a_resource_within_a_slower_one_never_decides() -> None:
    passes = np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert binding(passes, np.array([5.0, 4, 3, 3, 1])).tolist() == [False, True, True, False, False]


@given(ways(), st.integers(0, 99))
def test_all_bytes_arrive_and_no_resource_carries_more_than_its_rate_allows(
    way: tuple[Array, Array], seed: int
) -> None:
    passes, rates = way
    sent = np.random.default_rng(seed).exponential(1.0, passes.shape[1])
    ends = completions_s(sent, passes, rates)
    assert (ends > 0).all()
    assert (passes @ sent <= rates * np.max(passes * ends, axis=1) * (1 + 1e-9)).all()
    alone = [float(sent[f] / rates[passes[:, f] > 0].min()) for f in range(len(sent))]
    assert (ends >= np.array(alone) * (1 - 1e-9)).all()


@given(st.integers(2, 8))
def test_even_flows_end_together_when_the_closed_form_says(ranks: int) -> None:
    for network in (SWITCH, NODES):
        fabric = Fabric.of(network, ranks)
        np.testing.assert_allclose(fabric.transfer_s(even(ranks)).max(), fabric.transfer_s(even(ranks), True).max())


def shortfalls(fabric: Fabric, skew: float) -> list[float]:
    """What the closed form of the slowest rank lacks to max-min flows, of 100 uneven transfers."""
    moved = [uneven(8, seed, skew) for seed in range(100)]
    return [float(1 - fabric.moving_s(each).max() / fabric.flowing_s(each).max()) for each in moved]


def test_the_closed_form_of_the_slowest_rank_is_a_lower_bound_and_close() -> None:
    """What docstrings say of it: below max-min flows by 0.1 to 1 % on average on a switch, 10 % at worst."""
    for skew, mean, worst in [(0.1, 0.002, 0.02), (0.5, 0.01, 0.10)]:
        short = shortfalls(Fabric.of(SWITCH, 8), skew)
        assert min(short) > -1e-9
        assert 0 < np.mean(short) < mean
        assert max(short) < worst


@pytest.mark.parametrize(("name", "mean", "worst"), [("8x-rtx-pro-6000", 0.05, 0.11), ("8x-l40s", 1e-9, 1e-9)])
def test_the_closed_form_on_shared_hosts_is_as_close_as_the_page_says(name: str, mean: float, worst: float) -> None:
    short = shortfalls(Cluster.load(name).fabric, 0.5)
    assert np.mean(short) < mean
    assert max(short) < worst


# ------------------------------------------------------------------------------------------------- files


@st.composite
def networks(draw: st.DrawFn) -> Network:
    names = draw(st.lists(st.sampled_from(["port", "bridge", "host", "nic"]), min_size=1, unique=True))
    rate, seconds = st.floats(1e-3, 1e12), st.floats(0, 1)
    resources = {
        n: Resource(draw(rate), draw(st.integers(1, 8)), draw(seconds), draw(st.booleans()), "a source") for n in names
    }
    routes = (Route(2, tuple(names[:1])), Route(99, tuple(names), draw(st.floats(0.1, 4))))
    ramp = draw(st.sampled_from([(0.0, 0.0), (1e-5, 1e6)]))
    return Network(resources, routes, *ramp, draw(seconds), draw(st.sampled_from(["direct", "hierarchical"])))


@settings(max_examples=20)
@given(networks())
def test_a_network_is_saved_and_loaded_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, network: Network
) -> None:
    file = tmp_path_factory.getbasetemp() / "network.yaml"
    saved = cluster(4, link=network)
    saved.save(file)
    assert Cluster.load(file) == saved


GOOD = """
resources:
  port: {bytes_per_s: 20 GB/s, latency_s: 5 us}
  nic: {bytes_per_s: 400 Gbit/s}
routes:
- {within: 2, via: [port]}
- {within: 4, via: [nic]}
"""


def load(link: str, tmp_path: Path, ranks: int = 4) -> Cluster:
    data = yaml.safe_load(str(cluster(ranks)))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**data, "link": yaml.safe_load(link)}, sort_keys=False))
    return Cluster.load(tmp_path / "c.yaml")


def test_a_file_may_write_units(tmp_path: Path) -> None:
    link = load(GOOD, tmp_path).link
    assert isinstance(link, Network)
    assert link.resources == {"port": Resource(20e9, latency_s=5e-6), "nic": Resource(50e9)}
    assert link.routes == (Route(2, ("port",)), Route(4, ("nic",)))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("via: [nic]", "via: [nick]", r"link.routes\[1\].via 'nick' leads nowhere; resources: port, nic"),
        ("via: [nic]", "via: [port]", "link.resources.nic has no effect: no route passes it"),
        ("via: [nic]", "via: []", r"link.routes\[1\].via is empty: a byte passes at least one resource"),
        ("within: 4", "within: 3", "link.routes: rank 0 has none to rank 3; they end within 3 ranks"),
        ("within: 4", "within: 2", r"link.routes\[1\].within=2 should be above 2, the one before"),
        ("within: 4", "within: 0", r"link.routes\[1\].within=0 should be a whole number above 0"),
        ("20 GB/s", "0", "link.resources.port.bytes_per_s=0 should be above 0"),
        ("20 GB/s", "-1", "link.resources.port.bytes_per_s=-1 should be above 0"),
        ("5 us", "-5 us", "link.resources.port.latency_s=-5e-06 should be at least 0"),
        ("5 us", "5 GB", "unknown unit 'GB'"),
        ("{within: 2,", "{within: 2, weight: 0,", r"link.routes\[0\].weight=0 should be above 0"),
        ("bytes_per_s: 400 Gbit/s", "latency_s: 1 us", "link.resources.nic.bytes_per_s: missing"),
        ("400 Gbit/s", "400 Gbit/s, of_ranks: 2.5", "link.resources.nic.of_ranks"),
        ("400 Gbit/s", "400 Gbit/s, lanes: 2", "link.resources.nic.lanes: unknown key"),
        ("routes:", "transport: host-staged\nroutes:", "link.transport: unknown key"),
        ("routes:", "all_to_all: ring\nroutes:", "link.all_to_all='ring' should be one of direct, hierarchical"),
        ("routes:", "ramp_s: 1 us\nroutes:", "link.ramp_s and ramp_bytes have an effect together only"),
        ("routes:", "scope: pair\nroutes:", "link.scope: unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_network_is_said(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=why):
        load(GOOD.replace(old, new), tmp_path)


def test_a_network_that_does_not_suit_its_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"link.routes: rank 0 has none to rank 8; they end within 8 ranks"):
        cluster(16, link=SWITCH)
    with pytest.raises(ValueError, match="rank 0 has none to rank 8"):
        Fabric.of(SWITCH, 16)
    with pytest.raises(ValueError, match="all_to_all=hierarchical has no effect: all ranks are on one node"):
        replace(SWITCH, all_to_all="hierarchical")
    with pytest.raises(ValueError, match="all_to_all=hierarchical has no use for 4 ranks in nodes of 4"):
        cluster(4, link=replace(NODES, all_to_all="hierarchical"))
    with pytest.raises(ValueError, match=r"port.bytes_per_s=0 should be above 0"):
        replace(SWITCH, resources={"port": Resource(0.0)})
    with pytest.raises(ValueError, match="routes: there are none"):
        replace(SWITCH, routes=())


# ----------------------------------------------------------------------------------------------- presets

NAMES = ["2x8-h100", "4x8-h100", "8x-a100", "8x-b200", "8x-h100", "8x-h200", "8x-l40s", "8x-rtx-pro-6000", "8x-rtx4090"]


def preset_link(name: str) -> Network:
    link = Cluster.load(name).link
    assert isinstance(link, Network)
    return link


def test_the_presets_are_these_and_an_unknown_name_lists_them() -> None:
    assert presets() == sorted([*NAMES, "cpu-2-ranks"])
    with pytest.raises(
        ValueError, match="no cluster is called 8x-h1000, and no file; the names are 2x8-h100, 4x8-h100"
    ):
        Cluster.load("8x-h1000")
    assert Cluster.load("cpu-2-ranks").link == Cluster.load(
        ROOT / "calibration/data/cpu-2-ranks/cluster-30MB-per-s.yaml"
    ).link  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_of_a_preset_has_a_route(name: str) -> None:
    link = preset_link(name)
    ranks = link.routes[-1].within
    assert ranks == {"2x8": 16, "4x8": 32}.get(name[:3], 8)
    fabric = Fabric.of(link, ranks)
    assert fabric.all_to_all_s(even(ranks, 2**20)).min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_has_an_effect_on_every_kind_of_op_of_a_preset_which_says_that_it_is_assumed(name: str) -> None:
    preset = Cluster.load(name)
    assert {*preset.jitter} == {*COMPUTE_KINDS, *COLLECTIVES}
    assert min(preset.jitter.values()) > 0
    assert preset.sources["jitter"].startswith("assumed: ")


def test_the_presets_are_what_the_benchmark_fitted() -> None:
    fitted: dict[str, Any] = json.loads((ROOT / "benchmarks/results/network.json").read_text())["errors in percent"]
    for name, system in {"8x-h100": "h100_sxm", "2x8-h100": "h100_sxm", "8x-b200": "b200_sxm"}.items():
        port = preset_link(name).resources["port"]
        assert port.bytes_per_s == pytest.approx(fitted[system]["parameters"]["bytes_per_s"], rel=1e-3)
    for name, system in {"8x-l40s": "l40s", "8x-rtx-pro-6000": "rtx_pro_6000_server"}.items():
        host = preset_link(name).resources["host"]
        assert host.bytes_per_s == pytest.approx(fitted[system]["parameters"]["host"], rel=1e-3)


def test_eight_gpus_on_a_host_have_a_tenth_of_what_two_have() -> None:
    """Public measurements of L40S: 22, 4.5 and 2 GB/s a GPU on 2, 4 and 8."""
    link = preset_link("8x-l40s")
    rates = [2**27 * (n - 1) / n / Fabric.of(link, n).all_to_all_s(even(n, 2**27 / n)).max() / 1e9 for n in (2, 4, 8)]
    assert rates == [pytest.approx(22, rel=0.05), pytest.approx(4.5, rel=0.05), pytest.approx(1.6, rel=0.3)]
