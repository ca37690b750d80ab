"""All-to-alls whose pairs of ranks begin one by one: messages between two ranks flow as soon as both are there.

So it is where a collective is sends and receives and nobody waits for all (sockets, say): who comes late holds up
those who wait for him, but the links between the others are at work meanwhile, and free when he comes.  It knows who
has come to a collective and who has all; it refuses to know bytes and the clock (sim/transfers/sharing.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sim.transfers.moving import Moving

Pair = frozenset[int]


class Pairs:
    """Of one run: moving [collective][pair of ranks] is what the two send each other, in both directions."""

    def __init__(self, moving: Mapping[int, Mapping[Pair, Moving]]) -> None:
        self.moving = moving
        self.there: dict[tuple[int, int], list[int]] = {}  # (collective, team) -> ranks that have come
        self.left: dict[tuple[int, int], int] = {}  # (collective, rank) -> pairs that have not ended

    def of(self, collective: int) -> bool:
        """Whether its pairs begin one by one."""
        return collective in self.moving

    def come(self, collective: int, team: int, rank: int, size: int) -> list[Moving]:
        """`rank` comes to a collective of a team of `size`: what begins now."""
        there = self.there.setdefault((collective, team), [])
        begins = [self.moving[collective][Pair((rank, other))] for other in there]
        there.append(rank)
        self.left[collective, rank] = size - 1
        return begins

    def ended(self, collective: int, ranks: Sequence[int]) -> list[int]:
        """A pair has ended on these ranks: those of them that now have all."""
        done = []
        for rank in ranks:
            self.left[collective, rank] -= 1
            if not self.left[collective, rank]:
                done.append(rank)
        return done
