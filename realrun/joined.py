"""The ranks that torchrun started, as a pool: every process makes every call, and each gets every answer.

The file knows how answers are gathered and how a failure ends them all; it refuses to know what is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from realrun.rank import RankContext, rank_from_environment
from realrun.ranks import RanksFailed

T = TypeVar("T")


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@dataclass(frozen=True)
class Joined:
    """This rank, and through its group the others (see realrun.backend.Pool)."""

    context: RankContext

    @property
    def world(self) -> int:
        """Number of ranks."""
        return self.context.world

    @property
    def timeout_s(self) -> float:
        """Of one transfer."""
        return self.context.timeout_s

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.context.rank == 0

    def call(self, function: Callable[..., T], *args: Any) -> list[T]:
        """[rank]: what function(rank_context, *args) returned there, each with the arguments of its own process.

        Raises ValueError if all ranks did so with the same words, and RanksFailed if some rank raised anything else."""
        answer: tuple[T | None, str, bool]
        try:
            answer = function(self.context, *args), "", False
        except Exception as error:
            words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            answer = None, words, isinstance(error, ValueError)
        answers: list[tuple[T, str, bool]] = [answer] * self.world  # type: ignore[list-item]
        try:
            dist.all_gather_object(answers, answer, group=self.context.group)
        except RuntimeError as error:  # this one at least says what it knows
            told = answer[1] or f"another rank is gone, or did not answer within {self.timeout_s:g} s"
            raise RanksFailed({self.context.rank: told}, {}) from error
        said = {rank: said for rank, (_, said, _) in enumerate(answers) if said}
        if len(said) == self.world and len({*said.values()}) == 1 and all(mistake for *_, mistake in answers):
            raise ValueError(answers[0][1])
        if said:
            raise RanksFailed({rank: said.get(rank, "finished") for rank in range(self.world)}, {})
        return [value for value, *_ in answers]


@contextmanager
def ended_at_once() -> Iterator[None]:
    """A block that ends the process ends a rank of torchrun without destructors: those of gloo may abort it, once in
    many runs, when a peer has gone before."""
    try:
        yield
    except SystemExit as end:
        if not started_by_torchrun():
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


@contextmanager
def joined(timeout_s: float = 60.0) -> Iterator[Joined]:
    """The pool of this torchrun, for a `with` block.  Raises ValueError if torchrun did not start this process."""
    yield Joined(rank_from_environment(timeout_s))
    dist.destroy_process_group()
