"""Images as a picture: a row for each schedule, a column for each noise, so that one sees what a schedule changes.

It knows pixels in -1 .. 1, grey (1 channel) or coloured (3); latents are decoded first (realrun/vae.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sim.output import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 16  # images in a line; more go on below
_INCHES = 0.55  # of an image, a side


def draw_gallery(images: Mapping[str, Tensor], labels: Sequence[str], path: Path) -> None:
    """Writes a .png, .svg or .pdf of images [image, C, H, W] by title; image i of each was made of the same noise.

    Raises ValueError if channels are neither 1 nor 3, or titles differ in their number of images."""
    for title, batch in images.items():
        if batch.shape[1] not in (1, 3):
            raise ValueError(f"{title}: {batch.shape[1]} channels are no picture: decode latents with a VAE (--vae)")
        if len(batch) != len(labels):
            raise ValueError(f"{title}: {len(batch)} images for {len(labels)} labels")
    from matplotlib.figure import Figure

    lines = [(title, at) for at in range(0, len(labels), _COLUMNS) for title in images]
    wide = min(_COLUMNS, len(labels))
    figure = Figure(figsize=(_INCHES * wide + 1.3, _INCHES * len(lines) + 0.4), layout="constrained")
    panels = figure.subplots(len(lines), 1, squeeze=False)[:, 0]
    for axes, (title, at) in zip(panels, lines, strict=True):
        _draw_line(axes, title, images[title][at : at + _COLUMNS], wide)
        if title == next(iter(images)):
            side = images[title].shape[-1] + 1
            axes.xaxis.tick_top()
            names = labels[at : at + _COLUMNS]
            axes.set_xticks([side * i + side / 2 - 1 for i in range(len(names))], names, fontsize=8)
    with whole_file(path) as beside:
        figure.savefig(beside, dpi=150)


def _draw_line(axes: Axes, title: str, batch_BCHW: Tensor, wide: int) -> None:
    pixels = (batch_BCHW.detach().float().clamp(-1, 1) + 1) / 2
    channels, high, side = pixels.shape[1:]
    if channels == 1:
        pixels = 1 - pixels  # ink on paper
    line = torch.ones(channels, high, wide * (side + 1) - 1)
    for i, image in enumerate(pixels):
        line[:, :, i * (side + 1) : i * (side + 1) + side] = image
    axes.imshow(line.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_yticks([high / 2 - 0.5], [title], fontsize=8)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
