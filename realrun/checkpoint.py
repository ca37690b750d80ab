"""A checkpoint: a file of named tensors, of which each rank reads its own and no others.

Files are .safetensors, or what torch.save wrote (.pt, .pth, .bin): there the weights may lie under "ema" (taken first,
as DiT-MoE's own sampler does), "model" or "module".  The file knows formats; it refuses to know what a model needs
(realrun/parameters.py says what does not fit).

Nothing is mapped into memory: the maps of both libraries are private, which Linux refuses for a file larger than the
machine's memory (G's 33 GB), although a rank needs a fifth of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SAVED = (".pt", ".pth", ".bin")
_INNER = ("ema", "model", "module")  # of DiT-MoE's train.py, and of DeepSpeed
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LONGEST_HEADER_BYTES = 100_000_000  # of a .safetensors file, by its specification


class Place(NamedTuple):
    """Where a tensor lies in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    at_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.at_bytes + prod(self.shape) * self.dtype.itemsize


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
        return {name: place.shape for name, place in self.places().items()}

    def about(self) -> dict[str, str]:
        """What a .safetensors file says of itself."""
        return _header(self.path)[0].get("__metadata__", {}) if self.path.suffix == ".safetensors" else {}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of these names, each read when it is asked for, in the dtype that it was saved in."""
        places = self.places()
        with self.path.open("rb", buffering=0) as file:
            for name in names:
                place = places[name]
                tensor = torch.empty(place.shape, dtype=place.dtype)
                room = tensor.view(-1).view(torch.uint8).numpy().data
                file.seek(place.at_bytes)
                while len(room) and (got := file.readinto(room)):  # at most 2 GiB at once
                    room = room[got:]
                if len(room):
                    raise ValueError(f"{self.path} ended within {name}")
                yield name, tensor

    def places(self) -> dict[str, Place]:
        """name -> where each tensor lies in the file.  Raises ValueError if the file is not whole."""
        places = _in_safetensors(self.path) if self.path.suffix == ".safetensors" else _in_saved(self.path)
        size = self.path.stat().st_size
        beyond = [name for name, place in places.items() if place.end_bytes > size]
        if beyond:
            raise ValueError(f"{self.path} is not whole: it has {size} bytes, and {beyond[0]} lies beyond")
        return places


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """(header of a .safetensors file, bytes before its tensors)"""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if 2 <= size <= _LONGEST_HEADER_BYTES else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a .safetensors file: it does not begin with a header")
    return header, 8 + size


def _in_safetensors(path: Path) -> dict[str, Place]:
    header, first_bytes = _header(path)
    places = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = entry["data_offsets"]
            place = Place(_DTYPES[entry["dtype"]], tuple(entry["shape"]), first_bytes + begin)
            fills = place.end_bytes == first_bytes + end
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}: {name} should have dtype ({', '.join(_DTYPES)}), shape and offsets: {entry}"
            ) from None
        if not fills:
            raise ValueError(f"{path}: {name} of shape {[*place.shape]} does not fill its {end - begin} bytes")
        places[name] = place
    return places


def _in_saved(path: Path) -> dict[str, Place]:
    places = {}
    for name, tensor in _weights_in(path).items():
        at_bytes = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if at_bytes is None or not tensor.is_contiguous():
            raise ValueError(f"{path}: {name} does not lie in one piece; load and save the weights with this torch")
        inside_bytes = tensor.storage_offset() * tensor.element_size()
        places[name] = Place(tensor.dtype, tuple(tensor.shape), at_bytes + inside_bytes)
    return places


def _weights_in(path: Path) -> dict[str, Tensor]:
    """Tensors without values, which know where theirs lie in the file; nothing that the file holds is run."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        # DiT-MoE's train.py saves its arguments too
        with FakeTensorMode(), torch.serialization.safe_globals([argparse.Namespace]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no type of its own for a bad file
        first = str(error).splitlines()[0].split(". ")[0]
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
