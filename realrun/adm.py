"""Samples as other people's evaluators read them: ADM's .npz, `arr_0` uint8 [image, height, width, 3].

guided-diffusion's evaluator.py, torch-fidelity (after unpacking) and most FID code take it.  It knows the format; it
refuses to know scores, which need networks of their own (docs/quality.md has the commands)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sim.output import whole_file


def save_samples(pixels_BCHW: Tensor, path: Path) -> None:
    """Writes pixels in -1 .. 1, of 3 channels, or of 1, which is repeated.  Raises ValueError for latents."""
    channels = pixels_BCHW.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels are no pixels: decode latents with a VAE (--vae)")
    bytes_BCHW = ((pixels_BCHW.clamp(-1, 1) + 1) * 127.5).round().byte().expand(-1, 3, -1, -1)
    with whole_file(path) as beside, beside.open("wb") as file:
        np.savez(file, arr_0=bytes_BCHW.permute(0, 2, 3, 1).contiguous().numpy())
