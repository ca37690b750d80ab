"""Processes over gloo on hosts of their own: network namespaces on a bridge, whose cards send and receive at a rate.

Ranks of one host reach each other over its loopback, as fast as that is; those of different hosts share the cards of
both: two tiers.  With as many hosts as ranks there is one.  Needs Linux, root and iproute2.  Loopback on this kind of
machine carries some 2 GB/s, so up to about 100 MB/s the slow tier alone decides (realrun/hosts.py says how rates are
kept)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch.distributed as dist

from realrun.backend import Pool
from realrun.hosts import Hosts, refuse_rate
from realrun.messages import TransferError
from realrun.rank import RankContext
from realrun.ranks import Ranks
from realrun.transport import Transport, open_streams


@dataclass(frozen=True)
class Backend:
    """hosts: how many; each has world / hosts neighbouring ranks."""

    hosts: int = 2
    tag: str = field(default="", compare=False)  # of the hosts that were made; `start` fills it in

    @property
    def name(self) -> str:
        """See realrun.backend.Backend."""
        return f"namespaces hosts={self.hosts}"

    @property
    def link(self) -> str:
        """A host's card, each way."""
        return "host"

    @contextmanager
    def start(self, world: int, timeout_s: float = 60.0) -> Iterator[Pool]:
        """Makes the hosts, and ranks on them; takes both down.

        Raises ValueError if the ranks do not spread evenly, OSError that says what the machine lacks."""
        if self.hosts < 2 or world % self.hosts:
            raise ValueError(f"{self.name}: {world} ranks should spread evenly over 2 or more hosts")
        with (
            Hosts.up(self.hosts) as hosts,
            Ranks(world, timeout_s, pin=True, backend=Backend(self.hosts, hosts.tag)) as ranks,
        ):
            yield ranks

    def enter(self, rank: int, world: int) -> str:
        """Moves this process to the host of `rank`; the name of its card.  (Called before it has other threads.)"""
        return Hosts(self.tag, self.hosts).enter(rank * self.hosts // world)

    def open_streams(
        self, context: RankContext, streams: Sequence[str]
    ) -> AbstractContextManager[dict[str, Transport]]:
        """See realrun.backend.Backend."""
        return open_streams(context, streams)

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """Sets every card's rate, each way; communicators share it."""
        refuse_rate(bytes_per_s)  # on every rank: none waits for another's mistake
        if context.rank == 0:
            Hosts(self.tag, self.hosts).limit(bytes_per_s)
        try:
            dist.barrier(group=context.group)
        except RuntimeError as error:
            raise TransferError("barrier after a change of rate: another rank is gone, or silent") from error
