"""A small classifier of digits: its features say how far sets of images are apart, its classes whether they are what
was asked for.

A CNN of 47,000 parameters, trained in ten seconds by `python -m realrun classifier`; `Classifier.load` reads what
that wrote.  It knows 8 x 8 pixels in -1 .. 1; it refuses to know who made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realrun.digits import Digits
from sim.output import whole_file

FEATURES = 32  # few, so that a covariance needs few images
_PATH = Path(__file__).parent / "weights" / "digits-classifier.safetensors"
_EPOCHS, _BATCH, _RATE = 60, 64, 2e-3


class Seen(NamedTuple):
    """What a classifier sees in images: features [image, 32], and the most likely class [image]."""

    features: Tensor
    classes: Tensor


class Classifier(nn.Module):
    """Three convolutions, a layer of features, and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.Dropout(0.3), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(256, FEATURES),
        )  # fmt: skip
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, 10))

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(features [image, 32], before their ReLU; scores [image, 10])."""
        features = self.layers(images_BCHW)
        return features, self.head(features)

    def see(self, images_BCHW: Tensor) -> Seen:
        """What it sees in images of 1 x 8 x 8; raises ValueError for others."""
        if images_BCHW.shape[1:] != (1, 8, 8):
            raise ValueError(f"the classifier knows images of 1 x 8 x 8, not {list(images_BCHW.shape[1:])}")
        with torch.inference_mode():
            features, scores = self(images_BCHW.float())
        return Seen(features, scores.argmax(dim=1))

    def save(self, path: Path, about: Mapping[str, str]) -> None:
        """Writes a .safetensors file that `load` reads, with `about` in its header."""
        from safetensors.torch import save_file

        with whole_file(path) as beside:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, beside, dict(about))

    @staticmethod
    def load(path: Path = _PATH) -> Classifier:
        """The one that ships, or that of another file."""
        from safetensors.torch import load_file

        model = Classifier()
        model.load_state_dict(load_file(path))
        return model.eval()


def train_classifier(data: Digits, seed: int, tell: Callable[[int, float], None] = lambda *_: None) -> Classifier:
    """Trained on `data`, shifted by up to a pixel; the same seed gives the same weights on one machine and thread.

    tell: is called with the epoch and its mean loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _trained(Classifier(), data, tell).eval()


def _trained(model: Classifier, data: Digits, tell: Callable[[int, float], None]) -> Classifier:
    steps = _EPOCHS * (len(data.labels_B) // _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=1e-2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(_EPOCHS):
        order, losses = torch.randperm(len(data.labels_B)), []
        for batch in torch.split(order, _BATCH)[: len(order) // _BATCH]:
            scores = model(_shifted(data.images_BCHW[batch]))[1]
            loss = F.cross_entropy(scores, data.labels_B[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
            losses.append(loss.item())
        tell(epoch, sum(losses) / len(losses))
    return model


def accuracy(model: Classifier, data: Digits) -> float:
    """Share of images that it classifies as they are labelled."""
    return float((model.see(data.images_BCHW).classes == data.labels_B).float().mean())


def _shifted(images_BCHW: Tensor) -> Tensor:
    """Each by -1, 0 or 1 pixel each way; paper comes in."""
    padded = F.pad(images_BCHW, (1, 1, 1, 1), value=-1.0)
    shifts = torch.randint(0, 3, (len(images_BCHW), 2)).tolist()
    moved = [one[:, down : down + 8, right : right + 8] for one, (down, right) in zip(padded, shifts, strict=True)]
    return torch.stack(moved)
