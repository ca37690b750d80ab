"""Latents to pixels, by the VAE that DiT-MoE was trained with (stabilityai/sd-vae-ft-mse), through diffusers.

Its weights are the user's: a folder with config.json and weights; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

_AT_ONCE = 4  # images; decoding one of 256 px holds about 0.4 GB in fp32


def decode(latents_BCHW: Tensor, folder: Path) -> Tensor:
    """Pixels [B, 3, 8H, 8W] of latents [B, 4, H, W], in -1 .. 1 but for what overshoots; fp32.

    Divided by the VAE's own scale first (0.18215, as in DiT-MoE's sampler).  Raises ValueError that says what to
    install, or what the folder lacks."""
    try:
        from diffusers import AutoencoderKL  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ValueError("decoding with a VAE needs a package: pip install 'dice-sim[vae]'") from None
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder of a VAE: there is no config.json (sd-vae-ft-mse has one)")
    vae = AutoencoderKL.from_pretrained(folder, local_files_only=True).eval()
    if vae.config.latent_channels != latents_BCHW.shape[1]:
        raise ValueError(f"{folder} is a VAE of {vae.config.latent_channels} channels, not {latents_BCHW.shape[1]}")
    with torch.inference_mode():
        scaled = latents_BCHW.float() / vae.config.scaling_factor
        return torch.cat([vae.decode(some).sample for some in scaled.split(_AT_ONCE)])
