"""Every settings file names a key that it does not know in the same words, with the nearest that it knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from calibration.plan import Plan
from sim.cluster import Cluster
from sim.faults import faults
from sim.gpu import Gpu
from sim.models import load_model
from sim.search.file import read_search
from sim.sweeps.file import read_sweep
from sim.vulnerability import Vulnerability
from sim.workload import MODELS

L40S = asdict(Cluster.load("8x-l40s"))
CPU = asdict(Cluster.load("cpu-2-ranks"))
SWEEP = {"base": {"schedule": "sync", "steps": 2, "cluster": "8x-h100"}, "axes": {"images": [1, 2]}}
SEARCH = {"search": "order", "base": SWEEP["base"], "trials": 3}


@pytest.mark.parametrize(
    ("read", "tables", "key", "nearest"),
    [
        (Cluster.load, L40S, "hots", "host"),
        (Cluster.load, L40S, "host.launchs", "launch_s"),
        (Cluster.load, L40S, "compute.memory_byte", "memory_bytes"),
        (Cluster.load, L40S, "compute.gemm.fixed", "fixed_s"),
        (Cluster.load, L40S, "link.routing", "routes"),
        (Cluster.load, L40S, "link.resources.port.latency", "latency_s"),
        (Cluster.load, L40S, "link.routes.0.wieght", "weight"),
        (Cluster.load, CPU, "compute.A.fixed", "fixed_s"),
        (Cluster.load, CPU, "link.latency", "latency_s"),
        (Gpu.load, asdict(Gpu.load("h100_sxm")), "multiprocessor", "multiprocessors"),
        (lambda path: load_model(str(path)), asdict(MODELS["S"]), "layer", "layers"),
        (read_sweep, SWEEP, "axis", "axes"),
        (read_sweep, SWEEP, "plan.point", "points"),
        (read_sweep, {**SWEEP, "axes": {"images": {"low": 1, "high": 2, "count": 2}}}, "axes.images.most", ""),
        (read_sweep, SWEEP, "base.imges", "images"),
        (read_search, SEARCH, "trails", "trials"),
        (read_search, SEARCH, "base.schedul", "schedule"),
        (Plan.load, Plan("S", 2, 1).table(), "rounded", "rounds"),
        (Vulnerability.load, asdict(Vulnerability.load("digits")), "move", "moves"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known(
    read: Callable[[Path], Any], tables: Any, key: str, nearest: str, tmp_path: Path
) -> None:
    said = json.loads(json.dumps(tables))
    file, place = tmp_path / ("file.json" if "moves" in said else "file.yaml"), said
    for name in key.split(".")[:-1]:
        place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
    place[key.split(".")[-1]] = 7
    file.write_text(json.dumps(said) if file.suffix == ".json" else yaml.safe_dump(said))
    with pytest.raises(ValueError, match="unknown key") as error:
        read(file)
    meant = f"the nearest is {nearest}" if nearest else "there are low, high, count, scale, whole"
    assert str(error.value).splitlines() == [f"{file}: {key}: unknown key (7); {meant}"]


def test_a_table_that_nobody_knows_is_not_spelt_out() -> None:
    error = {"type": "unexpected_keyword_argument", "loc": ("hots",), "input": {"launch_s": 1e-6}}
    assert faults([error], Cluster) == ["hots: unknown key; the nearest is host"]
