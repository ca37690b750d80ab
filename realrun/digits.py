"""Handwritten digits, 8 x 8 pixels: what the small model learns, and is judged by.

scikit-learn brings the 1,797 images (half of NIST's of E. Alpaydin and C. Kaynak, UCI 1998), so nothing is downloaded.
The file knows pixels and labels; it refuses to know models."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_HELD_OUT = 5  # every fifth image is never trained on


class Digits(NamedTuple):
    """Images with their labels."""

    images_BCHW: Tensor  # [image, 1, 8, 8] float32, -1 (paper) to 1 (ink)
    labels_B: Tensor  # [image] int64, 0 to 9


def load_digits(held_out: bool = False) -> Digits:
    """The 1,438 images to learn from, or the 359 that are held out.

    Raises ValueError that says what to install if scikit-learn is not there."""
    try:
        from sklearn.datasets import load_digits as load  # type: ignore[import-untyped]
    except ImportError:
        raise ValueError("the digits are scikit-learn's, which is missing: pip install 'dice-sim[quality]'") from None
    pixels, labels = load(return_X_y=True)
    mine = (torch.arange(len(labels)) % _HELD_OUT == _HELD_OUT - 1) == held_out
    images_BCHW = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    return Digits(images_BCHW[mine], torch.from_numpy(labels).long()[mine])
