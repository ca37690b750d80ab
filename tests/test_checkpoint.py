"""Checkpoints: every form of file gives the same model, each rank reads its own part, what does not fit is named."""

from __future__ import annotations

import argparse
import json
import runpy
import struct
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from realrun.checkpoint import Checkpoint
from realrun.cli import main
from realrun.model import DiTMoE
from realrun.parameters import fitted, load, random_state
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.run import Settings, run
from realrun.verify import expected
from sim.load import load_schedule
from sim.workload import MODELS, ModelShape, Workload

GOLDEN = Path(__file__).parent / "golden"
SHAPE = ModelShape("golden", layers=6, hidden=48, heads=4, experts=8, classes=10, latent=8)
NORMED = replace(SHAPE, qk_norm=True)

State = dict[str, Tensor]


def golden_state() -> State:
    with np.load(GOLDEN / "state.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def flash(state: State) -> State:
    """Under the names of the flash-attention variant."""
    renamed = {".attn.qkv.": ".attn.Wqkv.", ".attn.proj.": ".attn.out_proj."}
    return {next((n.replace(a, b) for a, b in renamed.items() if a in n), n): tensor for n, tensor in state.items()}


FORMS: dict[str, Callable[[State, Path], None]] = {
    "plain.safetensors": lambda state, path: save_file(state, path),
    "flash.safetensors": lambda state, path: save_file(flash(state), path),
    "plain.pt": lambda state, path: torch.save(state, path),
    "deepspeed.pt": lambda state, path: torch.save({"module": flash(state), "global_steps": 7}, path),
    "train.pt": lambda state, path: torch.save(
        {"model": {}, "ema": state, "opt": {}, "args": argparse.Namespace(model="DiT-S/2")}, path
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_model(form: str, tmp_path: Path) -> None:
    FORMS[form](golden_state(), tmp_path / form)
    checkpoint = Checkpoint(tmp_path / form)
    assert fitted(checkpoint, SHAPE) == SHAPE
    loaded, right = DiTMoE(SHAPE, [2, 6], torch.float64), DiTMoE(SHAPE, [2, 6], torch.float64)
    load(loaded, checkpoint)
    load(right, golden_state())
    (tmp_path / form).write_bytes(b"")  # what was loaded does not lie in the file any more
    for name, tensor in right.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_q_k_norm_and_size_of_the_images_are_the_files(tmp_path: Path) -> None:
    large = replace(NORMED, latent=16)
    save_file(flash(random_state(large, seed=1)), tmp_path / "large.safetensors")
    assert fitted(Checkpoint(tmp_path / "large.safetensors"), SHAPE) == large


@pytest.mark.parametrize(
    ("name", "norm"),
    [("S", False), ("S-16E", False), ("B", False), ("B", True), ("XL", False), ("XL", True), ("G", True)],
)
def test_the_public_models_are_known_by_names_and_shapes(name: str, norm: bool, tmp_path: Path) -> None:
    shape = replace(MODELS[name], qk_norm=norm)
    names = {n: tuple(like.shape) for n, like in DiTMoE(shape, range(shape.experts)).state_dict().items()}
    hollow(names, tmp_path / "hollow.safetensors")
    assert fitted(Checkpoint(tmp_path / "hollow.safetensors")) == shape


# --------------------------------------------------------------------------------------- each rank its own


def hollow(shapes: dict[str, tuple[int, ...]], path: Path) -> int:
    """A .safetensors file of bfloat16 zeros that takes no room on the disk (where it knows holes); its bytes."""
    at, header = 0, {}
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at


def test_a_rank_reads_its_own_experts_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FORMS["flash.safetensors"](golden_state(), tmp_path / "a.safetensors")
    read, asked = Checkpoint.read, list[str]()

    def noted(self: Checkpoint, names: Iterable[str]) -> object:
        asked.extend(names := list(names))
        return read(self, names)

    monkeypatch.setattr(Checkpoint, "read", noted)
    load(DiTMoE(SHAPE, [3]), Checkpoint(tmp_path / "a.safetensors"))
    assert {name.split(".")[4] for name in asked if ".experts." in name} == {"3"}
    assert "blocks.0.attn.Wqkv.weight" in asked


def test_real_ranks_with_a_checkpoint_equal_one_process_with_all_of_it(tmp_path: Path) -> None:
    FORMS["train.pt"](golden_state(), tmp_path / "a.pt")
    checkpoint, settings = Checkpoint(tmp_path / "a.pt"), Settings(dtype="float64")
    schedule, workload = load_schedule("interweaved", 3, 6), Workload(SHAPE, 2, images=1, wire="float64")
    with Ranks(2, timeout_s=20) as ranks:
        made = run(schedule, workload, ranks, settings, checkpoint)
    right = expected(schedule, workload, settings, golden_state())
    torch.testing.assert_close(made.final, right.final, rtol=0, atol=1e-10)


def grown_bytes(_: RankContext, path: Path, shape: ModelShape) -> tuple[int, int]:
    """(most bytes that loading took beyond what the process had, bytes of what it then holds)"""

    def peak_bytes() -> int:
        (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024

    load(DiTMoE(SHAPE, []), golden_state())  # what torch takes for itself
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, model = peak_bytes(), DiTMoE(shape, [1], torch.bfloat16)
    load(model, Checkpoint(path))
    return peak_bytes() - before, sum(tensor.nbytes for tensor in model.parameters())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to tell a process's peak")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_rank_of_8_takes_memory_for_its_share_and_not_for_the_file(suffix: str, tmp_path: Path) -> None:
    shape, path = replace(SHAPE, layers=4, hidden=512, mlp_ratio=8), tmp_path / f"large{suffix}"
    likes = DiTMoE(shape, range(8)).to(torch.bfloat16).state_dict()
    if suffix == ".pt":
        torch.save({name: torch.zeros(like.shape, dtype=torch.bfloat16) for name, like in likes.items()}, path)
    else:
        hollow({name: tuple(like.shape) for name, like in likes.items()}, path)
    with Ranks(1) as ranks:
        ((grown, held),) = ranks.call(grown_bytes, path, shape)
    assert path.stat().st_size > 5 * held
    assert held - 2**24 < grown < held + 2**25


# --------------------------------------------------------------------------------------------- misfits


def test_a_wrong_or_incomplete_file_is_refused_with_what_differs(tmp_path: Path) -> None:
    state, path = flash(golden_state()), tmp_path / "wrong.safetensors"
    del state["blocks.3.moe.experts.7.up_proj.weight"]  # of a rank that is not this one
    state["blocks.0.mlp.weight"] = torch.zeros(3)
    state["final_layer.linear.bias"] = torch.zeros(16)
    state["blocks.1.attn.qkv.bias"] = state["blocks.1.attn.Wqkv.bias"].clone()
    save_file(state, path)
    with pytest.raises(ValueError, match=r"wrong.safetensors does not fit model golden: ") as raised:
        fitted(Checkpoint(path), SHAPE)
    assert str(raised.value).split("golden: ")[1] == (
        "missing: blocks.3.moe.experts.7.up_proj.weight; unexpected: blocks.0.mlp.weight; "
        "mis-shaped: final_layer.linear.bias [16], should be [32]; under two names: blocks.1.attn.qkv.bias"
    )
    with pytest.raises(ValueError, match=r"is of none of the models tiny, .*217 tensors, hidden 48"):
        fitted(Checkpoint(path))
    save_file({"pos_embed": torch.zeros(16)}, path)
    with pytest.raises(ValueError, match=r"mis-shaped: pos_embed \[16\], should be \[1, 16, 48\]$"):
        fitted(Checkpoint(path), SHAPE)


def test_norms_of_some_layers_only_are_missing_in_the_others(tmp_path: Path) -> None:
    state = random_state(NORMED, seed=0)
    del state["blocks.2.attn.q_norm.weight"]
    save_file(state, tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"golden: missing: blocks\.2\.attn\.q_norm\.weight$"):
        fitted(Checkpoint(tmp_path / "some.safetensors"), SHAPE)


def shortened(path: Path) -> None:
    save_file({"a": torch.zeros(9), "b": torch.ones(9)}, path)
    path.write_bytes(path.read_bytes()[:-4])


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("cut.safetensors", lambda path: path.write_bytes(b"\x10" + bytes(40)), "is not a .safetensors file"),
        (
            "cut.safetensors",
            lambda path: shortened(path),
            "cut.safetensors is not whole: it has .* bytes, and b lies beyond",
        ),
        ("cut.pt", lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is not a whole file of torch.save"),
        ("bomb.pt", lambda path: torch.save({"a": Bomb()}, path), "or holds more than weights: Weights only load"),
        ("list.pt", lambda path: torch.save([torch.zeros(1)], path), "holds no weights by name, but a list"),
        (
            "step.pt",
            lambda path: torch.save({"a": torch.zeros(1), "step": 3}, path),
            "more than weights: 'step' is a int",
        ),
        ("a.ckpt", lambda path: path.touch(), r"a checkpoint is a file that ends in .safetensors, .pt, .pth, .bin"),
        ("none.pt", lambda path: None, "none.pt: there is no such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    name: str, write: Callable[[Path], object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        Checkpoint(tmp_path / name).shapes()
    assert not Path("exploded").exists()


# ------------------------------------------------------------------------------------------ command line


def test_the_command_refuses_what_does_not_fit_before_any_rank_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(golden_state(), path := tmp_path / "golden.safetensors")
    told = {
        f"--checkpoint {path}": "is of none of the models",
        f"--checkpoint {path} --model S": "does not fit model S: missing: blocks.10.adaLN_modulation.1.bias",
        "--model tiny --picture a.png": "model tiny makes latents of 4 channels: say --vae FOLDER to see them",
        "--model digits --picture a.gif": "a.gif should end in .png, .svg or .pdf",
        "--model digits --picture a.png --vae v": "--vae v has no effect: model digits makes pixels itself",
        "--model digits --vae v": "--vae v has no effect without --picture",
    }
    for words, message in told.items():
        with pytest.raises(SystemExit) as exit_:
            main(["sync", "--steps", "2", *words.split()])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


def test_the_command_draws_the_digits_that_ranks_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "digits.png"
    with pytest.raises(SystemExit) as exit_:
        main(["dice", "--steps", "3", "--model", "digits", "--images", "9", "--verify", "--picture", str(picture)])
    assert exit_.value.code == 0
    assert float(capsys.readouterr().out.split("without communication:")[1]) < 1e-4
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["checkpoints", "digits"])
def test_the_page_says_what_was_measured(name: str) -> None:
    benchmarks = Path(__file__).parent.parent / "benchmarks"
    table = runpy.run_path(str(benchmarks / f"{name}.py"))["table"]
    found = json.loads((benchmarks / "results" / f"{name}.json").read_text())
    assert table(found) in (benchmarks.parent / "docs" / "checkpoints.md").read_text()
