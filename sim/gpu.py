"""A GPU as numbers: peak rates, memory, and how much of both real kernels reach, each with its source.

A Gpu turns a kernel's shape into seconds (products in sim/gemm.py); it refuses to know ops and models (sim/kernels.py
says which kernels an op is made of), links and hosts.  `gpus/` holds those that come with the package."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.faults import CLOSED, faults, own_words, unknown_key
from sim.gemm import GemmFit, Points, fit_problems
from sim.tables import in_si, numbers, read_table, table_text

Array = npt.NDArray[np.float64]
DTYPES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1}  # bytes of an element in memory
_PEAK = "_flops_per_s"
_PRESETS = Path(__file__).parent / "gpus"
_QUERIES_PER_BLOCK = 128  # of attention; its heads are padded to whole _WIDTHs (FlashAttention-2, arXiv 2307.08691)
_WIDTH = 32


@dataclass(frozen=True)
class Gpu:
    """One device.  peak: dense (not sparse) FLOP/s by dtype, "bf16_flops_per_s" and so on, accumulated in fp32.

    attention_share: of the peak, that attention reaches when it fills every multiprocessor.  Kernels that only move
    bytes reach the memory's share of `gemm`, and start after its fixed_s, as every kernel does.
    measured: one's own products by dtype, (m, n, k, seconds) each; returned exactly, see `Points`."""

    name: str
    peak: Mapping[str, float]
    memory_bytes: float
    memory_bytes_per_s: float
    multiprocessors: int
    attention_share: float
    gemm: GemmFit
    sources: Mapping[str, str]  # field -> where its numbers come from
    measured: Mapping[str, tuple[tuple[int, int, int, float], ...]] = field(default_factory=dict)
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        if problems := [*_problems(self)]:
            raise ValueError(f"GPU {self.name}: " + "; ".join(problems))

    def __str__(self) -> str:
        return table_text(asdict(self))

    @staticmethod
    def load(path: Path | str) -> Gpu:
        """The GPU in a YAML file, or the one of that name in the package ("h100_sxm").

        Raises ValueError with every unknown key and unit, every value that is missing, of the wrong type or out of
        range, a line each; OSError if the file cannot be read."""
        from pydantic import TypeAdapter, ValidationError

        problems: list[str] = []
        data = in_si(gpu_table(path), "", problems)
        try:
            gpu: Gpu = TypeAdapter(Gpu).validate_python(data)
        except ValidationError as error:
            problems += [*faults(error.errors(), Gpu), *value_errors(error.errors())]
        if problems:
            raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
        return gpu

    def flops_per_s(self, dtype: str) -> float:
        """Peak rate.  Raises ValueError that lists what the GPU has if it does not have `dtype`."""
        rate = self.peak.get(dtype + _PEAK)
        if rate is None:
            known = ", ".join(key.removesuffix(_PEAK) for key in self.peak)
            raise ValueError(f"GPU {self.name} has no {dtype}; it has {known}")
        return rate

    def gemm_s(self, m: Any, n: int, k: int, dtype: str, matrices: Any = 1) -> Array:
        """Seconds of a product [m, k] x [k, n], for every m of an array; 0 where m is 0.

        matrices: how many [k, n] share the m rows in one grouped kernel, which has no measurements of its own."""
        rate = self.flops_per_s(dtype)
        fitted = self.gemm.seconds((m, n, k), rate, self.memory_bytes_per_s, DTYPES[dtype], matrices)
        points = self._points.get(dtype) if np.all(np.asarray(matrices) <= 1) else None
        return fitted if points is None else points.seconds((m, n, k), fitted)

    def attention_s(self, images: float, heads: int, sizes: tuple[float, float, int], dtype: str) -> float:
        """Seconds of softmax(q k^T) v for sizes (queries, keys, width of a head) of every image and head.

        A block of the kernel has 128 queries; blocks come in waves over the multiprocessors (FlashAttention-2).
        Not measured here: published shares are 35 to 75 % of the peak, so that a result may be wrong twofold."""
        queries, keys, width = sizes
        blocks = images * heads * math.ceil(queries / _QUERIES_PER_BLOCK)
        waves = math.ceil(blocks / self.multiprocessors)
        padded = -(-width // _WIDTH) * _WIDTH
        per_block = 4 * min(queries, _QUERIES_PER_BLOCK) * keys * padded
        rate = self.flops_per_s(dtype) * self.attention_share / self.multiprocessors
        moved = 2 * images * heads * (queries + keys) * width * DTYPES[dtype]
        return self.gemm.fixed_s + max(waves * per_block / rate, float(self._moving_s(moved)))

    def traffic_s(self, elements: float | Array, kernels: int, dtype: str) -> float | Array:
        """Seconds of `kernels` element-wise kernels that read and write `elements` in all.

        What fits in the L2 cache moves faster, which is ignored: an upper bound for small batches."""
        seconds: float | Array = kernels * self.gemm.fixed_s + self._moving_s(elements * DTYPES[dtype])
        return seconds

    def _moving_s(self, moved_bytes: Any) -> Any:
        return moved_bytes / (self.memory_bytes_per_s * self.gemm.memory_share)

    @cached_property
    def _points(self) -> dict[str, Points]:
        found = {}
        for dtype, points in self.measured.items():
            m, n, k, _ = np.array(points).T
            fitted = [self.gemm.seconds(shape, self.flops_per_s(dtype), self.memory_bytes_per_s, DTYPES[dtype])
                      for shape in zip(m, n.astype(int), k.astype(int), strict=True)]  # fmt: skip
            found[dtype] = Points(tuple(points), tuple(float(s) for s in fitted))
        return found


def gpu_presets() -> list[str]:
    """Names of the GPUs that come with the package."""
    return sorted(file.stem for file in _PRESETS.glob("*.yaml"))


def gpu_table(path: Path | str) -> Any:
    """What the file of a GPU holds, or that of the preset of this name.  Raises ValueError for what is neither."""
    file = Path(path)
    if file.suffix or len(file.parts) != 1 or file.exists():
        return read_table(file)
    if str(path) not in gpu_presets():
        raise ValueError(f"no GPU is called {path}, and no file; the names are {', '.join(gpu_presets())}")
    return read_table(_PRESETS / f"{path}.yaml")


def value_errors(errors: Any) -> list[str]:
    """What __post_init__ said, from pydantic's errors, a line each and without the name before it."""
    return [problem for text in own_words(errors) for problem in text.split(": ", 1)[-1].split("; ")]


def number_problems(gpu: Any) -> Iterator[str]:
    """What is wrong with the numbers of a GPU, given as plain tables, of which any may be missing."""
    for key, value in numbers(gpu).items():
        least = "at least" if key == "gemm.fixed_s" else "above"
        if not math.isfinite(value) or value < 0 or (value == 0 and least == "above"):
            yield f"{key}={value:g} should be {least} 0"
        elif key.endswith("_share") and value > 1:
            yield f"{key}={value:g} should be a share, at most 1"


def _problems(gpu: Gpu) -> Iterator[str]:
    """What is wrong with the numbers of a GPU."""
    known = [dtype + _PEAK for dtype in DTYPES]
    yield from (f"peak.{key}: unknown, not one of {', '.join(known)}" for key in gpu.peak if key not in known)
    if not gpu.peak:
        yield f"peak is empty, and should have at least one of {', '.join(known)}"
    for what, dtype in [("gemm.dtype", gpu.gemm.dtype), *(("measured", dtype) for dtype in gpu.measured)]:
        if gpu.peak and dtype + _PEAK not in gpu.peak:
            yield f"{what}: no peak for {dtype!r}, only {', '.join(gpu.peak)}"
    names = [each.name for each in fields(gpu)]
    strange = {key: value for key, value in gpu.sources.items() if key not in names}
    yield from (f"sources.{key}: {unknown_key(key, value, names)}" for key, value in strange.items())
    yield from number_problems(asdict(gpu))
    yield from fit_problems(gpu.gemm)
    yield from (f"measured.{dtype}: has no products" for dtype, points in gpu.measured.items() if not points)
    for dtype, points in gpu.measured.items():
        if bad := [point for point in points if not all(0 < value < math.inf for value in point)]:
            yield f"measured.{dtype}: {list(bad[0])} should be m, n, k and seconds, all above 0"
        if len({point[:3] for point in points}) < len(points):
            yield f"measured.{dtype}: a shape stands there twice"
