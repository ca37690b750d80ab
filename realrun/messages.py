"""Messages between this rank and its peers over a gloo group, and what is said when one does not come.

The file knows tensors, peers and time; it refuses to know what they mean."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from realrun.rank import RankContext


class TransferError(RuntimeError):
    """A transfer that cannot end.  The message names op and rank: `D3.1: rank 1 closed its connection`."""


class Leg(NamedTuple):
    """A message to each peer and one from each; empty ones do not travel."""

    what: str
    channel: int  # gloo's tag
    send: Sequence[Tensor]  # [dst]
    into: Sequence[Tensor]  # [src]


class Messages:
    """What one rank sends and receives.

    Every receive is posted before any send: gloo's notice that a receiver is ready queues behind data on the same
    connection and would make a link half-duplex (an even exchange between 2 ranks then takes 2.0 instead of 1.1
    times the ideal; 2-core machine, November 2026).  The header follows the rows and is waited for first, since
    gloo reports a lost connection at once to receives that have not begun, but only at the timeout to one that is
    under way.  No Work is waited for twice: gloo would hang."""

    def __init__(self, context: RankContext) -> None:
        assert context.group is not None, "ranks that are processes have one"
        self._rank, self._group, self._timeout_s = context.rank, context.group, context.timeout_s
        self._peers = [(context.rank + i) % context.world for i in range(1, context.world)]

    def sent_bytes(self, leg: Leg) -> tuple[int, ...]:
        """[dst]: bytes that `leg` sends over links; what stays at home is 0."""
        return tuple(tensor.nbytes if dst in self._peers else 0 for dst, tensor in enumerate(leg.send))

    def exchange(self, name: str, legs: Sequence[Leg]) -> None:
        """Returns when all messages of all legs have come and gone.  Raises TransferError, which begins with `name`."""
        what, peer, began_s = "", -1, time.monotonic()
        receives, sends = [], []
        try:
            for leg, peer in itertools.product(legs, self._peers):
                if leg.into[peer].numel():
                    work = self._group.recv([leg.into[peer]], peer, leg.channel)
                    receives.append((f"{leg.what} of", peer, work))
            for leg, peer in itertools.product(legs, self._peers):
                if leg.send[peer].numel():
                    work = self._group.send([leg.send[peer]], peer, leg.channel)
                    sends.append((f"its {leg.what} to reach", peer, work))
            for leg in legs:
                leg.into[self._rank].copy_(leg.send[self._rank])
            for what, peer, work in [*reversed(receives), *sends]:  # noqa: B007  # the error names them
                began_s = time.monotonic()
                work.wait()
        except RuntimeError as error:
            waited_s = time.monotonic() - began_s
            if waited_s < 0.9 * self._timeout_s:
                raise TransferError(f"{name}: rank {peer} closed its connection") from error
            reason = f"rank {self._rank} waited {waited_s:.1f} s for {what} rank {peer}"
            raise TransferError(f"{name}: {reason}") from error
