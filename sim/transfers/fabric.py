"""A network laid out for some ranks: every single resource, and which pairs of ranks pass it.

It knows how long one transfer takes alone: by a closed form (latency plus the fullest resource's bytes over its rate)
or by max-min fair flows (sim/transfers/flows.py), to which the closed form is the fast path.  It refuses to know of
transfers in flight together, which is the engine's business.  Byte matrices are [src, dst]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sim.transfers.flows import completions_s
from sim.transfers.measured_links import factor_at
from sim.transfers.network import Network, misfit

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fabric:
    """Resources by index, and the ways over them."""

    network: Network
    names: tuple[str, ...]  # [resource] "port 3 out"
    bytes_per_s: Array  # [resource]
    passes: npt.NDArray[np.bool_]  # [resource, src, dst]
    weight: Array  # [src, dst] bytes that a byte counts as; 0 where it is free
    latency_s: Array  # [src, dst]
    receives_only: bool = False  # a rank is done when it has received all: senders' buffers take what they send

    @staticmethod
    def of(network: Network, ranks: int) -> Fabric:
        """`network` for `ranks` ranks.  Raises ValueError if some rank has no route to another."""
        if why := misfit([route.within for route in network.routes], network.all_to_all, ranks):
            raise ValueError(f"network: {why}")
        rank = np.arange(ranks)
        names: list[str] = []
        rates: list[float] = []
        rows: list[npt.NDArray[np.bool_]] = []
        route_of = routes_taken(network, ranks)
        weight, latency_s = np.zeros((2, ranks, ranks))
        for i, route in enumerate(network.routes):
            mine = route_of == i
            weight[mine] = route.weight
            latency_s[mine] = sum(network.resources[name].latency_s for name in route.via)
        for name, resource in network.resources.items():
            over = np.isin(route_of, [i for i, route in enumerate(network.routes) if name in route.via])
            for group in range(-(-ranks // resource.of_ranks)):
                inside = rank // resource.of_ranks == group
                ways = {"out": over & inside[:, None], "in": over & inside}
                if not resource.duplex:
                    ways = {"": ways["out"] | ways["in"]}
                for way, passes in ways.items():
                    names.append(f"{name} {group} {way}".strip())
                    rates.append(resource.bytes_per_s)
                    rows.append(passes)
        return Fabric(network, tuple(names), np.array(rates), np.array(rows), weight, latency_s)

    def like(self, pairs: bool, receives_only: bool) -> Fabric:
        """The same with links of another kind: one for each ordered pair; sockets, which count what is received."""
        passes, names, rates = self.passes, self.names, self.bytes_per_s
        if pairs:
            each = [(src, dst) for src in range(self.ranks) for dst in range(self.ranks) if src != dst]
            names, rates = tuple(f"{src} to {dst}" for src, dst in each), np.full(len(each), rates[0])
            passes = np.zeros((len(each), self.ranks, self.ranks), dtype=bool)
            passes[np.arange(len(each)), [src for src, _ in each], [dst for _, dst in each]] = True
        elif receives_only:
            inwards = [i for i, name in enumerate(names) if name.endswith(" in")]
            passes, names, rates = passes[inwards], tuple(names[i] for i in inwards), rates[inwards]
        return replace(self, passes=passes, names=names, bytes_per_s=rates, receives_only=receives_only)

    @property
    def ranks(self) -> int:
        """How many ranks it joins."""
        return len(self.weight)

    # -------------------------------------------------------------------------------------- one transfer

    def busy_s(self, moved_bytes: Array) -> Array:
        """Seconds [resource] for which each is busy with `moved_bytes`: bytes through it over its rate."""
        load: Array = self._passes_flat @ (moved_bytes * self.weight).ravel()
        return load / self.bytes_per_s

    def moving_s(self, moved_bytes: Array) -> Array:
        """Seconds [rank] until all that a rank sends and receives has moved: the fullest resource on its ways."""
        used = (moved_bytes * self.weight).ravel() > 0
        fullest = np.where(used, np.max(self._passes_flat * self.busy_s(moved_bytes)[:, None], axis=0), 0.0)
        return self._of_ranks(fullest)

    def flowing_s(self, moved_bytes: Array) -> Array:
        """`moving_s` by max-min fair flows, one a pair of ranks (sim/transfers/flows.py)."""
        flows = (moved_bytes * self.weight).ravel()
        ends = np.zeros(flows.shape)
        some = flows > 0
        ends[some] = completions_s(flows[some], self._passes_flat[:, some], self.bytes_per_s)
        return self._of_ranks(ends)

    def _of_ranks(self, pairs_s: Array) -> Array:
        """Seconds [rank] of seconds of each pair."""
        pairs = pairs_s.reshape(self.weight.shape)
        received: Array = pairs.max(axis=0)
        return received if self.receives_only else np.maximum(received, pairs.max(axis=1))

    def start_s(self, moved_bytes: Array, moving_s: Array) -> float:
        """Seconds of a transfer before its bytes move: latency, ramp, and what it lacks to least_s in all."""
        away = moved_bytes * ~np.eye(self.ranks, dtype=bool)
        latency_s = float(np.max(self.latency_s, where=away > 0, initial=0.0))
        most = float(max(away.sum(axis=0).max(), away.sum(axis=1).max()))
        ramp_s = self.network.ramp_s * most / (most + self.network.ramp_bytes) if most else 0.0
        return max(latency_s + ramp_s, self.network.least_s - float(moving_s.max()))

    def transfer_s(self, moved_bytes: Array, exact: bool = False) -> Array:
        """Seconds [rank] of a transfer of `moved_bytes` alone on the machine; its diagonal is what ranks keep.

        factor times (start_s plus, on each rank, the time of the fullest resource on its ways) (after Hockney 1994);
        `exact`: plus the time of its slowest max-min fair flow.  Even traffic: the same.  Uneven (pairs with a standard
        deviation of 0.5 in log bytes, 8 ranks): for the slowest rank the closed form is short by 0.5 % on average and
        10 % at worst on a switch, 4 % and 10 % on shared hosts; ranks with less to move end 4 to 9 % too late on
        average, at worst after twice the time.
        Raises ValueError for what is no byte matrix of these ranks."""
        if moved_bytes.shape != self.weight.shape or (moved_bytes < 0).any():
            raise ValueError(f"bytes [src, dst] of {self.ranks} ranks should not be negative, not\n{moved_bytes}")
        moving_s = (self.flowing_s if exact else self.moving_s)(moved_bytes)
        return (self.start_s(moved_bytes, moving_s) + moving_s) * self.factor(moved_bytes)

    def factor(self, moved_bytes: Array) -> float:
        """What a transfer of `moved_bytes` takes, where that has been measured, over what the parameters say."""
        if not self.network.factors:
            return 1.0
        away = moved_bytes * ~np.eye(self.ranks, dtype=bool)
        taking_part = int(((away.sum(axis=0) + away.sum(axis=1)) > 0).sum())
        most = float(max(moved_bytes.sum(axis=0).max(), moved_bytes.sum(axis=1).max()))
        return factor_at(self.network.factors, taking_part, most)

    # -------------------------------------------------------------------------------------- collectives

    def all_to_all(self, moved_bytes: Array, team: Sequence[int] = ()) -> list[Array]:
        """The transfers, one after another, that an all-to-all of `moved_bytes` among `team` (all ranks if not given)
        consists of.

        Hierarchical: what leaves a node is first spread evenly over the node's ranks, then each sends its share to
        the rank of the same index in the other node, which passes it on.  All cards of a node are then equally
        loaded, for two transfers within nodes more: it pays where the fullest card has more than these cost.
        Raises ValueError if that is asked of a team which is not made of several whole nodes."""
        if self.network.all_to_all == "direct":
            return [moved_bytes]
        side, members = self.network.node_ranks, team or range(self.ranks)
        nodes = Counter(rank // side for rank in members)
        if len(nodes) == 1 or {*nodes.values()} != {side}:
            told = f"ranks {', '.join(map(str, members))} in nodes of {side}"
            raise ValueError(f"all_to_all=hierarchical needs groups of several whole nodes, not {told}")
        return _hierarchical(moved_bytes, side)

    def all_to_all_s(self, moved_bytes: Array, exact: bool = False) -> Array:
        """Seconds [rank] of an all-to-all alone on the machine; of a hierarchical one, each part waits for all."""
        *before, last = self.all_to_all(moved_bytes)
        return sum(float(self.transfer_s(part, exact).max()) for part in before) + self.transfer_s(last, exact)

    def all_gather(self, kept_bytes: float, team: Sequence[int] = ()) -> Array:
        """The byte matrix of an all-gather among `team` (all ranks if not given), each of which starts with
        `kept_bytes`, by rings.

        On a ring every rank passes on all but its successor's own.  Rings enter and leave a node (or the ranks under
        one bridge) at each of its ranks in turn, so that all ports and cards are used."""
        sides: dict[int, list[int]] = {}
        for rank in team or range(self.ranks):
            sides.setdefault(rank // self.network.side_ranks, []).append(rank)
        moved, turns = np.zeros((self.ranks, self.ranks)), max(map(len, sides.values()))
        ranks = sum(map(len, sides.values()))
        for turn in range(turns):
            order = [side[(i + turn) % len(side)] for side in sides.values() for i in range(len(side))]
            moved[order, np.roll(order, -1)] += kept_bytes * (ranks - 1) / turns
            moved[order, order] = kept_bytes
        return moved

    def all_gather_s(self, kept_bytes: float, exact: bool = False) -> Array:
        """Seconds [rank] of an all-gather alone on the machine, after which each rank has ranks * kept_bytes."""
        return self.transfer_s(self.all_gather(kept_bytes), exact)

    def used_by(self, team: Sequence[int]) -> npt.NDArray[np.bool_]:
        """[resource]: whether anything that goes between ranks of `team` passes it."""
        rows, columns = np.ix_([*team], [*team])
        ways = self.passes[:, rows, columns] & (self.weight[rows, columns] > 0)
        return np.asarray(ways.any(axis=(1, 2)))

    @cached_property
    def _passes_flat(self) -> Array:
        """[resource, pair] as numbers."""
        return self.passes.reshape(len(self.names), -1).astype(np.float64)


def routes_taken(network: Network, ranks: int) -> npt.NDArray[np.int64]:
    """Index [src, dst] of the route that joins each pair; -1 for a rank and itself where that is free."""
    rank = np.arange(ranks)
    taken = np.full((ranks, ranks), -1)
    for i, route in reversed([*enumerate(network.routes)]):
        taken[rank[:, None] // route.within == rank // route.within] = i
    if network.routes[0].within > 1:
        np.fill_diagonal(taken, -1)
    return taken


def _hierarchical(moved_bytes: Array, side: int) -> list[Array]:
    """Within nodes, between ranks of the same index, within nodes."""
    ranks = len(moved_bytes)
    node = np.arange(ranks) // side
    same = node[:, None] == node
    away = np.where(same, 0.0, moved_bytes)
    spread = np.where(same, away.sum(axis=1)[:, None] / side, 0.0)  # of what a rank sends away, a share to each
    collect = np.where(same, away.sum(axis=0)[None, :] / side, 0.0)
    index = np.arange(ranks) % side
    nodes = ranks // side
    by_node = away.reshape(nodes, side, nodes, side).sum(axis=(1, 3)) / side  # [src node, dst node] a card's share
    across = np.where(index[:, None] == index, by_node[np.ix_(node, node)], 0.0)
    return [spread + np.where(same, moved_bytes, 0.0), across, collect]
