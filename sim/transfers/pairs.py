"""All-to-alls whose pairs of ranks begin one by one: messages between two ranks flow as soon as both are there.

So it is where a collective is sends and receives and nobody waits for all (sockets, say): who comes late holds up
those who wait for him, but the links between the others are at work meanwhile, and free when he comes.  It knows who
has come to a collective and who has all; it refuses to know bytes and the clock (sim/transfers/sharing.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from itertools import combinations

from sim.transfers.moving import Moving

Pair = frozenset[int]


class Pairs:
    """Of one run: moving [collective][pair of ranks] is what the two send each other, in both directions.

    counted: collectives for which token counts come first, so that nobody begins before all are there."""

    def __init__(self, moving: Mapping[int, Mapping[Pair, Moving]], counted: Set[int]) -> None:
        self.moving, self.counted = moving, counted
        self.there: dict[tuple[int, int], list[int]] = {}  # (collective, team) -> ranks that have come
        self.left: dict[tuple[int, int], int] = {}  # (collective, rank) -> pairs that have not ended
        self.landed: dict[tuple[int, int], float] = {}  # (sender, receiver) -> when what was last sent had come

    def of(self, collective: int) -> bool:
        """Whether it consists of pairs."""
        return collective in self.moving

    def come(self, collective: int, team: int, rank: int, size: int) -> list[Moving]:
        """`rank` comes to a collective of a team of `size`: what begins now."""
        there = self.there.setdefault((collective, team), [])
        begins = [Pair((rank, other)) for other in there]
        there.append(rank)
        self.left[collective, rank] = size - 1
        if collective in self.counted:
            begins = [Pair(pair) for pair in combinations(there, 2)] if len(there) == size else []
        return [self.moving[collective][pair] for pair in begins]

    def rested(self, moving: Moving, now: float) -> float:
        """How long nothing has been sent where the most is to be sent now."""
        return now - max(self.landed.get(way, -math.inf) for way, late in moving.ways if not late)

    def ended(self, collective: int, pair: Sequence[int], ranks: Sequence[int], now: float) -> list[int]:
        """What a pair sent has come, on these of its ranks: those of them that now have all."""
        for way, late in self.moving[collective][Pair(pair)].ways:
            self.landed[way] = now - late
        done = []
        for rank in ranks:
            self.left[collective, rank] -= 1
            if not self.left[collective, rank]:
                done.append(rank)
        return done
