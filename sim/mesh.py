"""A mesh: how the ranks of a world share out images, halves, patches and experts.

    data=2 expert=4             two groups of four: each rank has images of its own, a group has one set of experts
    expert=4 guidance=2         two groups of four, one for each guidance half of the same images
    expert=2 patch=4            one group of eight: four ranks share each image, all eight share the experts
    data=2 expert=4 order=data,expert    ranks 0 2 4 6 and 1 3 5 7 instead of 0-3 and 4-7

A group (the ranks that differ in expert and patch only) is what holds the experts once, if the schedule shards them:
the degree of expert parallelism is expert x patch, since a rank's share of an image's tokens is routed like any other
tokens (sequence-parallel ranks serve as expert-parallel ranks, as in sgl-project/sglang 37357).  Groups differ in data
(they share nothing but links) and in guidance (they meet at each solver step).

It knows numbers of ranks; it refuses to know schedules, bytes, and which machine a rank is on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

AXES = ("patch", "expert", "guidance", "data")  # in the usual order: neighbours first
_WORD = re.compile(r"(?P<axis>[a-z]+)=(?P<value>[\w,]+)")


@dataclass(frozen=True)
class Mesh:
    """Ranks by axis.  order: the axes of more than one rank, that of neighbouring ranks first."""

    data: int = 1
    expert: int = 1
    guidance: int = 1
    patch: int = 1
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if type(size) is not int or size < 1:
                raise ValueError(f"mesh: {axis}={size!r} should be a whole number above 0")
        if self.guidance > 2:
            raise ValueError(f"mesh: guidance={self.guidance}, but guidance has two halves")
        used = [axis for axis in AXES if getattr(self, axis) > 1]
        if self.order and sorted(self.order) != sorted(used):
            told = ",".join(self.order)
            raise ValueError(f"mesh: order={told} should name each axis of several ranks once: {', '.join(used)}")
        if self.order and self.order == tuple(used):
            raise ValueError(f"mesh: order={','.join(used)} is the usual one, and has no effect")

    @staticmethod
    def of(ranks: int, sharded_patches: bool) -> Mesh:
        """One group of all ranks: each with images of its own, or with a share of every image."""
        return Mesh(patch=ranks) if sharded_patches else Mesh(expert=ranks)

    @staticmethod
    def parse(text: str) -> Mesh:
        """The mesh that `data=2 expert=4` writes.  Raises ValueError for anything else than axes, each once."""
        sizes: dict[str, int] = {}
        order: tuple[str, ...] = ()
        for word in text.split():
            found = _WORD.fullmatch(word)
            if found is None or found["axis"] not in (*AXES, "order"):
                raise ValueError(f"mesh: cannot read {word!r} of {text!r}; it is written like data=2 expert=4")
            if found["axis"] in sizes or (found["axis"] == "order" and order):
                raise ValueError(f"mesh: {found['axis']} stands twice in {text!r}")
            if found["axis"] == "order":
                order = tuple(found["value"].split(","))
            elif found["value"].isdecimal():
                sizes[found["axis"]] = int(found["value"])
            else:
                raise ValueError(f"mesh: {word!r} should be a whole number above 0")
        if not sizes:
            raise ValueError(f"mesh: {text!r} says nothing; it is written like data=2 expert=4")
        return Mesh(**sizes, order=order)

    def __str__(self) -> str:
        axes = [f"{axis}={getattr(self, axis)}" for axis in reversed(AXES)]
        return " ".join([*axes, *([f"order={','.join(self.order)}"] if self.order else [])])

    @property
    def ranks(self) -> int:
        """Of the world: the product of all axes."""
        return prod(getattr(self, axis) for axis in AXES)

    @property
    def group_ranks(self) -> int:
        """Of a group: the degree of expert parallelism."""
        return self.expert * self.patch

    def of_world(self, ranks: int) -> Mesh:
        """Itself, if it has so many ranks.  Raises ValueError that says how many it has."""
        if self.ranks != ranks:
            factors = " x ".join(str(getattr(self, axis)) for axis in reversed(AXES))
            raise ValueError(f"mesh {self}: {factors} = {self.ranks} ranks, but there are {ranks}")
        return self

    # ---------------------------------------------------------------------------------------- who is with whom

    @cached_property
    def coordinates(self) -> tuple[dict[str, int], ...]:
        """[rank]: axis -> place on it."""
        fastest_first = [*self.order, *(axis for axis in AXES if axis not in self.order)]
        places = product(*(range(getattr(self, axis)) for axis in reversed(fastest_first)))
        return tuple(dict(zip(reversed(fastest_first), place, strict=True)) for place in places)

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that share one set of experts."""
        return self._together("expert", "patch")

    @cached_property
    def sharers(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that each have a share of the tokens of the same images."""
        return self._together("patch")

    @cached_property
    def halves(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that have the two guidance halves of the same tokens."""
        return self._together("guidance")

    def images_before(self, rank: int) -> int:
        """How many ranks have images of their own before those of `rank`, for one image each."""
        place = self.coordinates[rank]
        return (place["data"] * self.expert + place["expert"]) * self.patch

    def _together(self, *axes: str) -> tuple[tuple[int, ...], ...]:
        """Ranks whose places differ on these axes only."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank, place in enumerate(self.coordinates):
            found.setdefault(tuple(place[axis] for axis in AXES if axis not in axes), []).append(rank)
        return tuple(tuple(ranks) for ranks in found.values())


def number_of(teams: Sequence[Sequence[int]]) -> list[int]:
    """[rank]: which of the teams it is in."""
    where = {rank: number for number, team in enumerate(teams) for rank in team}
    return [where[rank] for rank in range(len(where))]
