"""What several tests of advice ask, on a small model and two ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sim.cluster import Cluster
from sim.inputs import drawn, inputs_of
from sim.limits import Limits
from sim.option import Asked
from sim.vulnerability import Vulnerability
from sim.workload import MODELS, Workload

ROOT = Path(__file__).parent.parent

CLUSTER = Cluster.load("cpu-2-ranks")

MODEL = replace(MODELS["tiny"], layers=2)

DRAWS = 24


def asked(**limits: float) -> Asked:
    draws = drawn(inputs_of(CLUSTER), DRAWS, seed=1)
    return Asked(Workload(MODEL, 2, 2), CLUSTER, 4, Limits(**limits), draws)


COSTS = Vulnerability("v", 1, 1, 2, [[1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 0.5]])
