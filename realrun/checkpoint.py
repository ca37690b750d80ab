"""A checkpoint: a file of named tensors, of which each rank reads its own and no others.

Files are .safetensors, or what torch.save wrote (.pt, .pth, .bin): there the weights may lie under "ema" (taken first,
as DiT-MoE's own sampler does), "model" or "module".  The file knows formats; it refuses to know what a model needs
(realrun/model.py says what does not fit)."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SAVED = (".pt", ".pth", ".bin")
_INNER = ("ema", "model", "module")  # of DiT-MoE's train.py, and of DeepSpeed
_RENEW_BYTES = 128 * 2**20  # pages of a mapping count as the process's own until it is closed


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights.  It travels to the ranks as its path, and is read where and when it is needed."""

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix not in (".safetensors", *_SAVED):
            known = ", ".join((".safetensors", *_SAVED))
            raise ValueError(f"{self.path}: a checkpoint is a file that ends in {known}")
        if not self.path.is_file():
            raise ValueError(f"{self.path}: there is no such file")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape of all tensors; no tensor is read.

        Raises ValueError if the file is not whole."""
        return {name: tuple(tensor.shape) for name, tensor in self._mapped(None).items()}

    def about(self) -> dict[str, str]:
        """What a .safetensors file says of itself."""
        if self.path.suffix != ".safetensors":
            return {}
        with self._opened() as file:
            return dict(file.metadata() or {})

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of these names: views of the file that are valid until the next is asked for.

        What is read never stays: the process grows by at most 128 MiB and a tensor, whatever the file's size."""
        names = list(names)
        while names:
            mapped, read = self._mapped(names), 0
            while names and read < _RENEW_BYTES:
                name = names.pop(0)
                read += mapped[name].nbytes
                yield name, mapped.pop(name)

    def _mapped(self, names: Iterable[str] | None) -> dict[str, Tensor]:
        """Tensors (all, without names) that lie in the file still, and come into memory where they are touched."""
        if self.path.suffix == ".safetensors":
            with self._opened() as file:
                return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
        state = _weights_in(self.path)
        return state if names is None else {name: state[name] for name in names}

    def _opened(self) -> Any:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            raise ValueError(f"{self.path} needs a package: pip install 'dice-sim[real]'") from None
        try:
            return safe_open(self.path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{self.path} is not a whole .safetensors file: {error}") from None


def _weights_in(path: Path) -> dict[str, Tensor]:
    """What torch.save wrote; mapped, and without running any code that it holds."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DiT-MoE's train.py saves its arguments too
            held = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch has no type of its own for a bad file
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole file of torch.save, or holds more than weights: {first}") from None
    inner = held
    if isinstance(held, Mapping):
        inner = next((held[key] for key in _INNER if isinstance(held.get(key), Mapping)), held)
    if not isinstance(inner, Mapping):
        raise ValueError(f"{path} holds no weights by name, but a {type(inner).__name__}")
    strange = [name for name, value in inner.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{path} holds more than weights: {strange[0]!r} is a {type(inner[strange[0]]).__name__}")
    return dict(inner)
