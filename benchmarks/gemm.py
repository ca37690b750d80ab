"""Fits matrix products of measured GPUs, says how well, and renews the fits that the package's GPUs use.

    python benchmarks/gemm.py gemm_bf16.csv [--hold]

The file has the columns system, dtype, m, n, k, latency_us, a full grid of shapes a system; ours was read from
ai-dynamo/aiconfigurator 095f58a (Apache-2.0), and is not part of this repository.  Writes benchmarks/results/gemm.json
(median and 90th percentile of |predicted / measured - 1|) and, unless told to hold, `gemm` in sim/gpus/*.yaml: three
numbers and a surface of 6 x 3 x 3 for a system's 1,690 or 2,028 shapes."""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

from calibration.samples import machine
from sim.gemm import GemmFit, Points, covariance, hats, roofline_s
from sim.gpu import DTYPES, gpu_table
from sim.tables import read_table, table_text
from sim.units import quantity

Array = npt.NDArray[np.float64]
SOURCE = "fitted by benchmarks/gemm.py to ai-dynamo/aiconfigurator 095f58a (Apache-2.0)"
# Not in the data: the surface, memory share and fixed time of a GPU of the same architecture (Ada), whose power limit
# holds its own arithmetic down; the share of arithmetic from what squares of a size reached (TFLOP/s of bf16).
LIKE = {"rtx_4090": "l40s"}
SQUARES = {"rtx_4090": {1024: 126.84, 2048: 164.81, 4096: 151.50, 8192: 160.17, 10240: 158.54}}
SQUARES_SOURCE = "five squares of zzc0721/torch-performance-test-data, issue 78 (PyTorch 2.7.0, CUDA 12.8)"
NODES = ((16, 64, 256, 1024, 4096, 32768), (512, 1536, 8192), (512, 2048, 8192))
FOLDS = 10
RIDGE = 0.05  # keeps a factor near 1 where few shapes tell
GPUS = Path(__file__).parent.parent / "sim" / "gpus"


def main() -> None:
    match [argument for argument in sys.argv[1:] if argument != "--hold"]:
        case [file] if Path(file).is_file():
            run(Path(file), hold="--hold" in sys.argv)
        case []:
            print(f"benchmarks/gemm.py: nothing done, since it was given no measurements\n\n{__doc__}")
        case other:
            sys.exit(f"benchmarks/gemm.py: {' '.join(other)} should be one file of measurements")


def run(file: Path, hold: bool) -> None:
    """Fits, prints and writes everything; with `hold`, the package's GPUs stay as they are."""
    rows, fits = [], {}
    for system, data in read(file).items():
        fits[system] = fit(data, rates(system))
        rows.append({"system": system, "shapes": len(data), **errors(system, data, fits[system])})
    pooled = {
        key: quantiles(np.concatenate([row[key] for row in rows])) for key in rows[0] if key not in ("system", "shapes")
    }
    by_system = [{key: quantiles(v) if isinstance(v, np.ndarray) else v for key, v in row.items()} for row in rows]
    for row in (*by_system, {"system": "pooled", **pooled}):
        print(row)
    fits |= {name: inferred(name, fits[like]) for name, like in LIKE.items()}
    squares = {
        name: dict(zip(SQUARES[name], over_measured(name, fits[name]).round(3).tolist(), strict=True)) for name in LIKE
    }
    print("squares, predicted over measured:", squares)
    meta = {**machine(), "command": f"python benchmarks/gemm.py {file.name}"}
    found = {
        "meta": meta,
        "source": SOURCE,
        "pooled": pooled,
        "rows": by_system,
        "squares, predicted over measured": squares,
    }
    (Path(__file__).parent / "results" / "gemm.json").write_text(json.dumps(found, indent=1) + "\n")
    if not hold:
        for name in sorted(file.stem for file in GPUS.glob("*.yaml")):
            renew(name, fits[name])


def read(path: Path) -> dict[str, Array]:
    """Of each system, its shapes and seconds [shape, (m, n, k, seconds)], in order."""
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    with path.open() as file:
        for row in csv.DictReader(file):
            found[row["system"]].append((*(float(row[key]) for key in "mnk"), float(row["latency_us"]) * 1e-6))
    return {system: np.array(sorted(rows)) for system, rows in found.items()}


def rates(system: str) -> tuple[float, float]:
    """Peak FLOP/s and bytes a second of a GPU that the package has."""
    table = gpu_table(system)
    flops = quantity("flops_per_s", table["peak"]["bf16_flops_per_s"])
    return flops, quantity("bytes_per_s", table["memory_bytes_per_s"])


# ------------------------------------------------------------------------------------------------ fitting


def fit(data: Array, peak: tuple[float, float]) -> GemmFit:
    """The roofline of the least mean |log error|, and the surface of the least over it (a ridge keeps it near 1)."""
    m, n, k, seconds = data.T
    nodes = [
        tuple(node for node in each if axis.min() <= node <= axis.max())
        for each, axis in zip(NODES, (m, n, k), strict=True)
    ]
    nodes = [
        each if each[-1] == axis.max() else (*each, int(axis.max()))
        for each, axis in zip(nodes, (m, n, k), strict=True)
    ]

    def line(shares: Array) -> Array:
        return 1e-6 * shares[2] + roofline_s((m, n, k), peak[0] * shares[0], peak[1] * shares[1], DTYPES["bf16"])

    def loss(shares: Array) -> float:
        return float(np.abs(np.log(line(shares) / seconds)).mean()) if min(shares) > 0 else np.inf

    best = minimize(loss, [0.8, 0.8, 3.0], method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6}).x
    log_factor = surface(basis(data, nodes), np.log(seconds / line(best)))
    factor = np.exp(log_factor).round(3).reshape([len(each) for each in nodes])
    as_tuples = tuple(tuple(tuple(row) for row in plane) for plane in factor.tolist())
    shares = [float(f"{share:.3g}") for share in (best[0], best[1], best[2] * 1e-6)]
    return GemmFit(*shares, "bf16", *nodes, as_tuples)


def inferred(name: str, like: GemmFit) -> GemmFit:
    """The fit of a GPU that is `like` another, with the share of arithmetic that its measured squares tell."""

    def loss(share: float) -> float:
        return float(np.abs(np.log(over_measured(name, replace(like, compute_share=share)))).mean())

    return replace(like, compute_share=round(float(minimize_scalar(loss, bounds=(0.3, 1.5), method="bounded").x), 3))


def over_measured(name: str, fit: GemmFit) -> Array:
    """Seconds of the SQUARES of a GPU, predicted over measured."""
    sizes = np.array([(size, size, size) for size in SQUARES[name]], dtype=np.float64)
    return fitted_s(fit, sizes, rates(name)) * 1e12 * np.array([*SQUARES[name].values()]) / (2 * sizes[:, 0] ** 3)


def basis(data: Array, nodes: list[tuple[int, ...]]) -> Array:
    """[shape, node]: the weight of each factor in each shape."""
    weights = [hats(data[:, axis], each) for axis, each in enumerate(nodes)]
    return np.einsum("sa,sb,sc->sabc", *weights).reshape(len(data), -1)


def surface(weights: Array, residual: Array) -> Array:
    """log(factor) [node] of the least sum of |errors|, by least squares that weigh large errors less, repeatedly."""
    found, trust = np.zeros(weights.shape[1]), np.ones(len(residual))
    for _ in range(12):
        weighed = weights.T * trust
        found = np.linalg.solve(weighed @ weights + RIDGE * np.eye(len(found)), weighed @ residual)
        trust = 0.02 / np.maximum(np.abs(residual - weights @ found), 0.02)
    return found


def fitted_s(fit: GemmFit, data: Array, peak: tuple[float, float]) -> Array:
    """Seconds [shape] that a fit expects."""
    m, n, k = data[:, :3].T
    line = roofline_s((m, n, k), peak[0] * fit.compute_share, peak[1] * fit.memory_share, DTYPES[fit.dtype])
    factor = np.exp(basis(data, [fit.m, fit.n, fit.k]) @ np.log(fit.factor).ravel())
    return factor * (fit.fixed_s + line)


# ------------------------------------------------------------------------------------------------ errors


def errors(system: str, data: Array, whole: GemmFit) -> dict[str, Array]:
    """|predicted / measured - 1| [shape] of each way to predict.

    leave one out: kriged from all other points, over a fit without the point's tenth of them; at interior shapes.
    log interpolation: the mean of three, between the neighbours along m, n and k; at the same shapes.
    fitted: the surface that the package has, at the shapes that it was fitted to; by folds: at a tenth, without it.
    beyond: fitted to shapes up to 4,096 each, at those with one size above; roofline beyond: without the surface."""
    peak, seconds, inner = rates(system), data[:, 3], interior(data)
    inverse = np.linalg.inv(covariance(Points(tuple(map(tuple, data)), ()).at))
    left_out, by_folds = np.empty((2, len(data)))
    fold = np.random.default_rng(0).integers(FOLDS, size=len(data))
    for each in range(FOLDS):
        mine = fold == each
        expected = fitted_s(fit(data[~mine], peak), data, peak)
        by_folds[mine] = (expected / seconds)[mine]
        residual = np.log(seconds / expected)
        left_out[mine] = np.exp(-(inverse @ residual) / np.diag(inverse))[mine]  # of the prediction, over the measured
    below = (data[:, :3] <= 4096).all(axis=1)
    near = fit(data[below], peak)
    bare = replace(near, factor=tuple(tuple((1.0,) * len(near.k) for _ in near.n) for _ in near.m))
    ratios = {
        "leave one out": left_out[inner],
        "log interpolation": interpolated(data)[inner] / seconds[inner],
        "fitted": fitted_s(whole, data, peak) / seconds,
        "fitted, by folds": by_folds,
        "beyond": (fitted_s(near, data, peak) / seconds)[~below],
        "roofline beyond": (fitted_s(bare, data, peak) / seconds)[~below],
    }
    return {name: np.abs(ratio - 1) for name, ratio in ratios.items()}


def interior(data: Array) -> npt.NDArray[np.bool_]:
    """[shape]: not at an end of any axis."""
    sizes = data[:, :3]
    return ((sizes > sizes.min(axis=0)) & (sizes < sizes.max(axis=0))).all(axis=1)


def interpolated(data: Array) -> Array:
    """Seconds [shape] from both neighbours along each axis, linear in logarithms, the mean of the three axes."""
    axes = [np.unique(data[:, axis]) for axis in range(3)]
    log_s = np.log(data[:, 3]).reshape([len(axis) for axis in axes])  # read() sorts, and the grid is full
    guesses = np.zeros_like(log_s)
    for number, axis in enumerate(axes):
        at, lines = np.log(axis), np.moveaxis(log_s, number, 0)
        share = ((at[1:-1] - at[:-2]) / (at[2:] - at[:-2]))[:, None, None]
        between = np.pad((1 - share) * lines[:-2] + share * lines[2:], [(1, 1), (0, 0), (0, 0)])
        guesses += np.moveaxis(between, 0, number) / 3
    return np.exp(guesses).ravel()


def quantiles(found: Array) -> dict[str, float]:
    return {"median": round(float(np.median(found)), 4), "p90": round(float(np.quantile(found, 0.9)), 4)}


def renew(name: str, gemm: GemmFit) -> None:
    """Puts a fit into the file of a GPU."""
    table = read_table(GPUS / f"{name}.yaml")
    origin = SOURCE
    if name in LIKE:
        origin = f"inferred: that of {LIKE[name]}, {SOURCE}; compute_share from {SQUARES_SOURCE}"
    sources = {**table.pop("sources"), "gemm": origin}
    table.pop("gemm", None)
    text = table_text({**table, "gemm": asdict(gemm), "sources": sources})
    (GPUS / f"{name}.yaml").write_text(text)


if __name__ == "__main__":
    main()
