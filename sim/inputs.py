"""What a prediction rests on and how sure that is: the uncertain numbers of a cluster, and draws of them.

A cluster that was fitted says the standard error of each number; one that was not has a relative error assumed for
groups of numbers that come from the same kind of evidence.  Draws are factors, the same for everything that is
compared, so that what machines have in common cancels.  It knows numbers and errors; it refuses to know schedules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.cluster import Cluster, Interference, Link
from sim.gpu import Gpu

Array = npt.NDArray[np.float64]
ASSUMED = 0.1  # relative standard error where nothing is known
_INTERFERENCE = 0.5  # published averages are 19 %, single measurements up to 40 % (sim/clusters)
_SHARE = 0.2  # of multiprocessors: 20 to 32 of 132 are usual on an H100
_FURTHEST_SHARE = 0.4  # one that is drawn stays below 1


@dataclass(frozen=True)
class Input:
    """Numbers that err together.  keys: settings (sim/sweeps/point.py); error: standard error over the number; source:
    where number and error come from; stated: the error is the cluster's own, and not assumed here; most: the largest
    factor of a key whose number has an upper end, as shares do."""

    name: str
    keys: tuple[str, ...]
    error: float
    source: str
    stated: bool = False
    most: Mapping[str, float] = field(default_factory=dict)


def inputs_of(cluster: Cluster, assumed: float = ASSUMED) -> list[Input]:
    """The uncertain numbers of a cluster: those whose errors it states; and groups, with `assumed`, of what it states
    none of, if it was not measured (states none, or has a Gpu).

    Raises ValueError if `assumed` is no error that a rate can have."""
    if not 0 < assumed < 1:
        raise ValueError(f"a relative error of {assumed:g} should be above 0 and below 1")
    stated = [*_stated(cluster)]
    if cluster.errors and not isinstance(cluster.compute, Gpu):
        return stated
    said = {key for each in stated for key in each.keys}
    return [*stated, *(each for each in _grouped(cluster, assumed) if said.isdisjoint(each.keys))]


def _stated(cluster: Cluster) -> Iterator[Input]:
    values = _numbers(asdict(cluster))
    for key, error in cluster.errors.items():
        value = values[key]
        if value > 0 and error > 0 and error / value < 1:
            most = {f"times.cluster.{key}": 1 / value} if key.endswith("_share") else {}
            yield Input(key, (f"times.cluster.{key}",), error / value, _source(cluster, key), stated=True, most=most)


def _source(cluster: Cluster, key: str) -> str:
    """What the cluster says of where a number comes from: of a link's resource, or of all."""
    name = key.removeprefix("link.resources.").partition(".")[0]
    resource = None if isinstance(cluster.link, Link) else cluster.link.resources.get(name)
    return (resource.source if resource else "") or cluster.source or "no source given"


def _numbers(tables: Mapping[str, Any], key: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in tables.items():
        dotted = f"{key}.{name}".strip(".")
        if isinstance(value, Mapping):
            found |= _numbers(value, dotted)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[dotted] = float(value)
    return found


def _grouped(cluster: Cluster, assumed: float) -> Iterator[Input]:
    told = f"assumed: {assumed:.0%}, since the cluster states no error"
    if isinstance(cluster.link, Link):
        yield Input("link rate", ("times.cluster.link.bytes_per_s",), assumed, told)
        yield Input("link latency", ("times.cluster.link.latency_s",), assumed, told)
    else:
        for name, resource in cluster.link.resources.items():
            source = f"{resource.source or 'no source'}; {told}"
            yield Input(f"rate of {name}", (f"times.cluster.link.resources.{name}.bytes_per_s",), assumed, source)
        keys = ("times.cluster.link.resources.*.latency_s", "times.cluster.link.ramp_s", "times.cluster.link.least_s")
        yield Input("start of a transfer", keys, assumed, f"{cluster.link.source or 'no source'}; {told}")
    yield from _of_compute(cluster, assumed, told)
    host = ("times.cluster.host.launch_s", "times.cluster.host.collective_s")
    if cluster.host.launch_s or cluster.host.collective_s:
        yield Input("host", host, assumed, f"{cluster.host.source or 'no source'}; {told}")
    yield from _of_interference(cluster.interference)


def _of_interference(slow: Interference) -> Iterator[Input]:
    source, key = slow.source or "published averages, not measured here", "times.cluster.interference."
    if slow.communication or any(slow.compute.values()):
        kinds = (f"{key}compute.*",) if slow.compute else ()
        told = f"{source}; {_INTERFERENCE:.0%} assumed"
        yield Input("interference", (*kinds, f"{key}communication"), _INTERFERENCE, told)
    if 0 < slow.multiprocessors < _FURTHEST_SHARE:
        told = f"{source}; {_SHARE:.0%} assumed"
        yield Input("multiprocessors of communication", (f"{key}multiprocessors",), _SHARE, told)


def _of_compute(cluster: Cluster, assumed: float, told: str) -> Iterator[Input]:
    if not isinstance(cluster.compute, Gpu):
        keys = tuple(f"times.cluster.compute.{kind}.flops_per_s" for kind in cluster.compute)
        yield Input("compute rates", keys, assumed, told)
        return
    sources, gpu = cluster.compute.sources, "times.cluster.compute."
    gemm, device = cluster.compute.gemm, cluster.compute
    products = {f"{gpu}gemm.compute_share": 1 / gemm.compute_share, f"{gpu}gemm.memory_share": 1 / gemm.memory_share}
    yield Input("matrix products", (*products,), assumed, f"{sources.get('gemm', 'no source')}; {told}", most=products)
    share = {f"{gpu}attention_share": 1 / device.attention_share}
    yield Input("attention", (*share,), assumed, f"{sources.get('attention_share', 'none')}; {told}", most=share)
    yield Input("start of a kernel", (f"{gpu}gemm.fixed_s",), assumed, told)


def factors(inputs: Sequence[Input], normal: Array) -> dict[str, Array]:
    """Setting -> factor [draw] of standard normal numbers [input, draw]: lognormal, so that no rate is negative, and
    cut off where a share would exceed 1.  The median is the number itself."""
    changes: dict[str, Array] = {}
    for each, z in zip(inputs, normal, strict=True):
        for key in each.keys:
            changes[key] = np.minimum(np.exp(np.log1p(each.error) * z), each.most.get(key, np.inf))
    return changes


def drawn(inputs: Sequence[Input], draws: int, seed: int) -> dict[str, Array]:
    """Setting -> factor [draw]; the first draw is the numbers themselves."""
    normal = np.random.default_rng(seed).standard_normal((len(inputs), draws))
    normal[:, 0] = 0.0
    return factors(inputs, normal)
