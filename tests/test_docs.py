"""Every command and block of code on README and the pages of docs is run, page by page and in order.

A line, or a block in its first line, that says `# minutes` or `# elsewhere` is not run; but its commands and options
exist, as those within sentences do."""

from __future__ import annotations

import functools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.results import load

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = ("sim", "realrun", "calibration")
STARTS = ("python ", "make ", "source ", "torchrun ")
LEFT_OUT = ("# minutes", "# elsewhere")
PERFORMED = ("make", "source", "torchrun")  # what a test cannot do in a folder of its own; see `exists`


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def is_commands(text: str) -> bool:
    return any(line.startswith(STARTS) for line in text.splitlines())


def commands(text: str) -> list[str]:
    """Lines of a block of commands, long ones joined, with their comments; its head (`# minutes`) at each of them."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    head = f"  {lines[0]}" if lines[0].startswith(LEFT_OUT) else ""
    found = [line + head for line in lines if not line.startswith("#")]
    assert head or all(line.startswith(STARTS) for line in found), f"not a command: {found}"
    return found


def left_out(command: str) -> bool:
    return any(mark in command for mark in LEFT_OUT)


def within_sentences(page: Path) -> list[str]:
    """Commands in `...` outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [said for said in re.findall(r"`([^`\n]+)`", prose) if said.startswith(STARTS)]


@functools.cache
def help_of(words: tuple[str, ...]) -> str:
    done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={"PYTHONPATH": str(ROOT), "PATH": "", "COLUMNS": "200"})  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


def exists(command: str) -> None:
    """Asserts that program, command and options are there."""
    words = shlex.split(command.split("  #")[0].split(" # ")[0])
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {*words[1:]} <= {*targets}, command
    elif words[0] == "python" and words[1] == "-m":
        room = words[2].split(".")[0]
        assert room in (*ROOMS, "venv"), command
        if room == "venv":
            return
        named = [words[3]] if len(words) > 3 and re.fullmatch("[a-z]+", words[3]) else []
        usual = ["run"] if room == "realrun" else []  # what is no command begins with a schedule
        text = (named and help_of(("-m", room, *named))) or help_of(("-m", room, *usual))
        for option in (word.split("=")[0] for word in words if re.match("--?[a-z]", word) and word != "-m"):
            assert re.search(rf"{option}\b", text), f"{command}: no {option} in\n{text}"
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_not_run_exists(page: Path) -> None:
    long = [line for _, text in blocks(page) if is_commands(text) for line in commands(text) if left_out(line)]
    for command in [*within_sentences(page), *long]:
        exists(command)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_block_runs_in_its_order(page: Path, tmp_path: Path) -> None:
    for name in ("examples", "calibration", "benchmarks", "realrun/weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, timeout=110, env=environment)
    for language, text in blocks(page):
        if language == "python":
            done = run([sys.executable, "-c", text])
            assert done.returncode == 0, f"{text}\n{done.stderr}"
        elif is_commands(text):
            for line in commands(text):
                if left_out(line) or line.startswith(PERFORMED):
                    exists(line)
                    continue
                done = run([sys.executable, *shlex.split(line.split("  #")[0])[1:]])
                assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_a_page_that_is_wrong_would_be_noticed() -> None:
    for wrong in ("python -m sim nothing --steps 4", "python -m sim show --stepz 4", "make cake", "python no.py"):
        with pytest.raises(AssertionError):
            exists(wrong)
    with pytest.raises(AssertionError, match="not a command"):
        commands("python -m sim show sync\nrm -rf")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_index_leads_to_every_page() -> None:
    said = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in said, f"{page.name} is not in the index"


def test_tables_of_results_are_those_that_were_measured() -> None:
    make = runpy.run_path(str(ROOT / "docs" / "make.py"))
    for page in make["TABLES"]:
        assert make["filled"](page) == (ROOT / "docs" / page).read_text(), f"{page}: `python docs/make.py` renews it"


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_errors_that_the_page_on_the_machine_names_are_those_measured() -> None:
    """The page's sentences, with numbers put in anew."""
    gemm, engine, outside = results("gemm")["pooled"], results("engine")["rows"], results("outside")["rows"]
    fitted, left_out, beyond = (gemm[key] for key in ("fitted", "leave one out", "beyond"))
    gathers = [errors["all-gather, never used"]["mean"] for errors in results("network")["errors in percent"].values()]
    switches = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm")
    alone = [results("network")["errors in percent"][name] for name in switches]
    unseen = [
        (np.mean([each[key]["mean"] for each in alone]), max(each[key]["worst"] for each in alone))
        for key in ("2 GPUs, left out between", "2 GPUs, left out between, no kinks lent", "left out")
    ]  # as many rows of each machine
    plain = [row for row in engine if row["engine"] == "first-in first-out"]
    page = " ".join((ROOT / "docs" / "machine.md").read_text().split())
    cells = load(ROOT / "calibration" / "data" / "cpu-2-ranks" / "results.json").cells
    off = [abs(cell.error) for cell in cells]
    ratios = [abs(c.speed_up_predicted / c.speed_up_measured - 1) for c in cells if c.schedule != "sync"]
    for sentence in (
        *[f"{np.mean(each):.1%} on average, {max(each):.1%} at worst".replace("%", " %") for each in (off, ratios)],
        f"median {fitted['median']:.1%}, 90th percentile {fitted['p90']:.1%}".replace("%", " %"),
        f"to {left_out['median']:.1%} and {left_out['p90']:.1%}".replace("%", " %"),
        f"Beyond the measured sizes: {beyond['median']:.1%} and {beyond['p90']:.1%}".replace("%", " %"),
        "{:.1f} % off on average and {:.1f} % at worst over the four machines, {:.1f} % and {:.1f} % with".format(
            *unseen[0], *unseen[1]
        ),
        "16 times apart, is off by {:.1f} % and {:.1f} %;".format(*unseen[2]),
        f"never fitted: {min(gathers):.0f} to {max(gathers):.0f} % on average",
        f"{plain[0]['op_executions']:,} op executions take",
        f"saves {outside[0]['gib_saved']:.1f} GiB measured and {outside[1]['gib_saved']:.1f} GiB predicted",
        f"{-outside[1]['seconds_error']['replicated']:.0%} and {-outside[1]['seconds_error']['sharded']:.0%} too short"
        .replace("%", "", 1).replace("%", " %"),
    ):  # fmt: skip
        assert sentence in page, sentence
