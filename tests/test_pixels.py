"""Pixels: pictures of images side by side, and latents that a VAE decodes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from realrun.gallery import draw_gallery
from realrun.vae import decode


def test_the_same_noise_stands_in_the_same_column(tmp_path: Path) -> None:
    ink, paper = torch.ones(2, 1, 8, 8), -torch.ones(2, 1, 8, 8)
    left_differs = torch.cat([ink[:1], paper[:1]])
    draw_gallery({"sync": ink, "stale": left_differs}, ["3", "7"], tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")[..., :3].mean(axis=-1)
    dark = picture < 0.1
    rows = np.flatnonzero(dark.sum(axis=1) > 0.2 * dark.shape[1])
    above, below = dark[rows[len(rows) // 4]], dark[rows[-len(rows) // 8]]
    assert above.sum() == pytest.approx(2 * below.sum(), rel=0.1)
    assert (above[below]).all(), "the image that both rows have is in one column"


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sync: 4 channels are no picture: decode latents with a VAE \(--vae\)"):
        draw_gallery({"sync": torch.zeros(2, 4, 8, 8)}, ["1", "2"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="sync: 3 images for 2 labels"):
        draw_gallery({"sync": torch.zeros(3, 1, 8, 8)}, ["1", "2"], tmp_path / "a.png")
    assert not [*tmp_path.iterdir()]


class StandIn:
    """A VAE that makes each latent's first channel eight times larger, in three colours."""

    config = SimpleNamespace(latent_channels=4, scaling_factor=0.5)

    def __init__(self) -> None:
        self.batches: list[int] = []

    @classmethod
    def from_pretrained(cls, folder: Path, local_files_only: bool) -> StandIn:
        assert local_files_only, "nothing is downloaded"
        return cls()

    def eval(self) -> StandIn:
        return self

    def decode(self, latents_BCHW: Tensor) -> SimpleNamespace:
        assert len(latents_BCHW) <= 4
        large = latents_BCHW[:, :1].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        return SimpleNamespace(sample=large.expand(-1, 3, -1, -1))


def with_stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    module = ModuleType("diffusers")
    module.AutoencoderKL = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffusers", module)
    (folder / "config.json").write_text("{}")


def test_latents_are_scaled_and_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_stand_in(monkeypatch, tmp_path)
    latents = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 4, 2, 2)
    pixels = decode(latents.bfloat16(), tmp_path)
    assert pixels.shape == (6, 3, 16, 16)
    assert pixels[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10]
    with pytest.raises(ValueError, match="is a VAE of 4 channels, not 1"):
        decode(latents[:, :1], tmp_path)


def test_a_missing_package_or_folder_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_stand_in(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match=r"nowhere is no folder of a VAE: there is no config.json"):
        decode(torch.zeros(1, 4, 2, 2), tmp_path / "nowhere")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'dice-sim\[vae\]'"):
        decode(torch.zeros(1, 4, 2, 2), tmp_path)


BLOCKS = [("Down", "Encoder"), ("Up", "Decoder")]


@pytest.mark.filterwarnings("default")  # those of another's imports
def test_diffusers_own_vae_decodes(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="the extra dice-sim[vae] is not installed")
    torch.manual_seed(0)
    small: dict[str, Any] = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4}
    blocks = {f"{way.lower()}_block_types": (f"{way}{kind}Block2D",) * 2 for way, kind in BLOCKS}
    vae = diffusers.AutoencoderKL(**small, **blocks)
    vae.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["scaling_factor"] == 0.18215
    latents = torch.randn(5, 4, 8, 8)
    with torch.inference_mode():
        right = vae.eval().decode(latents / 0.18215).sample
    torch.testing.assert_close(decode(latents, tmp_path), right, rtol=1e-4, atol=1e-4)
