"""Advice and sensitivity: who is in, in which order, how sure; and limits, errors and evidence are what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.advise import Asked, Option, advise, evidence, verdicts
from sim.cli import main
from sim.cluster import Cluster
from sim.engine import simulate
from sim.fewer import furthest_kept
from sim.gpu import Gpu
from sim.inputs import drawn, factors, inputs_of
from sim.launch import launch_command
from sim.limits import Limits
from sim.load import load_schedule
from sim.memory import memory
from sim.models import load_model
from sim.sensitivity import influences, one_at_a_time, ranking
from sim.sweeps.facts import FactBook
from sim.vulnerability import Vulnerability, quality_cost
from sim.workload import MODELS, Workload

ROOT = Path(__file__).parent.parent
CLUSTER = Cluster.load("cpu-2-ranks")
MODEL = replace(MODELS["tiny"], layers=2)
DRAWS = 24


def asked(**limits: float) -> Asked:
    draws = drawn(inputs_of(CLUSTER), DRAWS, seed=1)
    return Asked(Workload(MODEL, 2, 2), CLUSTER, 4, Limits(**limits), draws)


@pytest.fixture(scope="module")
def options() -> list[Option]:
    return advise(asked())


def test_every_number_is_what_simulation_and_memory_say(options: list[Option]) -> None:
    for option in options:
        trace = simulate(option.schedule, option.workload, CLUSTER)
        assert option.makespan_s == pytest.approx(trace.makespan_s, rel=1e-6)
        assert option.facts.memory_bytes == pytest.approx(memory(option.schedule, option.workload, 4).peak_bytes)
        assert option.facts.mean_age_steps == pytest.approx(trace.mean_age.mean())
        assert option.interval_s[0] <= np.median(option.seconds) <= option.interval_s[1]


def test_rivals_without_staleness_and_fewer_steps_are_among_them(options: list[Option]) -> None:
    why = {option.name: option.why for option in options}
    assert why["sync"] == why["overlap"] == why["data_parallel"] == "exact"
    assert {"stale", "caching", "fewer bytes", "exact", "fewer steps"} == {*why.values()}
    assert len(why) == len(options)
    sync = next(option for option in options if option.name == "sync")
    for few in (option for option in options if option.why == "fewer steps"):
        assert few.schedule.steps < 4
        assert few.facts.mean_age_steps == 0
        assert few.makespan_s < sync.makespan_s


COSTS = Vulnerability("v", 1, 1, 2, [[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 0.5]])


def shortened(options: list[Option]) -> dict[str, dict[int, Option]]:
    """Those of fewer steps, by source and steps."""
    found: dict[str, dict[int, Option]] = {}
    for option in options:
        if option.why == "fewer steps":
            found.setdefault(option.source, {})[option.schedule.steps] = option
    return found


def undrawn_s(source: str, steps: int) -> float:
    return simulate(load_schedule(source, steps, MODEL.layers), Workload(MODEL, 2, 2), CLUSTER).makespan_s


def test_a_limit_of_quality_is_answered_by_the_fewest_steps_that_keep_it() -> None:
    """The fastest of all that are within it: here, of ten synchronous steps, three."""
    found = advise(replace(asked(quality=0.25), steps=10, vulnerability=COSTS))
    few = shortened(found)
    assert min(few["sync"]) == 3  # the square root of 0.5, over 3, is the first below 0.25
    assert {"sync", "overlap", "cached"} <= {*few}
    for source, at in few.items():
        fewest = min(at)
        assert quality_cost(load_schedule(source, fewest, MODEL.layers), COSTS) <= 0.25
        assert not at[fewest].against
        if source != "sync":  # which has others: what stale schedules pay for
            assert len(at) == 1
        assert quality_cost(load_schedule(source, fewest - 1, MODEL.layers), COSTS) > 0.25
    assert found[0].why == "fewer steps"
    assert all(found[0].makespan_s <= option.makespan_s for option in found if not option.against)
    assert not {source for source in few if source.startswith("distrifusion")}


def test_a_limit_of_latency_is_answered_by_the_most_steps_that_keep_it() -> None:
    limit = 1.001 * undrawn_s("sync", 2)
    for vulnerability in (COSTS, None):
        found = advise(replace(asked(latency_s=limit), vulnerability=vulnerability))
        few = shortened(found)
        assert max(few["sync"]) == 2
        for source, at in few.items():
            assert undrawn_s(source, max(at)) <= limit < undrawn_s(source, max(at) + 1)
        kept = [option for option in found if not option.against]
        assert all(option.why == "fewer steps" for option in kept)
        assert {option.unpriced for option in kept} == {("fewer steps",) if vulnerability is None else ()}
        if vulnerability is None:
            assert all(load_schedule(source, 4, MODEL.layers).staleness() == SYNC_AGES for source in few)
            steps = [option.schedule.steps for option in kept]
            assert steps == sorted(steps, reverse=True)


def test_no_steps_are_sought_for_what_misses_other_limits() -> None:
    least = min(option.facts.memory_bytes for option in advise(asked()))
    found = advise(replace(asked(quality=0.5, memory_bytes=least), vulnerability=COSTS))
    assert "overlap micro_batches=4" in shortened(found)
    assert "overlap" not in shortened(found)


SYNC_AGES = load_schedule("sync", 4, MODEL.layers).staleness()


@pytest.mark.parametrize("guess", [-3, 0, 1, 5, 7, 99])
def test_the_last_that_keeps_a_limit_is_found_from_any_guess(guess: int) -> None:
    assert furthest_kept(lambda n: n <= 5, guess, range(1, 10)) == 5
    assert furthest_kept(lambda n: n >= 5, guess, range(9, 0, -1)) == 5
    assert furthest_kept(lambda n: True, guess, range(1, 10)) == 9
    assert furthest_kept(lambda n: False, guess, range(1, 10)) is None
    assert furthest_kept(lambda n: True, guess, range(1, 1)) is None


def test_they_are_ordered_by_makespan_and_limits_go_first(options: list[Option]) -> None:
    assert [(bool(o.unpriced), o.makespan_s) for o in options] == sorted(
        (bool(o.unpriced), o.makespan_s) for o in options
    )
    limited = advise(asked(mean_age=0.5))
    kept = [not option.against for option in limited]
    assert kept == sorted(kept, reverse=True)
    for option in limited:
        assert bool(option.against) == (option.facts.mean_age_steps > 0.5 or option.facts.oldest_attention_steps > 0)


def test_within_a_latency_the_least_stale_is_first(options: list[Option]) -> None:
    limit = sorted(option.makespan_s for option in options)[len(options) // 2]
    found = [option for option in advise(asked(latency_s=limit)) if not option.against]
    assert found
    assert all(option.makespan_s <= limit for option in found)
    ages = [(bool(option.unpriced), option.facts.mean_age_steps) for option in found]
    assert ages == sorted(ages)


def test_what_no_number_prices_is_not_ranked_beside_the_rest(options: list[Option]) -> None:
    """Fewer steps, rounded rows, stale keys and values: mean age 0 or low, and images that lose."""
    for option in options:
        stale_attention = option.facts.oldest_attention_steps > 0
        assert bool(option.unpriced) == (option.why in ("fewer steps", "fewer bytes") or stale_attention), option.name
    reasons = {(), ("rounded rows",), ("stale keys and values",)}
    assert {option.unpriced for option in options} == {*reasons, ("fewer steps",)}
    known = advise(replace(asked(latency_s=9.0), vulnerability=COSTS))
    assert {option.unpriced for option in known} == reasons
    ranked = [option.quality for option in known if not option.unpriced]
    assert ranked == sorted(ranked, key=lambda quality: quality or 0.0)
    assert any(option.why == "fewer steps" for option in known[: len(ranked)])


def test_where_all_rows_are_rounded_only_what_sends_none_is_ranked() -> None:
    rounding = replace(asked(), workload=Workload(MODEL, 2, 2, "int8"), vulnerability=COSTS)
    found = advise(rounding)
    assert [option.name for option in found if not option.unpriced] == ["data_parallel"]
    assert {option.name for option in found if option.quality is not None} == {"data_parallel"}
    why = {option.name: option.why for option in found}
    assert (why["sync"], why["overlap"], why["data_parallel"]) == ("fewer bytes", "fewer bytes", "exact")
    assert any("stale keys and values" in o.unpriced and "rounded rows" in o.unpriced for o in found)
    told = "rows travel as {}, and are computed in fp32: what rounding them costs in images is in no number here"
    for wire in ("int8", "bfloat16"):
        assert told.format(wire) in evidence(replace(rounding, workload=Workload(MODEL, 2, 2, wire)))
    assert not any(
        "rows travel" in line for line in evidence(replace(asked(), workload=Workload(MODEL, 2, 2, "float32")))
    )


def test_facts_of_a_schedule_are_found_once_for_all_wires(
    options: list[Option], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr("sim.advise.FactBook", lambda plan: looked.append(plan.name) or FactBook(plan))
    found = advise(asked())
    assert len(looked) == len({option.schedule for option in found}) < len(found) == len(options)


def test_memory_limits(options: list[Option]) -> None:
    limit = float(np.median([option.facts.memory_bytes for option in options]))
    for option in advise(asked(memory_bytes=limit)):
        assert bool(option.against) == (option.facts.memory_bytes > limit)


def test_quality_is_what_the_file_estimates() -> None:
    found = advise(replace(asked(quality=0.2), vulnerability=COSTS))
    for option in found:
        if option.facts.oldest_attention_steps or option.workload.wire == "int8":
            assert option.quality is None
            assert option.against == ("quality not known",)
        else:
            assert option.quality == quality_cost(option.schedule, COSTS)
            assert bool(option.against) == (option.quality > 0.2)
    few = [option for option in found if option.why == "fewer steps"]
    assert all(option.quality is not None and option.quality >= np.sqrt(0.5) / 4 for option in few)


def test_too_close_to_call_means_neither_is_surely_faster(options: list[Option]) -> None:
    base = options[0]
    seconds = np.linspace(1.0, 1.1, 100)
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    same, close, far = (replace(base, seconds=s, against=()) for s in (seconds, seconds + noise, seconds + 0.2))
    assert verdicts([same, close, far]) == ["", "too close to call with 1", f"{1.2 / 1.0 - 1:+.1%}"]
    shifted = replace(base, seconds=seconds * 1.001, against=())  # intervals overlap, but it is slower in every draw
    assert verdicts([same, shifted]) == ["", "+0.1%"]
    assert same.faster_than(same) == 0.5
    for by in ("mean age", "quality"):  # an order that makespans say nothing of
        assert verdicts([same, close, far], by)[1:] == [f"{close.makespan_s - 1:+.1%}", "+20.0%"]


def test_evidence_names_every_source() -> None:
    cluster = Cluster.load("8x-rtx4090")
    lines = "\n".join(evidence(replace(asked(), cluster=cluster)))
    for source in (
        "inferred, not measured, for lack of data of such a machine",
        "inferred, not measured: the rate of 8x-l40s x",
        "NVIDIA Ada GPU architecture",
        "mean age: exact",
    ):
        assert source in lines


# ------------------------------------------------------------------------------------------------- inputs


def test_stated_errors_are_used_and_others_assumed_and_said() -> None:
    stated = {each.name: each for each in inputs_of(CLUSTER)}
    key = "link.bytes_per_s"
    assert stated[key].error == CLUSTER.errors[key] / CLUSTER.link.bytes_per_s  # type: ignore[union-attr]
    assumed = inputs_of(Cluster.load("8x-h100"), 0.2)
    assert {each.error for each in assumed} == {0.2, 0.5}
    assert all("assumed" in each.source for each in assumed)
    with pytest.raises(ValueError, match="should be above 0 and below 1"):
        inputs_of(Cluster.load("8x-h100"), 1.5)


def test_no_draw_of_a_share_exceeds_1() -> None:
    gpu = Cluster.load("8x-h100").compute
    assert isinstance(gpu, Gpu)
    draws = drawn(inputs_of(Cluster.load("8x-h100"), 0.5), 1000, 3)
    shares = {"attention_share": gpu.attention_share, "gemm.compute_share": gpu.gemm.compute_share}
    for key, share in {**shares, "gemm.memory_share": gpu.gemm.memory_share}.items():
        values = share * draws[f"times.cluster.compute.{key}"]
        assert values.max() == pytest.approx(1.0)
        assert values.max() <= 1.0
        assert np.median(values) == pytest.approx(share, rel=0.05)


def test_no_draw_of_a_share_whose_error_is_stated_exceeds_1() -> None:
    cluster = replace(Cluster.load("8x-h100"), errors={"compute.gemm.memory_share": 0.2})
    key = "times.cluster.compute.gemm.memory_share"
    assert isinstance(cluster.compute, Gpu)
    assert drawn(inputs_of(cluster), 1000, 3)[key].max() * cluster.compute.gemm.memory_share <= 1.0


def test_draws_are_seeded_paired_and_centred() -> None:
    inputs = inputs_of(Cluster.load("8x-h100"))
    once, again = drawn(inputs, 1000, 3), drawn(inputs, 1000, 3)
    assert once.keys() == {key for each in inputs for key in each.keys}
    for key, values in once.items():
        assert np.array_equal(values, again[key])
        assert values[0] == 1.0
        assert np.median(values) == pytest.approx(1.0, abs=0.05)
    port = once["times.cluster.link.resources.port.bytes_per_s"]
    assert np.log(port).std() == pytest.approx(np.log(1.1), rel=0.1)


# ------------------------------------------------------------------------------------------------- sensitivity


def linear(changes: dict[str, Any], draws: int) -> Any:
    """log(seconds) = 3 log(a) + log(b): variances 9 to 1 where a and b err alike."""
    names = sorted(changes)
    assert all(len(values) == draws for values in changes.values())
    return changes[names[0]] ** 3 * changes[names[1]] * np.ones(draws)


def test_sobol_indices_of_a_sum_are_the_shares_of_variance() -> None:
    inputs = [replace(inputs_of(CLUSTER)[0], name=key, keys=(f"times.{key}",), error=0.1) for key in ("a", "b")]
    found = influences(inputs, linear, 512, seed=0)
    assert [one.input.name for one in found] == ["a", "b"]
    for one, share in zip(found, (0.9, 0.1), strict=True):
        assert one.first == pytest.approx(share, abs=0.03)
        assert one.total == pytest.approx(share, abs=0.03)
    assert one_at_a_time(inputs, linear)[0] == pytest.approx([1.1**-3 - 1, 1.1**3 - 1])
    with pytest.raises(ValueError, match="should be a power of 2"):
        influences(inputs, linear, 100, seed=0)


def test_factors_move_only_their_own_keys() -> None:
    inputs = inputs_of(Cluster.load("8x-h100"))
    moved = factors(inputs, np.eye(len(inputs)))
    for n, each in enumerate(inputs):
        for key in each.keys:
            assert moved[key][n] == pytest.approx(1 + each.error)
            assert np.delete(moved[key], n).tolist() == [1.0] * (len(inputs) - 1)


def test_a_ranking_counts_draws() -> None:
    found = ranking(np.array([[1.0, 1.0, 3.0, 1.0], [2.0, 2.0, 2.0, 1.0]]))
    assert found.best.tolist() == [0.625, 0.375]
    assert found.faster[0, 1] == 0.625
    assert found.pairs == 0.625


# ------------------------------------------------------------------------------------------------- commands


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def command(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(line.split())
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return command


SMALL = "--model tiny --images 2 --steps 3 --draws 8"


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
    assert first.endswith("--ranks 2 --link '29.88 MB/s'")
    files = [shlex.split(launch)[3] for launch in launches]
    assert len(files) > 5
    assert sorted(map(str, Path("w").iterdir())) == sorted(files)
    assert [line.removesuffix(", written:") for line in out.splitlines() if line.endswith(", written:")] == files
    for path in files:
        assert load_schedule(path).top_k == 2
    assert re.search(r"standard errors stated by the cluster: compute.P.fixed_s 1.7%, .*-m calibration compare", out)
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
    assert "2 ranks over links of 29.88 MB/s" in done.stdout


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
