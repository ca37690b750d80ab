"""Samples: what was measured, raw, with machine, versions, date and command beside it.

A bundle is a folder of `samples.jsonl` (a line a sample) and `meta.json`.  Nothing is thrown away here; what counts
as an outlier is the fit's business."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from realrun.machine import machine as about_machine
from sim.output import whole_file


@dataclass(frozen=True)
class Sample:
    """One timed thing on one rank.

    what "op": subject is the kind, size its FLOPs.  what "transfer": subject is "dispatch" or "combine", size the
    bytes over the fullest link.  what "gap": subject is "launch", "collective" or "wake" (`Host`), size 0.
    loaded: the other stream of the rank was busy throughout.  queued: the link was busy until this transfer began.
    round: of measuring and running, on a machine that drifts."""

    what: str
    subject: str
    size: float
    seconds: float
    rank: int
    loaded: bool = False
    link_bytes_per_s: float | None = None
    queued: bool = False
    round: int = 0


def machine() -> dict[str, str]:
    """What this process can say about where it runs."""
    command = " ".join(["python", _program(Path(sys.argv[0])), *sys.argv[1:]])
    return about_machine(command, ("torch", "numpy", "simpy"))


def save(folder: Path, samples: Iterable[Sample], meta: Mapping[str, str]) -> None:
    """Writes a bundle, the meta file last; each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "samples.jsonl") as part:
        part.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in samples))
    with whole_file(folder / "meta.json") as part:
        part.write_text(json.dumps(dict(meta), indent=2) + "\n")


def load(folder: Path) -> tuple[list[Sample], dict[str, str]]:
    """Reads a bundle.  Raises ValueError naming file and line of the first sample that is not one."""
    samples = []
    for number, line in enumerate((folder / "samples.jsonl").read_text().splitlines(), 1):
        try:
            samples.append(Sample(**json.loads(line)))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{folder / 'samples.jsonl'}, line {number}: {error}\n    {line}") from None
    meta: dict[str, str] = json.loads((folder / "meta.json").read_text())
    return samples, meta


def _program(path: Path) -> str:
    """`-m calibration` or `benchmarks/prediction.py`: what was run, wherever it lies."""
    return f"-m {path.parent.name}" if path.name == "__main__.py" else "/".join(path.parts[-2:])
