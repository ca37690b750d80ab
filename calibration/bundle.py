"""A bundle: what was measured on one machine, as a folder that is never half-written.

    meta.json            format, plan and machine: what this bundle is about; `calls`: who added to it, when, with what
    samples/JOB.parquet  the samples of one job (calibration/samples.py), a row each
    runs/JOB.parquet     one real run: rank, op, reached_s, start_s, end_s; the schedule and what a Trace tells beside,
                         as metadata of the file
    routing.npz          what the router chose, token by token (sim/routing.py), if anything was run

A job's file is written under another name and renamed when it is whole, so that a job is either done or not: a kill
at any moment loses the job that was under way, and counts none twice.  What is not there yet can be added later.
Samples of one bundle are of one machine: a plan, a processor or a driver that differs is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from calibration.samples import Sample
from sim.output import whole_file
from sim.routing import Routing
from sim.schedule import Schedule
from sim.trace import Trace

FORMAT = 1
META = "meta.json"
_SAME = ("processor", "cores", "torch", "gpu", "driver")  # of a machine, for one bundle


@dataclass(frozen=True)
class Bundle:
    """A bundle in `folder`; `open` makes one or goes on with it."""

    folder: Path

    @staticmethod
    def open(folder: Path, plan: Mapping[str, Any], machine: Mapping[str, str]) -> Bundle:
        """The bundle in `folder`, for a measurement by `plan` on `machine`, which is noted as a call.

        Raises ValueError if it holds measurements of another plan or machine, or of more rounds."""
        bundle = Bundle(folder)
        for name in ("samples", "runs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for part in (folder / name).glob(".*.parquet"):  # what a kill left behind
                part.unlink()
        meta: dict[str, Any] = {"format": FORMAT, "plan": dict(plan), "machine": dict(machine), "calls": []}
        if bundle._meta.exists():
            meta = bundle.meta()
            bundle._check("plan", meta["plan"], plan, [key for key in {**meta["plan"], **plan} if key != "rounds"])
            bundle._check("machine", meta["machine"], machine, _SAME)
            if meta["plan"].get("rounds", 0) > plan.get("rounds", 0):
                said = f"has {meta['plan']['rounds']} rounds, and {plan.get('rounds', 0)} are asked for"
                raise ValueError(f"{folder} {said}: say as many or more, by --rounds")
            meta["plan"] = dict(plan)
        meta["calls"].append({key: machine[key] for key in ("date", "command", "commit") if key in machine})
        with whole_file(bundle._meta) as part:
            part.write_text(json.dumps(meta, indent=1) + "\n")
        return bundle

    def _check(self, what: str, before: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> None:
        for key in keys:
            if _plain(before.get(key)) != _plain(now.get(key)):
                raise ValueError(
                    f"{self.folder} holds measurements of another {what}: {key} was {before.get(key)!r} and is now "
                    f"{now.get(key)!r}; choose another folder"
                )

    @property
    def _meta(self) -> Path:
        return self.folder / META

    def meta(self) -> dict[str, Any]:
        """What meta.json holds.  Raises ValueError if it is none of this format, OSError if there is none."""
        try:
            meta: dict[str, Any] = json.loads(self._meta.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._meta}: not JSON: {error}") from None
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise ValueError(f"{self._meta}: not of format {FORMAT}")
        for key, kind in [("plan", dict), ("machine", dict), ("calls", list)]:
            if not isinstance(meta.get(key), kind):
                raise ValueError(f"{self._meta}: {key}: {'missing' if key not in meta else repr(meta[key])}")
        if "processor" not in meta["machine"]:
            raise ValueError(f"{self._meta}: machine.processor: missing")
        return meta

    @property
    def machine(self) -> dict[str, str]:
        """Where and by which command it was measured: the machine, at the first call."""
        machine: dict[str, str] = self.meta()["machine"]
        return machine

    def done(self) -> set[str]:
        """Names of the jobs that are there."""
        return {path.stem for name in ("samples", "runs") for path in _parts(self.folder / name)}

    # ----------------------------------------------------------------------------------------- samples

    def add_samples(self, job: str, samples: Sequence[Sample]) -> None:
        """Adds a job's samples, whole or not at all."""
        columns = {field.name: [getattr(s, field.name) for s in samples] for field in fields(Sample)}
        with whole_file(self.folder / "samples" / f"{job}.parquet") as part:
            pq.write_table(pa.table(columns, schema=_SCHEMA), part, compression="zstd")

    def samples(self) -> list[Sample]:
        """All samples, job by job.  Raises ValueError with the file that cannot be read."""
        return [sample for path in _parts(self.folder / "samples") for sample in _read_samples(path)]

    # -------------------------------------------------------------------------------------------- runs

    def add_run(self, job: str, trace: Trace) -> None:
        """Adds a real run, whole or not at all."""
        spans = {name: getattr(trace, name).ravel() for name in _SPANS}
        ranks, ops = trace.reached_s.shape
        columns = {"rank": np.repeat(np.arange(ranks), ops), "op": np.tile(np.arange(ops), ranks), **spans}
        beside = {name: _listed(getattr(trace, name)) for name in _AGES}
        beside |= {"schedule": str(trace.schedule), "about": dict(trace.about)}
        table = pa.table(columns).replace_schema_metadata({"run": json.dumps(beside)})
        with whole_file(self.folder / "runs" / f"{job}.parquet") as part:
            pq.write_table(table, part, compression="zstd")

    def run(self, job: str) -> Trace:
        """A run that was added, without loss.  Raises ValueError if the file holds something else."""
        path = self.folder / "runs" / f"{job}.parquet"
        table = _read(path)
        try:
            beside = json.loads((table.schema.metadata or {})[b"run"])
            ranks = int(np.max(table["rank"].to_numpy())) + 1
            spans = {name: table[name].to_numpy().reshape(ranks, -1) for name in _SPANS}
            schedule = Schedule.parse(beside["schedule"]).check()
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: holds no run: {error!r}") from None
        ages, gathered = (_array(beside[name]) for name in ("ages", "attention_staleness"))
        oldest = np.array(beside["staleness"], dtype=np.int64)
        reached, start, end = (spans[name] for name in _SPANS)
        return Trace(schedule, "measured", reached, start, end, oldest, beside["about"], ages, gathered)

    def add_routing(self, routing: Routing) -> None:
        """What the router chose in the runs."""
        routing.save(self.folder / "routing.npz")

    def routing(self) -> Routing | None:
        """What the router chose, if it was recorded."""
        path = self.folder / "routing.npz"
        return Routing.load(path) if path.exists() else None


_TYPES = {
    "str": pa.string(),
    "float": pa.float64(),
    "int": pa.int32(),
    "bool": pa.bool_(),
    "float | None": pa.float64(),
}
_SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(Sample)])
_LATER = {"team"}  # columns that bundles of before lack: in these, all was as the default says


_SPANS = ("reached_s", "start_s", "end_s")
_AGES = ("staleness", "ages", "attention_staleness")


def _listed(array: npt.NDArray[np.int64] | None) -> Any:
    return None if array is None else array.tolist()


def _array(listed: Any) -> npt.NDArray[np.int64] | None:
    return None if listed is None else np.array(listed, dtype=np.int64)


def _parts(folder: Path) -> list[Path]:
    """Whole files only: what a kill left behind begins with a dot."""
    return sorted(path for path in folder.glob("*.parquet") if path.is_file() and not path.name.startswith("."))


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not Parquet: {error}") from None


def _read_samples(path: Path) -> Iterable[Sample]:
    table = _read(path)
    for name in _LATER - {*table.column_names}:
        table = table.append_column(name, pa.array([getattr(Sample, name)] * len(table), _SCHEMA.field(name).type))
    if lacking := [name for name in _SCHEMA.names if name not in table.column_names]:
        raise ValueError(f"{path}: lacks the columns {', '.join(lacking)}")
    for row in table.select(_SCHEMA.names).to_pylist():
        yield Sample(**row)


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))


def frame(samples: Iterable[Sample]) -> pd.DataFrame:
    """Samples as a table, a row each."""
    return pd.DataFrame([asdict(sample) for sample in samples])
