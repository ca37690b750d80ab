"""A network: what a byte passes on its way from rank to rank, as data.

A Resource is a port, a host bridge, a host's memory, a network card: every group of `of_ranks` neighbours has one, or
one each way.  A Route says which resources lie between ranks of one group, from the sender up; the receiver's own lie
in the opposite order.  A resource that both have in common is passed once:

    resources:                                  routes:
      port:   {bytes_per_s: 22 GB/s}            - {within: 2, via: [port]}                  # under one bridge
      bridge: {bytes_per_s: 20 GB/s,            - {within: 8, via: [port, bridge, host]}    # else through the host
               of_ranks: 2}
      host:   {bytes_per_s: 13 GB/s, of_ranks: 8, duplex: false}

It knows rates and ways; it refuses to know how many ranks use it, and for how long (sim/transfers/fabric.py lays it out
for some ranks and says that)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard

from sim.faults import CLOSED
from sim.transfers.measured_links import Factors, factor_problems

ALL_TO_ALLS = ("direct", "hierarchical")


@dataclass(frozen=True)
class Resource:
    """What transfers share.  duplex: what goes out and what comes in have `bytes_per_s` each; otherwise together."""

    bytes_per_s: float
    of_ranks: int = 1
    latency_s: float = 0.0
    duplex: bool = True
    source: str = ""
    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Route:
    """Ranks of one group of `within` neighbours, if no earlier route joins them, reach each other `via` resources.

    A byte takes as long as `weight` bytes.  within: 1 is what a rank keeps: collectives copy it, at the cost of a
    share of the port's time; without such a route it is free."""

    within: int
    via: tuple[str, ...]
    weight: float = 1.0
    source: str = ""
    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Network:
    """Resources, routes, and how a transfer starts.

    A transfer in which a rank moves `b` bytes starts up for the latencies of its longest route and
    ramp_s * b / (b + ramp_bytes): rates are reached little by little.  It never takes less than least_s (floor of a
    collective's kernels).  pairwise: an all-to-all of more than two ranks is messages, each of which flows as soon as
    both of its ranks have come to it, or all if token counts come first (sim/transfers/pairs.py).  buffered: a rank is
    done when it has received all; its sockets hold what it sends.  factors (sim/transfers/measured_links.py): what a
    transfer takes over what all this says, where it has been measured.  hierarchical all-to-all: see
    sim/transfers/fabric.py.  source: of ramp, least_s and factors; resources and routes have their own."""

    resources: Mapping[str, Resource]
    routes: tuple[Route, ...]
    ramp_s: float = 0.0
    ramp_bytes: float = 0.0
    least_s: float = 0.0
    all_to_all: str = "direct"
    pairwise: bool = False
    buffered: bool = False
    factors: Factors = field(default_factory=dict)
    source: str = ""
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        tables = asdict(self)
        rates = {name: r["bytes_per_s"] for name, r in tables["resources"].items()}
        problems = [f"{name}.bytes_per_s={rate:g} should be above 0" for name, rate in rates.items() if not rate > 0]
        if problems := [*problems, *network_problems(tables)]:
            raise ValueError("network: " + "; ".join(problems))

    @property
    def node_ranks(self) -> int:
        """Ranks of a node: those that do not need the longest route."""
        return self.routes[-2].within if len(self.routes) > 1 else 1

    @property
    def side_ranks(self) -> int:
        """Ranks that reach each other by the shortest route: under one bridge, or of one node."""
        return next((route.within for route in self.routes if route.within > 1), 1)


def misfit(withins: Sequence[int], all_to_all: str, ranks: int) -> str:
    """Why `ranks` ranks cannot use routes within groups of so many ranks; "" if they can."""
    reach, node = withins[-1], withins[-2] if len(withins) > 1 else 1
    if ranks > reach:
        return f"routes: rank 0 has none to rank {reach}; they end within {reach} ranks"
    if all_to_all == "hierarchical" and (ranks <= node or ranks % node):
        return f"all_to_all=hierarchical has no use for {ranks} ranks in nodes of {node}"
    return ""


def network_problems(network: Mapping[str, Any], ranks: Any = None) -> list[str]:
    """What is wrong with a network (for `ranks` ranks, if given), given as plain tables of which any may be missing;
    not its rates, which are looked at with all of a cluster's."""
    resources, routes = network.get("resources"), network.get("routes")
    resources = resources if isinstance(resources, Mapping) else {}
    routes = routes if isinstance(routes, Sequence) else []
    routes = [route for route in routes if isinstance(route, Mapping)]
    problems = [*_number_problems(resources, routes), *_way_problems(resources, routes)]
    problems += factor_problems(network.get("factors"))
    if (value := network.get("all_to_all", "direct")) not in ALL_TO_ALLS:
        problems.append(f"all_to_all={value!r} should be one of {', '.join(ALL_TO_ALLS)}")
    sides = [route["within"] for route in routes[:-1] if _whole(route.get("within"))]
    if network.get("all_to_all") == "hierarchical" and max(sides, default=1) == 1:
        problems.append("all_to_all=hierarchical has no effect: all ranks are on one node")
    if network.get("all_to_all") == "hierarchical" and network.get("pairwise"):
        problems.append("pairwise=true has no effect: all_to_all=hierarchical is made of collectives")
    if bool(network.get("ramp_s")) != bool(network.get("ramp_bytes")):
        problems.append("ramp_s and ramp_bytes have an effect together only")
    withins = [route.get("within") for route in routes]
    if withins and all(_whole(n) for n in (ranks, *withins)):
        problems += filter(None, [misfit(withins, network.get("all_to_all", "direct"), ranks)])
    return problems


def _number_problems(resources: Mapping[str, Any], routes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Counts that are not whole or rise not, weights that are not positive; rates are looked at with the cluster's."""
    counts = {f"resources.{name}.of_ranks": r.get("of_ranks", 1) for name, r in resources.items() if _is_table(r)}
    counts |= {f"routes[{i}].within": route.get("within", 1) for i, route in enumerate(routes)}
    problems = [f"{key}={n!r} should be a whole number above 0" for key, n in counts.items() if not _whole(n)]
    for i, (low, high) in enumerate(pairwise(routes)):
        if _whole(low.get("within")) and _whole(high.get("within")) and low["within"] >= high["within"]:
            problems.append(f"routes[{i + 1}].within={high['within']} should be above {low['within']}, the one before")
    weights = {i: route.get("weight", 1.0) for i, route in enumerate(routes)}
    strange = {i: w for i, w in weights.items() if isinstance(w, int | float) and not (w > 0 and math.isfinite(w))}
    return problems + [f"routes[{i}].weight={w:g} should be above 0" for i, w in strange.items()]


def _way_problems(resources: Mapping[str, Any], routes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Links to nowhere, resources that no route uses, ways without any resource."""
    problems = [] if routes else ["routes: there are none, so no rank reaches another"]
    used: set[str] = set()
    for i, route in enumerate(routes):
        if isinstance(route.get("via"), str):  # which is no list: its type is looked at with all others
            used.add(route["via"])
            continue
        via = [name for name in route.get("via", ()) if isinstance(name, str)]
        used.update(via)
        known = ", ".join(resources) or "none"
        lost = [name for name in via if name not in resources]
        problems += [f"routes[{i}].via {name!r} leads nowhere; resources: {known}" for name in lost]
        if not via:
            problems.append(f"routes[{i}].via is empty: a byte passes at least one resource")
    return problems + [f"resources.{name} has no effect: no route passes it" for name in resources if name not in used]


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
