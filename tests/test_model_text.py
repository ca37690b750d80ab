"""`python -m sim model`: parameters and MACs are the published ones, bytes those that a simulation counts."""

from __future__ import annotations

import re

import pytest
from command_line import Run
from test_cost import PUBLISHED_GMACS
from test_kernels import LINGBOT, PUBLISHED_M

from sim.kernels import attention_macs, forward_macs
from sim.model_text import listed_models, model_lines
from sim.units import quantity
from sim.workload import MODELS, Workload

SIZES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


def numbers(line: str) -> list[float]:
    """Those of a row that have a prefix: "4.168 B" is 4.168e9."""
    return [float(number) * SIZES[prefix] for number, prefix in re.findall(r"([\d.]+) ([kMGBT])(?= |$)", line)]


def row(lines: list[str], name: str) -> str:
    return next(line for line in lines if line.startswith(f"{name} "))


@pytest.mark.parametrize("name", PUBLISHED_M)
def test_parameters_and_macs_are_the_published_ones(name: str) -> None:
    total, active = PUBLISHED_M[name]
    digits = 100 if total >= 1000 else 1  # of the publication: 4.1 B, cut off; 199 M
    for line in (row(listed_models([MODELS[name]]), name), row(model_lines(MODELS[name]), "all")):
        found = numbers(line)
        assert found[0] // (digits * 1e6) * digits == total
        assert found[1] / 1e6 == pytest.approx(active, abs=max(1, digits))
        assert found[2] / 1e9 == pytest.approx(PUBLISHED_GMACS[name], rel=1e-3)


def test_parts_make_up_the_whole() -> None:
    lines = model_lines(MODELS["XL"])
    first = next(i for i, line in enumerate(lines) if line.startswith("part "))
    parts, whole = [numbers(line) for line in lines[first + 1 : first + 6]], numbers(lines[first + 6])
    assert [sum(column) for column in zip(*parts, strict=True)] == pytest.approx(whole, rel=1e-3)
    assert whole[3] == pytest.approx(forward_macs(MODELS["XL"]) / 256, rel=1e-3)
    small = forward_macs(MODELS["S"]) + attention_macs(MODELS["S"])
    assert f"{small / 1e9:.2f}" == "16.03", "with attention's two products"


def test_bytes_are_those_of_weights_on_ranks_and_of_an_all_to_all() -> None:
    for name, whole, shared in [("XL", 8.32e9, 2.08e9), ("G", 33.0e9, 6.34e9)]:
        weights = next(line for line in model_lines(MODELS[name]) if line.startswith("weights in bf16"))
        found = [quantity("_bytes", text) for text in re.findall(r"[\d.]+ GB", weights)]
        assert [found[0], found[2]] == pytest.approx([whole, shared], rel=0.01)
    told = next(line for line in model_lines(MODELS["XL"]) if line.startswith("a token"))
    a_layer = quantity("_bytes", re.findall(r"[\d.]+ kB(?= a layer)", told)[0])
    assert a_layer * Workload(MODELS["XL"], 8, 16).tokens == pytest.approx(37.7e6, rel=0.002), "16 images a rank"


def test_a_file_is_as_good_as_a_name(run: Run) -> None:
    code, out, _ = run(f"model {LINGBOT} --ranks 2")
    assert code == 0
    assert numbers(row(out.splitlines(), "all"))[:2] == pytest.approx([30.1e9, 2.9e9], rel=0.01), "as published"
    assert run("model XL --pixels 512")[1].splitlines()[1].endswith(" 1024 tokens an image")
    named = run("model")[1].splitlines()[1 : 1 + len(MODELS)]
    assert [line.split()[0] for line in named] == [*MODELS]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("model XL --ranks 3", "8 experts cannot be shared equally by 3 ranks"),
        ("model XL --dtype int7", "unknown dtype 'int7'; known: fp32"),
        ("model XL --wire int7", "unknown wire 'int7'"),
        ("model XXL", "unknown model 'XXL'"),
        ("model --ranks 4", "--ranks, --wire and --dtype need a model"),
    ],
)
def test_what_cannot_be_said_is_refused(run: Run, line: str, why: str) -> None:
    code, _, err = run(line)
    assert code == 2
    assert why in err
