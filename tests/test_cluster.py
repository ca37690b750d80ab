"""Clusters as files: exact round trips, units, and everything that is wrong said at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import cluster
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cluster import COMPUTE_KINDS, Cluster, Host, Interference, Link, Rate, preset_or, presets
from sim.gpu import Gpu
from sim.tables import read_table, table_text
from sim.transfers.network import Network

GOOD = """
name: lab
ranks: 4
compute:
  P: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  A: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  S: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  E: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  R: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  F: {fixed_s: 5 us, flops_per_s: 2 TFLOP/s}
  Z: {fixed_s: 5 us, flops_per_s: 2e12}
link: {latency_s: 20 us, bytes_per_s: 200 Mbit/s, scope: pair}
host: {launch_s: 1500 ns}
interference: {compute: {A: 0.2}, communication: 0.1}
jitter: {A: 0.02}
errors: {link.latency_s: 1 us, link.bytes_per_s: 0}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.yaml"


def test_a_file_may_write_units(file: Path) -> None:
    file.write_text(GOOD)
    assert Cluster.load(file) == Cluster(
        "lab",
        4,
        dict.fromkeys(COMPUTE_KINDS, Rate(5e-6, 2e12)),
        Link(20e-6, 25e6, "pair"),
        Host(1.5e-6),
        Interference({"A": 0.2}, 0.1),
        jitter={"A": 0.02},
        errors={"link.latency_s": 1e-6, "link.bytes_per_s": 0.0},
    )


numbers = st.floats(0, 1e30)
rates = st.builds(Rate, numbers, st.floats(1e-30, 1e30))
some_kinds = st.dictionaries(st.sampled_from(COMPUTE_KINDS), numbers)
words = st.text(st.characters(codec="utf-8"))
clusters = st.builds(
    Cluster,
    name=words,
    ranks=st.integers(1, 99),
    compute=st.fixed_dictionaries(dict.fromkeys(COMPUTE_KINDS, rates)),
    link=st.builds(
        Link, numbers, st.floats(1e-30, 1e30), st.sampled_from(["pair", "port"]), numbers, numbers, st.booleans()
    ),
    host=st.builds(Host, numbers, numbers, numbers, st.booleans()),
    interference=st.builds(Interference, some_kinds, numbers),
    jitter=some_kinds,
    errors=st.dictionaries(st.sampled_from(["link.latency_s", "compute.A.flops_per_s"]), numbers),
    source=words,
)


@settings(max_examples=20)
@given(clusters)
def test_what_is_saved_loads_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, saved: Cluster) -> None:
    file = tmp_path_factory.getbasetemp() / "cluster.yaml"
    saved.save(file)
    assert Cluster.load(file) == saved


def test_everything_that_is_wrong_is_said_at_once(file: Path) -> None:
    bad = (
        GOOD.replace("ranks: 4", "ranks: four")  # of the wrong type
        .replace("  S: {", "  X: {")  # an unknown kind, and one that is missing
        .replace("R: {fixed_s: 5 us", "R: {fixed_s: -5 us")  # negative
        .replace("2e12", "0")  # no rate
        .replace("200 Mbit/s", "200 Mbit")  # an unknown unit
        .replace("host: {", "host: {threads: 2, ")  # an unknown key within
        .replace("pair", "star")
        .replace("jitter: {A", "noise: 3\njitter: {X")  # an unknown key, and an unknown kind
    )
    file.write_text(bad)
    with pytest.raises(ValueError, match="noise") as error:
        Cluster.load(file)
    assert str(error.value).replace(f"{file}: ", "").splitlines() == [
        "link.bytes_per_s: unknown unit 'Mbit' in '200 Mbit'; "
        "known here: B/s, kB/s, MB/s, GB/s, TB/s, kbit/s, Mbit/s, Gbit/s",
        "ranks: Input should be a valid integer, unable to parse string as an integer ('four')",
        "host.threads: unknown key (2); there are launch_s, collective_s, wake_s, synchronous, priority, source",
        "noise: unknown key (3); there are name, ranks, compute, link, host, interference, jitter, errors, sources, "
        "source",
        "compute lacks S (shared experts)",
        "compute.X: unknown kind; known here: P A S E R F Z Q",
        "jitter.X: unknown kind; known here: P Q K A N D S E C R F Z",
        "link.scope='star' should be 'pair' or 'port'",
        "compute.R.fixed_s=-5e-06 should be at least 0",
        "compute.Z.flops_per_s=0 should be above 0",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "name: missing"),
        ("a: [", "while parsing"),
        ("name: a\nname: b", "duplicate key name"),
        ("- name", "Input should be a dictionary"),
        ("3", "Input should be a dictionary"),
        ("host: 3", "host: Input should be a dictionary"),
        ("link: {latency_s: 1 us}", "link.bytes_per_s: missing"),
    ],
)
def test_what_is_no_cluster_is_refused(file: Path, text: str, why: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=why) as error:
        Cluster.load(file)
    assert all(str(file) in line or line[0] in " dfe" for line in str(error.value).splitlines())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ranks": 0}, "cluster test: ranks=0 should be above 0"),
        ({"compute": {}}, "compute lacks P"),
        ({"link": Link(-1.0, 1.0)}, "link.latency_s=-1 should be at least 0"),
        ({"link": Link(0.0, float("inf"))}, "link.bytes_per_s=inf should be above 0"),
        ({"link": Link(float("nan"), 1.0, "line")}, "'line' should be 'pair' or 'port'; link.latency_s=nan should be"),
        (
            {"interference": Interference({"D": 0.1})},
            "interference.compute.D: unknown kind; known here: P A S E R F Z Q",
        ),
        ({"jitter": {"D": -0.1}}, "jitter.D=-0.1 should be at least 0"),
    ],
)
def test_an_impossible_cluster_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(cluster(), **changes)


GPUS = [name for name in presets() if isinstance(Cluster.load(name).compute, Gpu)]


@pytest.mark.parametrize("name", GPUS)
def test_a_preset_says_how_many_multiprocessors_communication_takes_and_why(name: str) -> None:
    cluster = Cluster.load(name)
    gpu, slow = cluster.compute, cluster.interference
    assert isinstance(gpu, Gpu)
    assert isinstance(cluster.link, Network)
    channels = slow.multiprocessors * gpu.multiprocessors
    assert round(channels) in (2, 16, 32)
    assert channels == pytest.approx(round(channels), rel=5e-3)
    assert f"{round(channels)} of {gpu.multiprocessors}" in slow.source
    assert slow.of_compute("E") == pytest.approx(channels / (gpu.multiprocessors - channels), rel=1e-2)
    memory = 2 * cluster.link.resources["port"].bytes_per_s / (gpu.memory_bytes_per_s * gpu.gemm.memory_share)
    assert slow.of_compute("R") == slow.of_compute("Z") == pytest.approx(memory / (1 - memory), abs=6e-3)
    assert slow.rate == 1.0  # what was fitted to NCCL's own choice
    assert "assumed" in slow.source
    assert "Not measured here" in slow.source


def test_fewer_multiprocessors_free_compute_and_slow_ports() -> None:
    cluster = Cluster.load("8x-h100")
    few = replace(cluster, interference=replace(cluster.interference, multiprocessors=8 / 132))
    assert few.interference.of_compute("E") == pytest.approx(8 / 124)
    assert few.interference.of_compute("R") == cluster.interference.of_compute("R")
    assert few.interference.rate == pytest.approx(498 / 1082, rel=2e-3)
    none = replace(cluster.interference, multiprocessors=0.0)
    assert none.rate == 1.0
    assert none.of_compute("E") == 0.0
    assert none.rates(np.array([0.0, 4 / 132, 0.9])) == pytest.approx([1.0, 0.241, 1.0], rel=1e-3)


def test_a_curve_without_a_share_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "curve.yaml"
    tables = read_table(preset_or("8x-h100"))
    del tables["interference"]["multiprocessors"]
    file.write_text(table_text(tables))
    with pytest.raises(ValueError, match=r"rate_at has no effect without interference\.multiprocessors"):
        Cluster.load(file)
