"""Clusters in words and as pictures: what is printed loads back, what differs is said and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from typer.testing import CliRunner

from sim.cli import app
from sim.cluster import Cluster, presets
from sim.cluster_text import described, difference, summary, unsourced
from sim.pictures.cluster import draw_cluster, joined, levels
from sim.transfers.network import Network


@pytest.mark.parametrize("name", presets())
def test_what_is_printed_is_the_cluster(name: str, tmp_path: Path) -> None:
    cluster = Cluster.load(name)
    (tmp_path / "again.yaml").write_text(described(cluster))
    assert Cluster.load(tmp_path / "again.yaml") == cluster
    assert str(cluster.ranks) in summary(cluster)[0]


@pytest.mark.parametrize("name", presets())
def test_every_number_of_a_preset_has_its_source_beside_it(name: str) -> None:
    cluster = Cluster.load(name)
    assert unsourced(cluster) == []
    assert not any("without a source" in line for line in summary(cluster))


def test_a_number_without_a_source_is_named() -> None:
    whole = Cluster.load("8x-h100")
    assert isinstance(whole.link, Network)
    port, kept = whole.link.resources["port"], whole.link.routes[0]
    for changes, keys in [
        ({"host": replace(whole.host, source="")}, ["host.launch_s", "host.collective_s"]),
        ({"sources": {**whole.sources, "ranks": ""}}, ["ranks"]),
        ({"link": replace(whole.link, resources={"port": replace(port, source="")})},
         ["link.resources.port.bytes_per_s", "link.resources.port.of_ranks", "link.resources.port.latency_s"]),
        ({"link": replace(whole.link, routes=(replace(kept, source=""), *whole.link.routes[1:]))},
         ["link.routes[0].within", "link.routes[0].weight"]),
    ]:  # fmt: skip
        assert unsourced(replace(whole, **changes)) == keys
    bare = replace(whole, jitter={"A": 0.1, "D": 0.2}, sources={"ranks": "seen"}, link=replace(whole.link, source=""))
    assert {"link.ramp_s", "link.least_s", "link.factors.8.1048576.0", "jitter.A"} <= {*unsourced(bare)}
    assert "without a source: link.ramp_s" in summary(bare)[-1]
    with pytest.raises(ValueError, match=r"sources\.colour: unknown key \('seen'\); there are name, ranks"):
        replace(whole, sources={"colour": "seen"})


def test_a_list_of_machines_and_a_simulation_say_how_each_is_known() -> None:
    listed = CliRunner().invoke(app, ["cluster"])
    assert listed.exit_code == 0
    rows = {line.split()[0]: line for line in listed.stdout.splitlines()[1:]}
    assert [*rows] == presets()
    assert "inferred, not measured" in rows["8x-rtx4090"]
    assert "fitted" in rows["8x-h100"]
    done = CliRunner().invoke(app, ["simulate", "sync", "--steps", "1", "--cluster", "8x-rtx4090", "--images", "1"])
    assert "8 x RTX 4090, PCIe, no peer-to-peer: inferred, not measured" in done.stderr


def test_a_difference_names_what_differs_and_only_that() -> None:
    one = Cluster.load("8x-h100")
    assert difference(one, one) == [f"{one.name} and {one.name} do not differ"]
    other = replace(one, host=replace(one.host, launch_s=2 * one.host.launch_s))
    lines = difference(one, other)
    assert sum("host.launch_s" in line for line in lines) == 1
    assert len(lines) == len(difference(one, replace(one, name="another")))
    assert lines[-1].split() == ["host.launch_s", "5e-06", "1e-05", "2"]


def test_a_way_that_passes_no_port_is_not_drawn_over_the_ports() -> None:
    assert {name: height for height, name, _ in levels(Cluster.load("2x8-h100"))} == {"port": 1, "nic": -1}
    stacked = {name: height for height, name, _ in levels(Cluster.load("8x-l40s"))}
    assert stacked == {"port": 1, "bridge": 2, "host": 3, "sockets": 4}


def test_pictures_tell_latencies_and_draw_every_rank(tmp_path: Path) -> None:
    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_cluster(Cluster.load("4x8-h100"), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "first" not in text
    assert ">31</text>" in text
    assert text.count(">nic</text>") == 32
    for told in ("nic: 50 GB/s each way, 5 us", "within 8: port, 9.424 us in all"):
        assert told in text
    assert [text.count(f">{word}</text>") for word in ("node 0", "node 3", "node 4", "switch: 8 ranks")] == [1, 1, 0, 4]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("8x-h100", [(2, 8, "switch")]),
        ("2x8-h100", [(2, 8, "switch"), (-2, 16, "network")]),
        ("8x-l40s", [(5, 8, "joined")]),
        ("cpu-2-ranks", []),
    ],
)
def test_ranks_are_joined_where_their_ways_end(name: str, ends: list[tuple[int, int, str]]) -> None:
    assert joined(Cluster.load(name)) == ends


@pytest.mark.parametrize("name", ["8x-l40s", "2x8-h100", "cpu-2-ranks"])
def test_any_cluster_is_drawn(name: str, tmp_path: Path) -> None:
    draw_cluster(Cluster.load(name), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert text.count("<path") > Cluster.load(name).ranks


def test_the_command_prints_draws_and_compares(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["cluster", "8x-h100", "--diff", "8x-h200", "--picture", str(tmp_path / "c.png")])
    assert done.exit_code == 0
    assert "compute.memory_bytes_per_s" in done.stdout
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_a_difference_shows_sources_whole_and_each_pair_once() -> None:
    one, other = Cluster.load("8x-h100"), Cluster.load("8x-l40s")
    lines = difference(one, other)
    assert isinstance(one.link, Network)
    assert isinstance(other.link, Network)
    at = lines.index("link.resources.port.source, link.source")
    assert lines[at + 1 : at + 3] == [f"    is     {one.link.source}", f"    there  {other.link.source}"]
    assert not any("..." in line for line in lines)
    told = difference(one, replace(one, source="as measured by somebody, with a clock, on a machine"))
    assert [line.split()[0] for line in told] == ["source", "is", "there"]


def test_a_difference_inside_a_list_says_where() -> None:
    one = Cluster.load("8x-l40s")
    assert isinstance(one.link, Network)
    routes = (*one.link.routes[:-1], replace(one.link.routes[-1], weight=1.7))
    lines = difference(one, replace(one, link=replace(one.link, routes=routes)))
    assert [line.split() for line in lines[1:]] == [["link.routes[2].weight", "1", "1.7", "1.7"]]
    told = [line.split() for line in difference(one, Cluster.load("8x-h100"))]
    assert ["compute.gemm.factor", "54", "values", "54", "values", "54", "differ"] in told
