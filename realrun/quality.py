"""What a schedule's images are worth: to a classifier, and beside the synchronous images of the same noise.

For every seed apart: the Frechet distance of features to those of real digits, the share of images that are what was
asked for, and two paired distances (root mean square over all pixels, relative to the images' own): to the synchronous
images of as many steps, and to those of many steps (`fine`), which charges every schedule for its own steps too.  It
knows images; it refuses to know how long they took."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realrun.classifier import Classifier
from realrun.digits import load_digits
from realrun.exact import Exact, Shares
from realrun.frechet import Moments, frechet
from realrun.intervals import interval
from realrun.makers import Makers, Task
from realrun.run import Settings, inputs
from sim.load import load_for
from sim.schedule import Schedule

Tell = Callable[[int], None]  # called with how many more images are done


@dataclass(frozen=True)
class Question:
    """How to judge: with so many sampling steps and images a seed.

    fine: steps of the synchronous images that stand for those of infinitely many."""

    steps: int
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    images: int = 400
    shares: Shares = field(default_factory=Shares)
    guidance: float = 1.0
    fine: int = 100

    def __post_init__(self) -> None:
        for name, least in [("steps", 1), ("images", 2), ("fine", self.steps)]:
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} should be at least {least}")
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds {', '.join(map(str, self.seeds))}: one or more are wanted, each once")


@dataclass(frozen=True)
class Quality:
    """What a schedule came to, a value a seed.  frechet and accuracy: None without a classifier of such images.

    pooled: Frechet distance of the images of all seeds together."""

    name: str
    steps: int
    mean_age: float  # steps, over all steps, layers, slots and tokens
    distance: list[float]
    fine: list[float]
    frechet: list[float] | None
    accuracy: list[float] | None
    pooled: float | None

    def table(self) -> dict[str, Any]:
        """As JSON: means with their 95 % intervals, and the values of all seeds."""
        found: dict[str, Any] = {"name": self.name, "steps": self.steps, "mean_age": round(self.mean_age, 4)}
        for key in ("distance", "fine", "frechet", "accuracy"):
            if (values := getattr(self, key)) is not None:
                told = interval(values)._asdict() if len(values) > 1 else {"mean": values[0]}
                found[key] = {**{k: round(v, 5) for k, v in told.items()}, "seeds": [round(v, 5) for v in values]}
        return found | ({} if self.pooled is None else {"frechet_pooled": round(self.pooled, 4)})


class Judged(NamedTuple):
    """A schedule's quality, and what it was seen in."""

    quality: Quality
    finals: list[Tensor]  # [seed] images
    ages: Tensor  # [step, layer, slot, age] int64: how many tokens' outputs, of all seeds, were that old


class Judge:
    """Judges schedules by one question; the images that they are held against are made once.

    fine: those of another Judge whose question has the same seeds, images, guidance and fine steps."""

    def __init__(
        self, make: Makers, question: Question, classifier: Classifier | None, tell: Tell = lambda _: None,
        fine: list[Tensor] | None = None,
    ) -> None:  # fmt: skip
        self.make, self.question, self.classifier, self.tell, self._given = make, question, classifier, tell, fine

    def schedule(self, source: str, steps: int | None = None) -> Schedule:
        """The schedule `source` on the makers' model; with other steps than the question's if given."""
        shape = self.make.shape
        return load_for(source, steps or self.question.steps, shape)

    def labels(self, seed: int) -> Tensor:
        """What the images of a seed should show."""
        return inputs(self.make.shape, range(self.question.images), Settings(seed))[1]

    def __call__(self, schedule: Schedule, name: str) -> Judged:
        """Of a schedule that is told of by `name`."""
        made = self._sync if schedule == self.schedule("sync") else self._made(schedule)
        finals, ages = [each.final_BCHW for each in made], torch.stack([each.ages for each in made]).sum(dim=0)
        quality = Quality(
            name, schedule.steps, float((ages * torch.arange(ages.shape[-1])).sum() / ages.sum()),
            [far(*pair) for pair in zip(finals, self.exact, strict=True)],
            [far(*pair) for pair in zip(finals, self.fine, strict=True)],
            *self._seen(finals),
        )  # fmt: skip
        return Judged(quality, finals, ages)

    def _made(self, schedule: Schedule) -> list[Exact]:
        """[seed]"""
        asked = self.question
        settings = [Settings(seed, guidance=asked.guidance) for seed in asked.seeds]
        return [self.make(Task(schedule, each, range(asked.images), asked.shares), self.tell) for each in settings]

    @cached_property
    def _sync(self) -> list[Exact]:
        return self._made(self.schedule("sync"))

    @cached_property
    def exact(self) -> list[Tensor]:
        """[seed] synchronous images of as many steps as the question has."""
        return [each.final_BCHW for each in self._sync]

    @cached_property
    def fine(self) -> list[Tensor]:
        """[seed] synchronous images of many steps."""
        if self._given is not None:
            return self._given
        if self.question.fine == self.question.steps:
            return self.exact
        return [each.final_BCHW for each in self._made(self.schedule("sync", self.question.fine))]

    def _seen(self, finals: list[Tensor]) -> tuple[list[float] | None, list[float] | None, float | None]:
        if self.classifier is None:
            return None, None, None
        seen = [self.classifier.see(final) for final in finals]
        right = [
            float((each.classes == self.labels(seed)).float().mean())
            for each, seed in zip(seen, self.question.seeds, strict=True)
        ]
        apart = [frechet(Moments.of(each.features.numpy()), self._real) for each in seen]
        pooled = frechet(Moments.of(torch.cat([each.features for each in seen]).numpy()), self._real)
        return apart, right, pooled

    @cached_property
    def _real(self) -> Moments:
        assert self.classifier is not None
        images = torch.cat([load_digits(held_out).images_BCHW for held_out in (False, True)])
        return Moments.of(self.classifier.see(images).features.numpy())


def far(made: Tensor, right: Tensor) -> float:
    """Root mean square of `made` - `right` over that of `right`, over all elements."""
    return float((made.double() - right.double()).norm() / right.double().norm())


def classifier_of(model: str) -> Classifier | None:
    """The classifier of what a model's images show; None if there is none."""
    return Classifier.load() if model == "digits" else None


def images_to_make(question: Question, schedules: int) -> int:
    """How many images it takes to judge so many schedules beside the synchronous one."""
    return len(question.seeds) * question.images * (schedules + 1 + (question.fine != question.steps))
