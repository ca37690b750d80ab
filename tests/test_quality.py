"""Quality: distances are what their definitions say, intervals cover, and the commands tell of both sides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from realrun.adm import save_samples
from realrun.classifier import Classifier, accuracy, train_classifier
from realrun.cli import main
from realrun.digits import Digits, load_digits
from realrun.exact import Shares
from realrun.frechet import Moments, frechet
from realrun.intervals import difference, interval
from realrun.latency import Clock
from realrun.makers import Task, makers
from realrun.quality import Judge, Question, far, images_to_make
from realrun.run import Settings
from realrun.stale import Ages, with_ages
from realrun.trained import trained
from realrun.vulnerability import Plan, measure, runs
from sim.load import load_schedule
from sim.vulnerability import Vulnerability, quality_cost
from sim.workload import MODELS, ModelShape

SMALL = ModelShape("small", layers=2, hidden=16, heads=2, experts=8, channels=1, classes=10, latent=8)


class Flat(nn.Module):
    """Features of an image: its pixels."""

    num_features = 6

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :6].double()


# ------------------------------------------------------------------------------------------------- distances


def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    real = torch.randn(200, 1, 2, 3, generator=generator, dtype=torch.float64)
    fake = (torch.randn(150, 6, generator=generator, dtype=torch.float64) @ mixing + 0.3).view(-1, 1, 2, 3)
    metric = FrechetInceptionDistance(feature=Flat(), normalize=True).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    ours = frechet(Moments.of(real.flatten(1)), Moments.of(fake.flatten(1)))
    assert ours == pytest.approx(float(metric.compute()), rel=1e-6)


def test_the_frechet_distance_of_what_is_known_in_closed_form() -> None:
    """Covariances that commute: the sum of squared differences of means and of standard deviations."""
    a = Moments(np.array([0.0, 1.0]), np.diag([4.0, 9.0]))
    b = Moments(np.array([3.0, 1.0]), np.diag([1.0, 16.0]))
    assert frechet(a, b) == pytest.approx(9 + 1 + 1)
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="of 2 samples or more"):
        Moments.of(np.zeros((1, 4)))


def test_distances_are_relative_and_over_all_pixels() -> None:
    right = torch.full((2, 1, 2, 2), 2.0)
    assert far(right, right) == 0
    assert far(right * 1.5, right) == pytest.approx(0.5)


def test_intervals_of_few_seeds_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    inside = [low <= 0 <= high for _, low, high in (interval(random.normal(size=5).tolist()) for _ in range(400))]
    assert 0.92 < np.mean(inside) < 0.98
    assert interval([1.0, 1.2, 1.1]).sign == 1
    assert difference([1.0, 2.0, 3.0], [1.1, 2.1, 3.1]).sign == -1
    assert interval([-1.0, 1.0, 0.5]).sign == 0


# ------------------------------------------------------------------------------------------------ classifier


def test_the_classifier_that_ships_is_as_good_as_its_file_says() -> None:
    assert accuracy(Classifier.load(), load_digits(held_out=True)) == pytest.approx(0.9833, abs=1e-4)
    assert accuracy(Classifier.load(), load_digits()) > 0.99


def test_training_is_a_function_of_its_seed() -> None:
    few = Digits(*(part[:64] for part in load_digits()))
    one, same, other = (train_classifier(few, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_the_classifier_refuses_what_is_no_digit() -> None:
    with pytest.raises(ValueError, match=r"1 x 8 x 8, not \[4, 8, 8\]"):
        Classifier().see(torch.zeros(2, 4, 8, 8))


# --------------------------------------------------------------------------------------------------- judging


def test_processes_make_the_same_images_in_the_same_order() -> None:
    task = Task(load_schedule("dice", 3, 2), Settings(1), range(150), Shares(2, 75))
    with makers(SMALL, None, 1) as one, makers(SMALL, None, 2) as two:
        a, b = one(task), two(task)
    assert torch.equal(a.final_BCHW, b.final_BCHW)
    assert torch.equal(a.ages, b.ages)
    with pytest.raises(ValueError, match="jobs=0 should be at least 1"), makers(SMALL, None, 0):
        pass


def test_a_judge_tells_sync_from_stale_and_few_steps_from_many() -> None:
    shape, told = MODELS["digits"], list[int]()
    with makers(shape, trained("digits"), 1) as make:
        judge = Judge(make, Question(6, (0, 1), 24, fine=24), Classifier.load(), told.append)
        sync, stale = (judge(judge.schedule(name), name).quality for name in ("sync", "displaced"))
        few = judge(judge.schedule("sync", 3), "few").quality
    assert sync.distance == [0, 0]
    assert min(stale.distance) > 0.01
    assert stale.mean_age == pytest.approx(np.mean([0, 1, 2, 2, 2, 2]))
    assert all(a < b for a, b in zip(sync.fine, few.fine, strict=True))
    assert all(a < b for a, b in zip(sync.fine, stale.fine, strict=True))
    assert sync.accuracy is not None
    assert np.mean(sync.accuracy) > 0.9
    assert sum(told) == images_to_make(judge.question, 2) == 2 * 24 * 4
    table = stale.table()
    assert table["distance"]["seeds"] == [round(x, 5) for x in stale.distance]


def test_what_is_asked_is_checked() -> None:
    with pytest.raises(ValueError, match="fine=5 should be at least 10"):
        Question(10, fine=5)
    with pytest.raises(ValueError, match="seeds 1, 1: one or more are wanted, each once"):
        Question(10, (1, 1))


def test_samples_are_written_as_adms_evaluator_reads_them(tmp_path: Path) -> None:
    save_samples(torch.tensor([-1.0, 0.0, 1.0, 7.0]).view(4, 1, 1, 1).expand(4, 1, 8, 8), tmp_path / "grey.npz")
    with np.load(tmp_path / "grey.npz") as data:
        assert data.files == ["arr_0"]
        assert (data["arr_0"].shape, data["arr_0"].dtype) == ((4, 8, 8, 3), np.uint8)
        assert data["arr_0"][:, 0, 0, 0].tolist() == [0, 128, 255, 255]
    with pytest.raises(ValueError, match="4 channels are no pixels"):
        save_samples(torch.zeros(1, 4, 8, 8), tmp_path / "latents.npz")


# -------------------------------------------------------------------------------------------- vulnerability


def test_only_what_was_named_is_stale() -> None:
    made = with_ages("part", 4, 2, lambda s, l: Ages((1, 0), 2) if l == 1 else Ages((0, 0), 0))  # noqa: E741
    assert made.staleness() == [[[0, 0], [min(s, 1), 0]] for s in range(4)]
    assert [made.weights_step(op) for op in made.ops if op.kind == "R" and op.layer == 1] == [0, 0, 0, 1]


def test_a_measured_vulnerability_predicts_what_it_was_measured_on_exactly() -> None:
    """The distance of each part's own schedule, by construction; that of the whole run, to first order."""
    plan, told = Plan(8, 2, 1, images=8, fine=32, guidance=1.5, seed=3), list[int]()
    with makers(SMALL, None, 1) as make:
        found = measure(make, plan, "here", lambda: told.append(1))
        settings = Settings(3, guidance=1.5)

        def images(schedule: object) -> Tensor:
            return make(Task(schedule, settings, range(8))).final_BCHW  # type: ignore[arg-type]

        exact, fine = images(load_schedule("sync", 8, 2)), images(load_schedule("sync", 32, 2))
        one = with_ages("one", 8, 2, lambda s, l: Ages((0, s >= 4 and l == 1), 0))  # noqa: E741
        moved = float((images(one) - exact).double().norm() / fine.double().norm())
        whole = load_schedule("interweaved", 8, 2)
        all_moved = float((images(whole) - exact).double().norm() / fine.double().norm())
    assert len(told) == runs(plan, 2, 2) == 14
    assert quality_cost(one, found, euler=False) == pytest.approx(moved, rel=1e-4)
    assert quality_cost(whole, found, euler=False) == pytest.approx(all_moved, rel=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"steps": 1}, "steps=1"), ({"fine": 20}, "fine=20 should be at least 21"), ({"age": 4}, "shorter than a period")],
)
def test_a_plan_that_measures_nothing_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**change)  # type: ignore[arg-type]


def test_the_vulnerability_that_ships_orders_the_methods() -> None:
    of = Vulnerability.load("digits")
    costs = [quality_cost(load_schedule(name, 20, 28), of) for name in ("sync", "dice", "interweaved", "displaced")]
    assert costs == sorted(costs)
    assert quality_cost(load_schedule("sync", 10, 28), of) > costs[0]


# -------------------------------------------------------------------------------------------------- commands


def test_the_synchronous_rival_is_as_fast_and_no_slower() -> None:
    clock = Clock.of("8x-rtx4090", "XL", 16)
    few = clock.as_long_as("dice", 10)
    assert few is not None
    assert clock.seconds("sync", few) <= clock.seconds("dice", 10) < clock.seconds("sync", few + 1)
    assert clock.as_long_as("sync", 10) is None
    assert clock.as_long_as("overlap", 1) is None


def said(words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(words.split())
    captured = capsys.readouterr()
    return int(str(exit_.value.code)), captured.out, captured.err


def test_quality_tells_of_its_rival_and_writes_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = f"--json {tmp_path}/q.json --picture {tmp_path}/q.png --npz {tmp_path}"
    words = f"quality dice --steps 6 --images 16 --ranks 4 --seeds 2 --fine 8 --jobs 1 {out}"
    code, told, _ = said(words, capsys)
    assert code == 0
    assert "sync, as long as dice  4" in told
    written = json.loads((tmp_path / "q.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["sync", "dice", "sync, as long as dice"]
    assert written["rows"][1]["distance"]["low"] > 0
    assert written["rows"][2]["seconds"] <= written["rows"][1]["seconds"] < written["rows"][0]["seconds"]
    assert np.load(tmp_path / "dice.npz")["arr_0"].shape == (32, 8, 8, 3)
    assert (tmp_path / "q.png").stat().st_size > 0


def test_emulate_has_the_machines_ranks_and_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "emulate interweaved --cluster 8x-h100 --images 2 --steps 4 --seeds 2 --fine 4 --jobs 1"
    code, told, _ = said(f"{words} --json {tmp_path}/e.json", capsys)
    assert code == 0
    assert "digits, 2 images on each rank of 8 x H100" in told
    written = json.loads((tmp_path / "e.json").read_text())
    assert written["question"]["images"] == 16
    assert written["question"]["shares"] == {"ranks": 8, "images": 2, "wire": None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("quality dice --images 10", "10 images cannot be shared out evenly over 8 ranks"),
        ("quality dice --ranks 3 --images 12", "8 experts cannot be spread evenly over 3 ranks"),
        ("quality dice --wire float64", "float32 rows gain nothing from travelling as float64"),
        ("quality dice --wire int4", "unknown wire 'int4'"),
        ("quality nonsense", "unknown schedule 'nonsense'"),
        ("quality dice --npz /nowhere", "--npz /nowhere should be a folder that exists"),
        ("quality dice --model tiny --picture x.png", "makes latents of 4 channels"),
        ("quality dice --fine 5", "fine=5 should be at least 20"),
        ("emulate dice --cluster 8x-h1000", "8x-h1000"),
        ("vulnerability --save x.json --periods 20", "shorter than a period"),
    ],
)
def test_bad_input_shows_itself(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = said(words, capsys)
    assert code == 2
    assert message in error
