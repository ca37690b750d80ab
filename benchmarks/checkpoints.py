"""Public checkpoints at full size, with random weights: `python benchmarks/checkpoints.py`.

Names, shapes and dtypes are the public files'.  XL is written whole, G with the share of one rank of 8 (elsewhere its
file has holes).  Ranks of 8 read them one after the other, as .safetensors and .pt: is every value right, how long did
it take, and how much memory.  Then two ranks sample with XL, against one process.  Needs 17 GB of disk (in the folder
that is named, or a temporary one) and 12 GB of memory."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from calibration import samples
from realrun.checkpoint import Checkpoint
from realrun.model import DiTMoE
from realrun.parameters import fitted, load, random_parameters
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.run import Settings, run
from realrun.verify import expected
from sim.load import load_schedule
from sim.output import whole_file
from sim.workload import MODELS, ModelShape, Workload

RANKS, SEED = 8, 0
RESULTS = Path(__file__).parent / "results" / "checkpoints.json"
ALL, SAMPLED = range(8), {"B.pt": "float32", "XL.safetensors": "bfloat16"}
PLAN = [  # model, kind of file, experts that are written, ranks of 8 that read
    ("S", ".pt", ALL, (0, 7)),
    ("B", ".pt", ALL, (0, 7)),
    ("XL", ".pt", ALL, (0, 7)),
    ("G", ".pt", (0, 8), (0,)),
    ("G", ".safetensors", (0, 8), (0,)),
    ("XL", ".safetensors", ALL, ALL),
]
FLASH = {".attn.qkv.": ".attn.Wqkv.", ".attn.proj.": ".attn.out_proj."}


def main(folder: Path) -> None:
    """Writes files into `folder` and removes them; writes results with machine and command."""
    console, rows, sampled = Console(stderr=True), [], []
    for name, suffix, shared, read_by in PLAN:
        path = folder / f"{name}{suffix}"
        console.print(f"writing {path.name}")
        write(MODELS[name], path, shared)
        for rank in read_by:
            console.print(f"{path.name} on rank {rank}")
            rows.append(one_rank(name, path, rank))
        if path.name in SAMPLED:
            console.print(f"sampling with {path.name}")
            sampled.append(sample(path, SAMPLED[path.name]))
        path.unlink()
    found = {"meta": samples.machine(), "ranks": rows, "sampling": sampled}
    with whole_file(RESULTS) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """What docs/checkpoints.md shows of the results."""
    columns = ("file", "size", "read by rank (of 8)", "its share", "memory it took", "seconds", "wrong tensors")
    lines = [_line(file, [*rows]) for file, rows in groupby(found["ranks"], lambda row: row["file"])]
    text = "".join(f"| {' | '.join(map(str, line))} |\n" for line in [columns, ["---"] * len(columns), *lines])
    for made in found["sampling"]:
        steps, most = made["schedule"].split(" layers")[0], max(made["peak_bytes"]) / 1e9
        text += (
            f"\nTwo ranks sampled with {made['file']}: {made['dtype']}, {steps}, one image each, "
            f"{made['seconds']:.0f} s, at most {most:.1f} GB a rank. Their latents differ by {made['difference']:.1g} "
            "(root mean square, relative) from those of one process with the whole file.\n"
        )
    meta = found["meta"]
    return text + f"\n({meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`)\n"


def _line(file: str, rows: list[dict[str, Any]]) -> list[str]:
    def gigabytes(key: str) -> str:
        return f"{max(row[key] for row in rows) / 1e9:.2f} GB"

    ranks, seconds = ", ".join(str(row["rank"]) for row in rows), [row["seconds"] for row in rows]
    sizes = gigabytes("file_bytes"), ranks, gigabytes("held_bytes"), gigabytes("peak_bytes")
    return [
        file,
        *sizes,
        " to ".join(f"{s:.1f}" for s in sorted({min(seconds), max(seconds)})),
        str(sum(row["wrong_tensors"] for row in rows)),
    ]


def flash(name: str) -> str:
    """A parameter's name in the flash-attention variant."""
    return next((name.replace(ours, theirs) for ours, theirs in FLASH.items() if ours in name), name)


def dtype_of(shape: ModelShape) -> torch.dtype:
    """That of the public files."""
    return torch.float16 if shape.qk_norm else torch.float32


def write(shape: ModelShape, path: Path, experts: Iterable[int]) -> None:
    """A whole file, in which the values of other `experts` are 0 and take no room on the disk."""
    names = flash if shape.qk_norm else str
    likes = DiTMoE(shape, range(shape.experts)).state_dict()
    hollow({names(name): torch.empty(like.shape, dtype=dtype_of(shape)) for name, like in likes.items()}, path)
    places = Checkpoint(path).places()
    with path.open("r+b") as file:
        for name, tensor in random_parameters(shape, SEED, experts):
            file.seek(places[names(name)].at_bytes)
            file.write(tensor.to(dtype_of(shape)).view(-1).view(torch.uint8).numpy().data)


def hollow(state: dict[str, Tensor], path: Path) -> None:
    """A file of these names, shapes and dtypes, whose values were not written; the tensors are never touched."""
    if path.suffix == ".pt":
        with torch.serialization.skip_data():
            torch.save({"ema": state}, path)
        return
    at, header = 0, {}
    for name, tensor in state.items():
        dtype = "F16" if tensor.dtype == torch.float16 else "F32"
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def one_rank(name: str, path: Path, rank: int) -> dict[str, Any]:
    """What `rank` of 8 needs for its share of a file, and whether that is what was written."""
    shape = fitted(Checkpoint(path), MODELS[name])
    with Ranks(1, timeout_s=600) as ranks:
        ((seconds, peak_bytes, held_bytes, wrong),) = ranks.call(read, path, shape, range(rank, shape.experts, RANKS))
    return {
        "file": path.name, "file_bytes": path.stat().st_size, "rank": rank, "of": RANKS, "held_bytes": held_bytes,
        "peak_bytes": peak_bytes, "seconds": round(seconds, 2), "wrong_tensors": wrong,
    }  # fmt: skip


def read(_: RankContext, path: Path, shape: ModelShape, experts: range) -> tuple[float, int, int, int]:
    """(seconds of loading, growth of the process at its largest, bytes held, tensors that are not what was written)"""
    load(DiTMoE(MODELS["digits"], []), dict(random_parameters(MODELS["digits"], 0, [])))  # what torch takes for itself
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, began_s, model = peak(), time.monotonic(), DiTMoE(shape, experts, dtype_of(shape))
    load(model, Checkpoint(path))
    seconds, grown, state = time.monotonic() - began_s, peak() - before, model.state_dict()
    written = random_parameters(shape, SEED, experts)
    wrong = sum(not torch.equal(state[name], tensor.to(dtype_of(shape))) for name, tensor in written)
    return seconds, grown, sum(tensor.nbytes for tensor in state.values()), wrong


def peak() -> int:
    """Most bytes that this process had in memory at once, its files' pages included."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def sample(path: Path, dtype: str) -> dict[str, Any]:
    """Two ranks with a model from its file, one image each, against one process."""
    checkpoint, settings = Checkpoint(path), Settings(dtype=dtype)
    shape = fitted(checkpoint)
    schedule, workload = load_schedule("interweaved", 2, shape.layers), Workload(shape, 2, images=1, wire=dtype)
    with Ranks(2, timeout_s=600) as ranks:
        made = run(schedule, workload, ranks, settings, checkpoint)
        peaks = ranks.call(_peak)
    right = expected(schedule, workload, settings, checkpoint).final
    return {
        "file": path.name, "schedule": schedule.header, "ranks": 2, "images": 1, "dtype": dtype,
        "seconds": round(made.trace.makespan_s, 1), "peak_bytes": peaks,
        "difference": float((made.final - right).float().norm() / right.float().norm()),
    }  # fmt: skip


def _peak(_: RankContext) -> int:
    return peak()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as temporary:
        main(Path(temporary))
