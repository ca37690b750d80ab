"""The command that runs a schedule on real ranks, as `python -m realrun run --help` has it.

It knows that command's options, and what of a workload and a cluster none of them can say; it refuses to know whether
the machine is at hand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from sim.cluster import Cluster, Link
from sim.cost import computes_in
from sim.gpu import Gpu
from sim.schedule import Schedule
from sim.units import readable
from sim.workload import MODELS, WIRES, Workload

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
_NODE = 8  # GPUs of a node at most, where nobody says


def launch_command(source: str, schedule: Schedule, workload: Workload, cluster: Cluster) -> str:
    """For one process a rank.  source: a name with its settings, or a text file.

    Raises ValueError that says what real ranks lack for it."""
    words = [*source.split(), "--model", _model(workload), "--images", str(workload.images)]
    if not source.endswith(".txt"):
        words += ["--steps", str(schedule.steps)]
    computes = computes_in(workload, isinstance(cluster.compute, Gpu))
    if computes not in _DTYPES:
        raise ValueError(f"real ranks do not compute in {computes}")
    dtype = _DTYPES[computes]
    words += ["--dtype", dtype]
    if workload.wire != dtype and any(op.kind in "KDC" for op in schedule.ops):
        if WIRES[workload.wire].element_bytes > WIRES[dtype].element_bytes:
            raise ValueError(f"on real ranks, {dtype} rows gain nothing from travelling as {workload.wire}")
        words += ["--wire", workload.wire]
    if isinstance(cluster.compute, Gpu):
        return shlex.join(["torchrun", *_processes(workload.ranks), "-m", "realrun", *words])
    link = cluster.link
    paced = isinstance(link, Link) and link.scope == "pair" and workload.ranks > 1
    rate = ["--link", readable("_bytes_per_s", link.bytes_per_s)] if isinstance(link, Link) and paced else []
    return shlex.join(["python", "-m", "realrun", *words, "--ranks", str(workload.ranks), *rate])


def launch_notes(cluster: Cluster) -> Iterator[str]:
    """What the command leaves to the machine."""
    link = cluster.link
    if isinstance(cluster.compute, Gpu):
        if cluster.ranks > _NODE:
            yield "on every node; HOST is one of them"
        yield "NCCL, over links as they are"
    elif isinstance(link, Link) and link.scope == "pair":
        yield "sockets are paced to the cluster's rate, and add no latency"
    else:
        yield "links as they are: real ranks of this command pace pairs of ranks only"


def _model(workload: Workload) -> str:
    model = workload.model
    if MODELS.get(model.name) != model:
        raise ValueError(f"real ranks know models by name, of their own image size: {', '.join(MODELS)}")
    return model.name


def _processes(ranks: int) -> list[str]:
    """Where torchrun starts them: on one node, or on several of eight."""
    if ranks <= _NODE:
        return ["--nproc-per-node", str(ranks)]
    if ranks % _NODE:
        raise ValueError(f"{ranks} ranks are no whole number of nodes of {_NODE} GPUs")
    return ["--nnodes", str(ranks // _NODE), "--nproc-per-node", str(_NODE), "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "HOST:29500"]  # fmt: skip
