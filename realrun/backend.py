"""Backends: how the ranks of a run come to be, and how they reach each other.

A backend is one file in `realrun/backends` with a class `Backend`, named on a command line by its file and settings
("namespaces hosts=2").  This file knows what all of them offer and how one is found by name; it refuses to know any
of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from realrun.rank import RankContext
    from realrun.transport import Transport

T = TypeVar("T")
DEFAULT = "paced"


class Pool(Protocol):
    """Ranks that run one function together, any number of times."""

    @property
    def world(self) -> int: ...

    @property
    def timeout_s(self) -> float: ...

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: it writes files and shows progress."""

    def call(self, function: Callable[..., T], *args: Any) -> list[T]:
        """[rank]: what function(rank_context, *args) returned there.

        Raises ValueError if it did so on all ranks alike, RanksFailed after anything else."""


class Backend(Protocol):
    """A frozen dataclass of settings, which travels to every rank."""

    @property
    def name(self) -> str:
        """As `load_backend` reads it."""

    @property
    def link(self) -> str:
        """What has the rate that is asked for: "pair" (of ranks, each way), "port" (of a rank) or "host"."""

    def start(self, world: int, timeout_s: float = 60.0) -> AbstractContextManager[Pool]:
        """Ranks, for as long as the `with` block lasts.

        Raises ValueError or OSError that says what this machine lacks."""

    def open_streams(
        self, context: RankContext, streams: Sequence[str]
    ) -> AbstractContextManager[dict[str, Transport]]:
        """A transport for each communicator of a schedule's `streams`, by name; "communication" always.

        All ranks must call this alike."""

    def throttle(self, context: RankContext, bytes_per_s: float | None) -> None:
        """From now on every link carries so much (None: what it can).  All ranks must call this alike.

        Raises ValueError for a rate that this backend's links cannot be given."""


@runtime_checkable
class Moves(Protocol):
    """A backend whose ranks live somewhere else than their launcher."""

    def enter(self, rank: int, world: int) -> str:
        """Takes this process there; the network card that it has there.  Called once, before it has other threads."""


def backends() -> list[str]:
    """Names of all backends."""
    import realrun.backends as folder

    return sorted(module.name for module in pkgutil.iter_modules(folder.__path__))


def load_backend(text: str = DEFAULT) -> Backend:
    """The backend that `text` names, with its settings: "namespaces hosts=2".

    Raises ValueError that lists the names, or the settings, that there are."""
    name, *words = text.split() or [""]
    if name not in backends():
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(backends())}")
    kind = importlib.import_module(f"realrun.backends.{name}").Backend
    known = {field.name: field for field in fields(kind) if field.compare}
    given = dict[str, int]()
    for word in words:
        key, _, value = word.partition("=")
        if key not in known or not value.isdecimal():
            raise ValueError(f"backend {name}: {word!r} should be a number for one of: {', '.join(known) or 'nothing'}")
        if key in given:
            raise ValueError(f"backend {name}: {key} is given twice")
        given[key] = int(value)
    backend: Backend = kind(**given)
    return backend
