"""What a measurement is told wrongly is told back at once, and what it is given broken names the broken thing."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_session import HERE, NO_PATIENCE, QUIET, ROOT, SMALL, samples
from typer.testing import CliRunner

from calibration.bundle import Bundle
from calibration.cli import app
from calibration.cli_plans import report
from calibration.on_ranks import Transfers, compute_on_rank
from calibration.plan import Plan
from calibration.predict import cells
from calibration.session import carry_out
from realrun.hosts import lacking
from realrun.ranks import Ranks
from realrun.run import Settings
from sim.output import owned_folder, whole_file
from sim.schedules import sync

RAN = replace(SMALL, schedules=("sync", "interweaved"), steps=2, rounds=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedules": ("sync", "snyc")}, r"unknown schedule 'snyc'"),
        ({"schedules": ("sync", "dice conditional=odd")}, r"conditional=odd should be"),
        ({"steps": 0, "schedules": ("sync",)}, r"steps=0 should be at least 1"),
        ({"ranks": 3}, r"8 experts cannot be spread evenly over 3 ranks"),
        ({"wire": "float12"}, r"unknown wire 'float12'"),
        ({"model": "digitz"}, r"unknown model 'digitz'"),
        ({"other_images": (0,)}, r"images=0 should be at least 1"),
    ],
)
def test_what_ranks_cannot_do_is_told_before_anything_is_measured(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        carry_out(replace(SMALL, **change), tmp_path / "bundle", QUIET)  # type: ignore[arg-type]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rates: [0]", r"plan\.yaml: link: 0 bytes/s should be at least 1"),
        ("rates: [.nan]", r"plan\.yaml: link: nan bytes/s"),
        ("rates: [50 MB]", r"plan\.yaml: rates\.link_bytes_per_s: unknown unit 'MB'"),
        ("rates: []", r"rates should not be empty"),
        ("rounds: 100000000", r"rounds=100000000 should be at most 1000"),
        ("schedules: [sync, interweaved, 'interweaved ']", r"r00-run-interweaved-20MB-per-s.* would be done twice"),
        ("seed: -1", r"plan\.yaml: seed=-1 should be"),
        ("timed_row_s: {X: 1}", r"plan\.yaml: timed_row_s="),
        ("backend: ''", r"unknown backend ''"),
        ("backend: namespaces hosts=2 hosts=3", r"hosts is given twice"),
    ],
)
def test_a_plan_says_at_once_what_is_wrong_with_it(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Plan.load(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"format": 1}, r"meta\.json: plan: missing"),
        ({"format": 1, "plan": {}, "machine": 5, "calls": []}, r"meta\.json: machine: 5"),
        ({"format": 1, "plan": {}, "machine": {}, "calls": []}, r"meta\.json: machine\.processor: missing"),
    ],
)
def test_meta_that_lacks_something_says_what(meta: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=message):
        Bundle(tmp_path).meta()


def test_samples_with_a_broken_middle_name_their_file(tmp_path: Path) -> None:
    bundle = Bundle.open(tmp_path, SMALL.table(), HERE)
    bundle.add_samples("r00-x", samples(50))
    path = tmp_path / "samples" / "r00-x.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"X" * 60 + whole[64:])
    with pytest.raises(ValueError, match=r"r00-x\.parquet: not Parquet"):
        bundle.samples()
    path.unlink()
    path.mkdir()
    assert bundle.done() == set()


def test_a_bundle_is_put_beside_nothing_else_and_belongs_to_one_process(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to a friend").touch()
    with pytest.raises(ValueError, match=r"holds to a friend, and no bundle"):
        carry_out(SMALL, tmp_path / "letters", QUIET)
    with (
        owned_folder(tmp_path / "bundle", "meta.json", "bundle", lambda: True),
        pytest.raises(ValueError, match=r"bundle: another process is writing there"),
    ):
        carry_out(SMALL, tmp_path / "bundle", QUIET)


def test_rounds_that_are_there_are_not_forgotten(tmp_path: Path) -> None:
    Bundle.open(tmp_path, SMALL.table(), HERE)
    with pytest.raises(ValueError, match=r"has 2 rounds, and 1 are asked for: say as many or more, by --rounds"):
        Bundle.open(tmp_path, replace(SMALL, rounds=1).table(), HERE)


def test_an_interrupted_comparison_is_judged_by_its_whole_rounds(tmp_path: Path) -> None:
    bundle, page = carry_out(RAN, tmp_path, QUIET, patience=NO_PATIENCE), tmp_path / "page.html"
    next((tmp_path / "samples").glob("r01-compute*")).unlink()
    assert len(cells(bundle, RAN)) == 2, "as when a call was interrupted in its last measurement"
    (tmp_path / "routing.npz").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"routing\.npz is missing"):
        cells(bundle, RAN)
    carry_out(RAN, tmp_path, QUIET, patience=NO_PATIENCE)
    assert bundle.routing() is not None
    next((tmp_path / "runs").glob("*sync*")).unlink()
    with pytest.raises(ValueError, match=r"holds no round in which all of the plan's schedules ran"):
        cells(bundle, RAN)
    report(tmp_path, page)
    assert "Predicted and measured" not in page.read_text()


def said(*words: str) -> str:
    found = CliRunner().invoke(app, [str(word) for word in words])
    return str(found.exception)


def test_options_without_effect_or_sense_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--rounds, --patience: no effect on two traces" in said("compare", "a", "b", "--rounds=3", "--patience=0")
    out = f"--out={tmp_path / 'bundle'}"
    for patience in ("nan", "-1", "inf"):
        assert "should be seconds, from 0 to 3600" in said("measure", out, f"--patience={patience}")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "backend staged has no effect under torchrun" in said("measure", out, "--backend=staged")
    (plan := tmp_path / "plan.yaml").write_text(str(replace(SMALL, ranks=4)))
    assert "the plan is for 4 ranks, and torchrun started 2" in said("compare", plan, out)
    assert "--patience 99 should be below --timeout 60" in said("measure", out, "--patience=99")
    assert not (tmp_path / "bundle").exists()


def test_quick_measurements_take_more_rounds(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(str(SMALL))
    words = ["measure", str(plan), "--quick", "--out", str(tmp_path / "bundle"), "--patience=0"]
    for rounds in (1, 2):
        done = CliRunner().invoke(app, [*words, f"--rounds={rounds}"], catch_exceptions=False)
        assert "jobs" in done.output
    assert {sample.round for sample in Bundle(tmp_path / "bundle").samples()} == {0, 1}


def test_a_load_that_fails_is_told_by_its_rank(capfd: pytest.CaptureFixture[str]) -> None:
    wrong = Transfers((("dispatch", ((1, 2, 3), (1, 2, 3))),))  # rows for three ranks, of which there are two
    with Ranks(2, 3) as ranks, pytest.raises(ValueError, match=r"load: the header should be int64 \[2 ranks"):
        ranks.call(compute_on_rank, sync(2, 6), SMALL.workload, Settings(), wrong)
    assert "Exception in thread" not in capfd.readouterr().err


ORDERLY = """
import contextlib, time
from sim.terminal import end_orderly
end_orderly()
with contextlib.ExitStack() as stack:
    stack.callback(print, "taken down")
    print("up", flush=True)
    time.sleep(30)
"""


def test_a_program_that_is_told_to_end_takes_down_what_it_made() -> None:
    with subprocess.Popen([sys.executable, "-c", ORDERLY], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.communicate(timeout=20)[0] == "taken down\n"
        assert process.returncode == 128 + signal.SIGTERM


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.parquet"
    with pytest.raises(OSError, match=r"No space left on device: '.*/sample\.parquet'"), whole_file(path):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert not [*tmp_path.iterdir()]


def test_cards_have_a_rate_that_all_ranks_refuse_alike(tmp_path: Path) -> None:
    if why := lacking():
        pytest.skip(why)
    with pytest.raises(ValueError, match=r"a card's rate of 500 bytes/s should be at least 1 kB/s"):
        carry_out(
            replace(SMALL, rates=(500.0,), backend="namespaces"), tmp_path / "bundle", QUIET, patience=NO_PATIENCE
        )
