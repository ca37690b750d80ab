"""A cluster in words: a few lines that sum it up, and what differs between two.

It knows how a cluster is told; it refuses to know how numbers come about.  What `described` returns is a cluster file:
the summary is comments, so it can be redirected, changed and handed back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sim.cluster import COMPUTE_KINDS, Cluster, Link
from sim.gpu import Gpu
from sim.show import grid
from sim.units import readable

_SHOWN_BYTES = (2**20, 2**25, 2**29)  # send buffers of which the summary says how long an all-to-all takes
_LONGEST = 44  # characters of a value that stands in a table of differences
_PLACES = 6  # of a list, one by one


def described(cluster: Cluster) -> str:
    """The cluster's YAML, under a summary in comments."""
    return "".join(f"# {line}\n" for line in summary(cluster)) + str(cluster)


def summary(cluster: Cluster) -> list[str]:
    """What a reader asks first: devices, how they are known, links, what an even all-to-all takes alone, hosts,
    interference, noise, and what has no source."""
    return [*_devices(cluster), f"known by: {cluster.known_by}", *_links(cluster), *_behaviour(cluster)]


def _devices(cluster: Cluster) -> Iterator[str]:
    gpu = cluster.compute
    if not isinstance(gpu, Gpu):
        yield f"{cluster.name}: {cluster.ranks} ranks with measured rates by kind of op"
        return
    peaks = ", ".join(
        f"{key.removesuffix('_flops_per_s')} {readable('_flops_per_s', p)}" for key, p in gpu.peak.items()
    )
    yield f"{cluster.name}: {cluster.ranks} x {gpu.name}, {gpu.multiprocessors} multiprocessors; {peaks}"
    yield f"memory {readable('_bytes', gpu.memory_bytes)} at {readable('_bytes_per_s', gpu.memory_bytes_per_s)}"


def _links(cluster: Cluster) -> Iterator[str]:
    fabric, ranks = cluster.fabric, cluster.ranks
    if isinstance(cluster.link, Link):
        yield f"link of each {cluster.link.scope}: {readable('_bytes_per_s', cluster.link.bytes_per_s)}"
    else:
        rates = [f"{name} {readable('_bytes_per_s', r.bytes_per_s)}" for name, r in cluster.link.resources.items()]
        yield f"links: {', '.join(rates)}"
    each = [float(fabric.all_to_all_s(np.full((ranks, ranks), size / ranks)).max()) for size in _SHOWN_BYTES]
    told = [f"{size // 2**20} MiB {readable('_s', s)}" for size, s in zip(_SHOWN_BYTES, each, strict=True)]
    yield f"all-to-all of {ranks} ranks, by send buffer: {', '.join(told)}"


def _behaviour(cluster: Cluster) -> Iterator[str]:
    host, slow = cluster.host, cluster.interference
    order = "computes itself" if host.synchronous else "runs ahead"
    first = "before" if host.priority else "after"
    yield f"a host {order}; a collective starts {first} the kernel that runs"
    factors = ", ".join(
        f"{kind} {slow.of_compute(kind):.0%}" for kind in dict.fromkeys((*COMPUTE_KINDS, *slow.compute))
    )
    yield f"compute is slower while communication runs: {factors}; communication: {slow.communication:.0%}"
    if slow.multiprocessors:
        limit = f", and reaches {slow.rate:.0%} of its rate with them" if slow.rate_at else ""
        yield f"communication takes {slow.multiprocessors:.1%} of the multiprocessors{limit}"
    noise = ", ".join(f"{kind} {sigma:.1%}" for kind, sigma in cluster.jitter.items())
    yield f"jitter of an op: {noise or 'unknown, so a seed is refused'}"
    if lacking := unsourced(cluster):
        more = f" and {len(lacking) - _PLACES} more" if len(lacking) > _PLACES else ""
        yield f"without a source: {', '.join(lacking[:_PLACES])}{more}"


def listed(clusters: Mapping[str, Cluster]) -> list[str]:
    """A table of clusters by name, and how each is known."""
    rows = [[name, cluster.name, cluster.known_by] for name, cluster in clusters.items()]
    return grid(["name", "machine", "known by"], rows)


def sources_of(cluster: Cluster) -> dict[str, str]:
    """Dotted key -> source, of all that the cluster gives, the one of the whole first."""
    leaves = dict(_leaves(asdict(cluster)))
    told = {key: text for key, text in leaves.items() if text and {*key.split(".")} & {"source", "sources"}}
    return {"source": cluster.source, **told} if cluster.source else told


def unsourced(cluster: Cluster) -> list[str]:
    """Dotted keys of the numbers that have no source beside them: in the `source` of the table that they stand in, or
    in its `sources` under the name of the field that holds them.  A 0 needs none: it says that something is absent."""
    return [*_unsourced(asdict(cluster), "", "")]


def _unsourced(value: Any, key: str, source: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        by_field = value.get("sources")
        for name, inner in value.items():
            beside = by_field.get(name, "") if isinstance(by_field, Mapping) else value.get("source", source)
            yield from _unsourced(inner, f"{key}.{name}".strip("."), beside)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _unsourced(inner, f"{key}[{i}]", source)
    elif isinstance(value, int | float) and not isinstance(value, bool) and value and not source:
        yield key


def difference(one: Cluster, other: Cluster) -> list[str]:
    """A table of every number and name that differs, by dotted key, with ratios of numbers; then what is too long for
    it, as sources are, whole and each pair once.

    Of long lists that differ in many places it says in how many."""
    left, right = (dict(_leaves(asdict(cluster))) for cluster in (one, other))
    rows = [row for key in dict.fromkeys((*left, *right)) for row in _rows(key, left.get(key), right.get(key))]
    if not rows:
        return [f"{one.name} and {other.name} do not differ"]
    long = dict[tuple[str, str], list[str]]()
    for key, here, there, _ in rows:
        if max(len(here), len(there)) > _LONGEST:
            long.setdefault((here, there), []).append(key)
    short = [row for row in rows if row[0] not in itertools.chain(*long.values())]
    told = [(", ".join(keys), f"    is     {here}", f"    there  {there}") for (here, there), keys in long.items()]
    return [*(grid(["key", "is", "there", "ratio"], short) if short else []), *itertools.chain(*told)]


def _rows(key: str, one: Any, other: Any) -> Iterator[list[str]]:
    if one == other:
        return
    if not (isinstance(one, list | tuple) and isinstance(other, list | tuple)):
        yield [key, _shown(one), _shown(other), _ratio(one, other)]
        return
    left, right = dict(_inside(one, key)), dict(_inside(other, key))
    places = [place for place in dict.fromkeys((*left, *right)) if left.get(place) != right.get(place)]
    if len(places) > _PLACES:
        yield [key, f"{len(left)} values", f"{len(right)} values", f"{len(places)} differ"]
        return
    for place in places:
        yield [place, _shown(left.get(place)), _shown(right.get(place)), _ratio(left.get(place), right.get(place))]


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}".strip("."))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{i}]")
    else:
        yield key, value


def _inside(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The values in a list of lists, by place."""
    if isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _inside(inner, f"{key}[{i}]")
    else:
        yield key, value


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _ratio(one: Any, other: Any) -> str:
    both = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return f"{other / one:.3g}" if both and one else ""
