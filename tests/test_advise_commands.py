"""`python -m sim advise` and `sensitivity`: what they print, write and refuse; and the commands for real ranks."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from advices import ROOT
from command_line import called

from sim.cluster import Cluster, Link
from sim.launch import launch_command
from sim.load import load_schedule
from sim.models import load_model
from sim.units import readable
from sim.workload import MODELS, Workload


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    return lambda line: called(capsys, *line.split())


SMALL = "--model tiny --images 2 --steps 3 --draws 8"


def rate_of_cpus() -> str:
    """Of the links that were measured."""
    link = Cluster.load("cpu-2-ranks").link
    assert isinstance(link, Link)
    assert link.bytes_per_s == pytest.approx(30e6, rel=0.02), "which were kept to 30 MB/s"
    return readable("link.bytes_per_s", link.bytes_per_s)


def commands(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if " -m realrun " in line]


def test_advise_ranks_writes_schedules_and_says_how_to_launch_them(run: Callable[..., Any]) -> None:
    line = f"advise interweaved stride=2 --cluster cpu-2-ranks {SMALL} --mean-age 1 --write w --top 30"
    code, out, _ = run(line)
    assert code == 0
    assert out.startswith("ranked by makespan (mean age at most 1)")
    assert "interweaved stride=2" in out
    first, *launches = commands(out)
    assert first.startswith("python -m realrun displaced --model tiny --images 2 --steps 3 --dtype float32")
    assert first.endswith(f"--ranks 2 --link '{rate_of_cpus()}'")
    files = [shlex.split(launch)[3] for launch in launches]
    assert len(files) > 5
    assert sorted(map(str, Path("w").iterdir())) == sorted(files)
    assert [line.removesuffix(", written:") for line in out.splitlines() if line.endswith(", written:")] == files
    for path in files:
        assert load_schedule(path).top_k == 2
    cpus = Cluster.load("cpu-2-ranks")
    stated = cpus.errors["compute.P.fixed_s"] / cpus.compute["P"].fixed_s  # type: ignore[index, union-attr]
    assert f"standard errors stated by the cluster: compute.P.fixed_s {stated:.1%}, " in out
    assert "-m calibration compare" in out.split("standard errors stated by the cluster")[1].split("\n")[0]
    Path(files[2]).unlink()
    code, out, _ = run(line)
    assert code == 0  # files that hold the same may stay
    assert "files written into w: 1" in out
    assert f"{files[2]}, written:" in out
    assert f"{files[1]}, there already, holds the same:" in out
    Path(files[0]).write_text("mine")
    Path(files[1]).unlink()
    code, _, err = run(line)
    assert code == 2
    assert f"{files[0]}: there already, with other contents; nothing was written: give another folder" in err
    assert Path(files[0]).read_text() == "mine"
    assert not Path(files[1]).exists()


def test_two_schedules_are_not_written_into_one_file(run: Callable[..., Any]) -> None:
    Path("x").mkdir()
    for name in ("x/s.txt", "x_s.txt"):
        Path(name).write_text(str(load_schedule("displaced", 3, MODELS["tiny"].layers)))
    code, _, err = run(f"advise x/s.txt x_s.txt --cluster cpu-2-ranks {SMALL} --write w --top 30")
    assert code == 2
    assert "x_s.txt.txt: would hold x/s.txt and x_s.txt; nothing was written" in err
    assert not Path("w").exists()


def test_commands_are_what_real_ranks_take(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one, as far as ranks would start; and one to its end."""
    from realrun import cli

    _, out, _ = run(f"advise --cluster cpu-2-ranks {SMALL} --write w --top 30")
    _, gpus, _ = run(f"advise --cluster 8x-h100 {SMALL} --write gpus --top 30")
    first = commands(out)[0]
    assert commands(gpus)[0].startswith("torchrun --nproc-per-node 8 -m realrun ")
    with monkeypatch.context() as patched:
        patched.setattr(cli, "_run", lambda *given: None)
        for command in [*commands(out), *commands(gpus)]:
            with pytest.raises(SystemExit) as ended:
                cli.main(shlex.split(command.partition(" -m realrun ")[2]))
            assert not ended.value.code, command
    done = subprocess.run(
        [sys.executable, *shlex.split(first)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"2 ranks over links of {rate_of_cpus()}" in done.stdout


def test_commands_that_real_ranks_lack_something_for() -> None:
    def command(cluster: str, name: str = "S", pixels: int | None = None, **changes: Any) -> str:
        machine = Cluster.load(cluster)
        workload = Workload(load_model(name, pixels), machine.ranks, 4, **{"wire": "bfloat16", **changes})
        return launch_command("sync", load_schedule("sync", 3, 12), workload, machine)

    assert command("2x8-h100").startswith("torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d")
    assert "nodes" not in command("8x-h100")
    assert command("8x-h100", wire="int8").endswith("--dtype bfloat16 --wire int8")
    assert "--link" not in command("8x-rtx4090")
    with pytest.raises(ValueError, match="do not compute in fp8"):
        command("8x-h100", dtype="fp8")
    with pytest.raises(ValueError, match="of their own image size"):
        command("8x-h100", pixels=512)
    with pytest.raises(ValueError, match="bfloat16 rows gain nothing from travelling as float32"):
        command("8x-h100", wire="float32")


def test_advise_says_when_nothing_is_within_limits(run: Callable[..., Any]) -> None:
    code, out, _ = run(f"advise --cluster 8x-h100 {SMALL} --latency 1us --write w")
    assert code == 1
    assert "files written into w: 0" in out
    assert not Path("w").exists()
    assert out.startswith("nothing is within all limits (memory at most 85.5208 GB, makespan at most 1 us)")
    assert "standard errors assumed, not measured, since the cluster states none: rate of port 10.0%" in out
    assert "stated by the cluster" not in out
    assert "too slow" in out
    assert "nothing to run" in out


def test_makespans_too_close_to_call_are_told_where_they_rank(run: Callable[..., Any]) -> None:
    for limit, close in (("", True), ("--latency 1h", False)):
        code, out, _ = run(f"advise --cluster 8x-h100 {SMALL} {limit} --top 30")
        assert code == 0
        assert out.startswith(f"ranked by {'makespan' if close else 'mean age'}")
        assert ("too close to call" in out) == close


def test_limits_of_memory_are_told_with_digits_enough(run: Callable[..., Any]) -> None:
    """sync takes 602.8 MB and a little: as close to the limit as four digits come."""
    _, out, _ = run(f"advise --cluster cpu-2-ranks {SMALL} --memory 1MB")
    assert "(memory at most 1 MB)" in out
    _, out, _ = run(f"advise --cluster cpu-2-ranks {SMALL} --memory 602.8MB")
    assert "(memory at most 602.8 MB)" in out
    told = re.search(r"-  sync  .* 602\.8 MB  memory 602\.8([0-9]+) MB", out)
    assert told is not None
    assert int(told[1]) > 0


def test_stated_and_assumed_errors_are_told_apart(run: Callable[..., Any]) -> None:
    code, out, _ = run(f"sensitivity sync dice --cluster 8x-rtx4090 {SMALL} --points 2")
    assert code == 0
    assert re.search(r"stated by the cluster: link.resources.bridge.bytes_per_s 63.7%.* come from: inferred, not", out)
    assert "assumed, not measured, since the cluster states none: rate of port 10.0%" in out


def test_a_name_that_is_wrong_is_told_before_anything_is_evaluated(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sim.advise.evaluate", lambda case: pytest.fail("evaluated"))
    for line in ("advise nope --cluster 8x-h100", "advise --cluster 8x-h100 --dtype nope"):
        assert run(line)[0] == 2


def test_sensitivity_says_what_matters_and_how_sure(run: Callable[..., Any]) -> None:
    code, out, _ = run(f"sensitivity sync dice --cluster 8x-h100 {SMALL} --points 8")
    assert code == 0
    assert "variance: alone" in out
    assert re.search(r"keep their order in \d+% of draws", out)
    assert "+-: half the width of a 95 % bootstrap interval" in out
    code, out, _ = run(f"sensitivity sync --cluster 8x-h100 {SMALL} --points 8")
    assert code == 0
    assert re.search(r"^sync +[0-9.]+ ms +[0-9.]+ ms to [0-9.]+ ms$", out, re.MULTILINE)
    for compared in ("keep their order", "fastest", "faster than"):
        assert compared not in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("advise --cluster 8x-h100 --quality 1", "--quality needs --vulnerability"),
        ("advise --cluster cpu-2-ranks --relative-error 0.1", "--relative-error has no effect"),
        ("advise --cluster 8x-h100 --relative-error 2", "should be above 0 and below 1"),
        ("advise --cluster 8x-h100 --latency soon", "'soon' is not a number"),
        ("advise --cluster 8x-h100 --latency 0", "--latency '0' should be above 0"),
        ("advise --cluster 8x-h100 --memory -1GB", "--memory '-1GB' should be above 0"),
        ("advise nope --cluster 8x-h100 --steps 2 --model S --draws 2", "unknown schedule 'nope'"),
        ("advise --cluster 8x-h100 --quality 1 --vulnerability nope", "no vulnerability is called nope"),
        ("sensitivity sync --cluster 8x-h100 --steps 2 --model S --points 7", "should be a power of 2"),
        ("sensitivity nope --cluster 8x-h100", "unknown schedule 'nope'"),
        ("sensitivity sync dice sync --cluster 8x-h100", "sync stands there twice"),
        ("advise --cluster 8x-h100 --dtype nope", "has no nope; it has fp32"),
        (f"advise --cluster 8x-h100 --write {__file__}", "is not a folder"),
        ("advise interweaved pieces=9 --cluster 8x-h100 --model tiny --steps 2 --draws 2", "interweaved pieces=9: "),
    ],
)
def test_questions_that_make_no_sense_are_refused(run: Callable[..., Any], line: str, said: str) -> None:
    code, _, err = run(line)
    assert code == 2
    assert said in err
