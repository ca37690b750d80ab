"""Processes that make images: each takes a share of them, on a core of its own.

Images do not depend on how many processes there are: shares are cut the same for any number of them.  The file knows
how work is shared out; it refuses to know what a schedule means (realrun/exact.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from realrun.exact import Exact, Shares, exact_images
from realrun.model import DiTMoE
from realrun.run import Settings, build_model, inputs
from sim.schedule import Schedule
from sim.workload import ModelShape

Tell = Callable[[int], None]  # called with how many more images are done
_SHARE = 128  # images that a process makes at once


@dataclass(frozen=True)
class Task:
    """Images with these numbers under a schedule: settings.seed and a number make noise and label."""

    schedule: Schedule
    settings: Settings
    numbers: range
    shares: Shares = Shares()  # noqa: RUF009 (frozen)


class Makers:
    """Makes images with the weights of one model, in this process or in several."""

    def __init__(self, shape: ModelShape, weights: object, pool: ProcessPoolExecutor | None) -> None:
        self.shape, self.weights, self._pool = shape, weights, pool

    def __call__(self, task: Task, tell: Tell = lambda _: None) -> Exact:
        """The images of `task`, in the order of their numbers, and the ages of all their tokens."""
        parts = [task.numbers[first : first + _SHARE] for first in range(0, len(task.numbers), _SHARE)]
        if self._pool is None:
            model = _model(self.shape, self.weights, task.settings)
            made = [_made(model, task, numbers, tell) for numbers in parts]
        else:
            futures = [self._pool.submit(_make, self.shape, self.weights, task, numbers) for numbers in parts]
            for done in as_completed(futures):
                tell(len(done.result().final_BCHW))
            made = [future.result() for future in futures]
        ages = torch.stack([each.ages for each in made]).sum(dim=0)
        return Exact(torch.cat([each.final_BCHW for each in made]), ages)


@contextmanager
def makers(shape: ModelShape, weights: object, jobs: int) -> Iterator[Makers]:
    """Makers in `jobs` processes; 1: in this one, on as many threads as torch has.

    weights: a state, a checkpoint, or None for random ones (as `build_model` takes them)."""
    if jobs < 1:
        raise ValueError(f"jobs={jobs} should be at least 1")
    if jobs == 1:
        yield Makers(shape, weights, None)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield Makers(shape, weights, pool)


def _make(shape: ModelShape, weights: object, task: Task, numbers: range) -> Exact:
    return _made(_model(shape, weights, task.settings), task, numbers, lambda _: None)


def _model(shape: ModelShape, weights: object, settings: Settings) -> DiTMoE:
    return build_model(shape, range(shape.experts), settings, weights)  # type: ignore[arg-type]


def _made(model: DiTMoE, task: Task, numbers: range, tell: Tell) -> Exact:
    noise, labels = inputs(model.shape, numbers, task.settings)
    return exact_images(task.schedule, model, numbers, noise, labels, task.settings.guidance, task.shares, tell)
