"""Machines that cannot be, as a user would hand them in: each refused through the command line with what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from command_line import called

from sim.cluster import preset_or
from sim.gpu import gpu_table
from sim.tables import read_table, table_text

BASE = read_table(preset_or("8x-h100"))
Change = Callable[[dict[str, Any]], object]


def gpu(**changes: object) -> Change:
    """With another GPU than the H100."""
    return lambda tables: tables.update(compute={**gpu_table("h100_sxm"), **changes})


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code, out, err = called(capsys, *words)
    assert "Traceback" not in err
    return code, out, err


def port(key: str, value: object) -> Change:
    return lambda tables: tables["link"]["resources"]["port"].update({key: value})


CASES: dict[str, tuple[Change, str]] = {
    "a link to nowhere": (
        lambda tables: tables["link"]["routes"].append({"within": 16, "via": ["card"]}),
        "link.routes[2].via 'card' leads nowhere; resources: port",
    ),
    "ranks without a route": (lambda tables: tables.update(ranks=16), "rank 0 has none to rank 8; they end within 8"),
    "a rate of 0": (port("bytes_per_s", 0), "port.bytes_per_s=0 should be above 0"),
    "a negative rate": (port("bytes_per_s", -1), "port.bytes_per_s=-1 should be above 0"),
    "a rate that is none": (port("bytes_per_s", float("nan")), "port.bytes_per_s=nan should be above 0 and finite"),
    "an endless rate": (port("bytes_per_s", float("inf")), "port.bytes_per_s=inf should be above 0 and finite"),
    "a negative latency": (port("latency_s", -1e-5), "port.latency_s=-1e-05 should be at least 0"),
    "a unit of time for a rate": (port("bytes_per_s", "200 ms"), "unknown unit 'ms' in '200 ms'; known here: B/s"),
    "bytes for a time": (lambda tables: tables["host"].update(launch_s="5 GB"), "known here: s, ms, us, ns"),
    "no ranks": (lambda tables: tables.update(ranks=0), "ranks=0 should be above 0"),
    "yes for a number": (lambda tables: tables.update(ranks=True), "ranks=true should be a number"),
    "half a rank": (lambda tables: tables.update(ranks=2.5), "ranks: Input should be a valid integer"),
    "a list for a map": (lambda tables: tables.update(link=[1, 2]), "link: Input should be a dictionary"),
    "a list of resources": (lambda tables: tables["link"].update(resources=[1]), "leads nowhere; resources: none"),
    "a word for a list": (
        lambda tables: tables["link"]["routes"][0].update(via="port"),
        "link.routes.0.via: Input should be a valid tuple ('port')",
    ),
    "nothing for a map": (lambda tables: tables.update(host=None), "host: Input should be a dictionary"),
    "no such GPU": (lambda tables: tables.update(compute={"gpu": "z80"}), "no GPU is called z80, and no file"),
    "attention beyond the peak": (gpu(attention_share=5), "compute.attention_share=5 should be a share, at most 1"),
    "no peak": (gpu(peak={}), "compute.peak is empty, and should have at least one of fp32_flops_per_s"),
    "a dtype of its own": (
        gpu(peak={"bf16_flops_per_s": 1e14, "fp12_flops_per_s": 1e15}),
        "fp12_flops_per_s: unknown, not",
    ),
    "ranks and a resource without a route": (
        lambda tables: (tables["link"]["routes"].pop(), tables["link"]["resources"].update(card={"bytes_per_s": 1e9})),
        "rank 0 has none to rank 1; they end within 1",
    ),
    "a share above 1": (
        lambda tables: tables["interference"].update(multiprocessors=1.2),
        "interference.multiprocessors=1.2 should be below 1",
    ),
    "a curve over words": (
        lambda tables: tables["interference"].update(rate_at={"few": 0.5}),
        "interference.rate_at.few: should be a share of the multiprocessors",
    ),
    "a source that is a number": (
        lambda tables: tables["interference"].update(source=5),
        "interference.source: Input should be a valid string",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_no_machine_can_be_is_refused_with_the_reason(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, why = CASES[name]
    tables, file = deepcopy(BASE), tmp_path / "mine.yaml"
    change(tables)
    file.write_text(table_text(tables))
    for words in (["cluster", f"{file}"], ["simulate", "sync", "--steps", "2", "--cluster", f"{file}"]):
        code, out, err = told(capsys, *words)
        assert code == 2
        assert out == ""
        assert why in err, err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- 1\n- 2\n", "Input should be a dictionary"),
        ("hello\n", "Input should be a dictionary"),
        ("", "ranks: missing"),
        ("a:\n\tb: 1\n", "not YAML"),
        ("a: &a [*a]\n", "a: unknown key"),
        ("name: x\nname: y\n", "duplicate key name"),
    ],
)
def test_files_that_are_no_cluster_are_refused(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    code, _, err = told(capsys, "cluster", f"{file}")
    assert code == 2
    assert why in err


def test_one_rank_of_a_measured_machine_needs_no_factor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(table_text({**BASE, "ranks": 1}))
    code, out, _ = told(capsys, "cluster", f"{file}")
    assert code == 0
    assert "ranks: 1" in out


def test_an_unknown_dtype_is_refused_and_a_model_that_does_not_fit_gets_a_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["simulate", "sync", "--steps", "1", "--cluster", "8x-rtx4090"]
    code, _, err = told(capsys, *asked, "--dtype", "fp4")
    assert (code, "has no fp4; it has fp32, tf32, bf16, fp16, fp8" in err) == (2, True)
    code, out, err = told(capsys, *asked, "--model", "G", "--images", "512")
    assert (code, "sync" in out) == (0, True)
    assert "does not fit: sync needs" in err
    assert "more than the 25.8 of RTX 4090 24 GB" in err
    assert "does not fit" not in told(capsys, *asked, "--model", "S", "--images", "4")[2]


def test_each_fault_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, said in [(gpu(multiprocessors=-4), "multiprocessors=-4"), (gpu(gpu="z80"), "compute.gpu="),
                         (CASES["no such GPU"][0], "compute"), (CASES["a word for a list"][0], "via")]:  # fmt: skip
        tables = deepcopy(BASE)
        change(tables)
        (tmp_path / "c.yaml").write_text(table_text(tables))
        _, _, err = told(capsys, "cluster", str(tmp_path / "c.yaml"))
        assert err.count(said) == 1, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("memory sync --steps 2 --cluster 8x-h100 --element-bytes 0", "element_bytes=0 should be at least 1"),
        ("memory sync --steps 2 --memory=-4GiB", "--memory=-4GiB should be above 0"),
        ("memory sync --steps 2 --memory 24GiB --ranks 0", "ranks=0 should be at least 1"),
        ("cluster 8x-h100 --picture x.gif", "x.gif: the name of a picture ends in one of .pdf, .png, .svg"),
        ("simulate sync --steps 2 --cluster 8x-h100 --seed -1", "greater than or equal to 0"),
    ],
)
def test_options_that_no_machine_can_have(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, *words.split())
    assert code == 2
    assert said in " ".join(err.split())


def test_two_faults_of_one_key_are_both_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = deepcopy(BASE)
    tables.update(ranks=1)
    tables["link"].update(all_to_all="hierarchical")
    (tmp_path / "c.yaml").write_text(table_text(tables))
    _, _, err = told(capsys, "cluster", str(tmp_path / "c.yaml"))
    assert "link.all_to_all=hierarchical has no effect: all ranks are on one node" in err
    assert "all_to_all=hierarchical has no use for 1 ranks in nodes of 1" in err
