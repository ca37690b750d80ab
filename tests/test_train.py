"""Training: it learns, it repeats itself to the last bit whatever kills it, and what ships came of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from realrun.cli import main
from realrun.digits import Digits, load_digits
from realrun.model import DiTMoE
from realrun.parameters import load, random_state
from realrun.reference import reference
from realrun.train import Progress, Recipe, balance_loss, start, train, velocity
from realrun.trained import GUIDANCE, save_weights, trained
from sim.load import load_schedule
from sim.workload import MODELS, ModelShape

ROOT = Path(__file__).parent.parent
SMALL = ModelShape("small", layers=2, hidden=16, heads=2, experts=4, mlp_ratio=1, channels=1, classes=10, latent=8)
RECIPE = Recipe(steps=12, batch=16, seed=5, warm_up=3)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def trained_in(folder: Path, digits: Digits) -> dict[str, torch.Tensor]:
    list(train(SMALL, digits, RECIPE, folder))
    return start(SMALL, RECIPE, folder).averaged


def test_digits_held_out_are_no_others() -> None:
    seen, held_out = load_digits(), load_digits(held_out=True)
    assert (len(seen.labels_B), len(held_out.labels_B)) == (1438, 359)
    assert seen.images_BCHW.shape[1:] == (1, 8, 8)
    assert (seen.images_BCHW.min(), seen.images_BCHW.max()) == (-1, 1)
    assert held_out.labels_B.bincount().min() > 20


def test_the_network_that_learns_is_the_one_that_samples(digits: Digits) -> None:
    model = DiTMoE(SMALL, range(4), torch.float64)
    load(model, random_state(SMALL, seed=1))
    noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (right,) = reference(load_schedule("sync", 1, 2), model, noise, digits.labels_B[:6]).velocity
    ours, share_LE, score_LE = velocity(model, noise, torch.ones(6), digits.labels_B[:6])
    torch.testing.assert_close(ours, right[:6], rtol=0, atol=1e-12)
    torch.testing.assert_close(share_LE.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(score_LE.sum(dim=1), torch.ones(2, dtype=torch.float64))


def test_every_image_of_a_batch_has_a_time_of_its_own(digits: Digits) -> None:
    model, times = DiTMoE(SMALL, range(4), torch.float64), torch.tensor([0.1, 0.5, 1.0])
    load(model, random_state(SMALL, seed=1))
    images, labels = digits.images_BCHW[:3].double(), digits.labels_B[:3]
    together, _, _ = velocity(model, images, times, labels)
    for i in range(3):
        alone, _, _ = velocity(model, images[i : i + 1], times[i : i + 1], labels[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_balance_is_1_where_all_experts_are_used_alike_and_their_number_where_one_is() -> None:
    even, one = torch.full((3, 4), 0.25), torch.eye(4)[:1].expand(3, 4)
    assert balance_loss(even, even) == 1
    assert balance_loss(one, one) == 4


def test_it_learns(digits: Digits, tmp_path: Path) -> None:
    steps = [*train(SMALL, digits, replace(RECIPE, steps=150, rate=5e-3), tmp_path)]
    begins, ends = (sum(step.loss for step in some) / 20 for some in (steps[:20], steps[-20:]))
    assert ends < 0.7 * begins
    assert [step.step for step in steps] == [*range(1, 151)]
    assert all(isinstance(step, Progress) and 1 <= step.used <= 4 for step in steps)


def test_a_run_in_parts_ends_in_the_same_weights_to_the_last_bit(digits: Digits, tmp_path: Path) -> None:
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = trained_in(tmp_path / "whole", digits)
    while len([*train(SMALL, digits, RECIPE, tmp_path / "parts", limit=5)]) == 5:
        pass
    parts = start(SMALL, RECIPE, tmp_path / "parts").averaged
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_a_run_that_was_killed_goes_on_to_the_same_weights(digits: Digits, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    code = f"""import sys; sys.path.insert(0, "tests")
from test_train import *
torch.set_num_threads(1)
for step in train(SMALL, load_digits(), RECIPE, Path({str(tmp_path)!r}), every=1):
    print(step.step, flush=True)"""
    for at in (3, 7):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        reached = next(line for line in child.stdout if int(line) >= at)
        time.sleep(0.003 * at)  # somewhere within a step, or a file
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL or int(reached) == RECIPE.steps
    (tmp_path / ".training.99.pt").write_bytes(b"half a file")
    resumed, whole = trained_in(tmp_path, digits), trained_in(tmp_path / "whole", digits)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    assert [path.name for path in tmp_path.glob("*.pt")] == ["training.pt"]
    assert not [*tmp_path.glob(".training*")]


def test_another_runs_folder_is_refused(digits: Digits, tmp_path: Path) -> None:
    trained_in(tmp_path, digits)
    with pytest.raises(
        ValueError, match=r"training.pt is of another run: hidden=16, not 32; seed=5, not 6; name another"
    ):
        start(replace(SMALL, hidden=32), replace(RECIPE, seed=6), tmp_path)
    with pytest.raises(ValueError, match="unlabelled=1 should be from 0 to below 1"):
        Recipe(unlabelled=1)


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a is not finite in float16"):
        save_weights({"a": torch.tensor([1e9])}, {}, tmp_path / "weights.safetensors")
    assert not [*tmp_path.iterdir()]


def test_the_command_trains_and_says_who_made_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--steps", "2", "--folder", str(tmp_path)])
    assert exit_.value.code == 0
    assert "held-out digits" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main(["about", str(tmp_path / "digits.safetensors")])
    said = capsys.readouterr().out
    assert said.startswith("model digits: 6 layers, hidden 64, 8 experts")
    assert "command: python -m realrun train --steps 2 --seed 0" in said


# ----------------------------------------------------------------------------------------------- what ships


def test_weights_that_ship_name_command_machine_and_versions() -> None:
    weights = trained("digits")
    assert weights is not None
    about = weights.about()
    assert {"date", "processor", "cores", "python", "torch", "scikit-learn"} <= about.keys()
    recipe = Recipe(**json.loads(about["recipe"]))
    assert about["command"] == f"python -m realrun train --steps {recipe.steps} --seed {recipe.seed}"
    assert not re.search(r"(^|\s)/\w", " ".join(about.values())), "a path of somebody's machine"
    assert trained("tiny") is None


def test_digits_that_were_made_are_read_as_what_was_asked_for(digits: Digits) -> None:
    from sklearn.svm import SVC  # type: ignore[import-untyped]

    judge = SVC().fit(digits.images_BCHW.flatten(1).numpy(), digits.labels_B.numpy())
    held_out = load_digits(held_out=True)
    assert judge.score(held_out.images_BCHW.flatten(1).numpy(), held_out.labels_B.numpy()) > 0.97
    model, weights = DiTMoE(MODELS["digits"], range(8)), trained("digits")
    assert weights is not None
    load(model, weights)
    labels = torch.arange(10).repeat(10)
    noise = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = reference(load_schedule("sync", 20, 6), model, noise, labels, GUIDANCE["digits"]).final_BCHW
    assert judge.score(made.flatten(1).numpy(), labels.numpy()) > 0.95
