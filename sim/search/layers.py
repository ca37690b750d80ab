"""Which layers to synchronise, and which slots at which interval: the least cost at every latency.

Layers are nearly additive: a run takes about as long as the mean, over its layers, of runs in which all layers have
that layer's mode (of XL within 2 % on 8 x RTX 4090 and 0.01 % on 8 x H100, benchmarks/search.py).  So a front over all
modes of all layers is a knapsack (sim/search/knapsack.py); its points are then timed by the engines, and the largest
error found bounds what any other choice could reach.

A cost that adds up over layers (ages, weighed) is searched exactly.  One that does not (a vulnerability, whose parts
push images in directions) starts from the parts that do, and goes on by exchanging modes while it falls.

It knows modes, seconds and costs; it refuses to know how long an op takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from sim.schedule import Schedule
from sim.search.knapsack import Front, front
from sim.search.layerwise import Mode, layerwise, mean_ages
from sim.units import readable
from sim.vulnerability import Vulnerability, shares_of

Array = npt.NDArray[np.float64]
Choice = npt.NDArray[np.int64]  # [layer] number of its mode
Timed = Callable[[Schedule], float]
_ROUNDED = 1 + 1e-12  # times that are added up layer by layer are off by some last bits
MORE_MODES = tuple(Mode.parse(f"{base}{slots}") for base in ("sync", "stale")
                   for slots in ("", " 1,2", " 1,3", " 1,4", " 2,2", " 2,4", " 3,3", " 4,4"))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Cost:
    """gram [layer, mode, layer, mode]: what modes of layers cost together; its square root is the cost.  Where only
    `alone` [layer, mode] is given, costs add up."""

    name: str
    alone: Array
    gram: Array | None = None

    def of(self, choice: Choice) -> float:
        """Of one mode for each layer."""
        layers = np.arange(len(choice))
        if self.gram is None:
            return float(self.alone[layers, choice].sum())
        chosen = self.gram[layers, choice][:, layers, choice]
        return float(np.sqrt(max(0.0, chosen.sum())))


def age_cost(steps: int, layers: int, modes: Sequence[Mode], top_k: int = 2, weights: Array | None = None) -> Cost:
    """Mean age in steps of what is added, over steps, layers and slots (a Trace's mean_age); `weights` [layer, slot]
    weigh it, with a mean of 1."""
    ages = np.array([mean_ages(steps, mode, top_k)[:, :top_k].mean(axis=0) for mode in modes])  # [mode, slot]
    weighed = np.ones((layers, top_k)) if weights is None else weights / weights.mean()
    return Cost("mean age", weighed @ ages.T / (layers * top_k))


def image_cost(steps: int, layers: int, modes: Sequence[Mode], vulnerability: Vulnerability) -> Cost:
    """Distance to the images of as many synchronous steps, as `sim.vulnerability.quality_cost` estimates it."""
    top_k, periods, cells = vulnerability.slots, vulnerability.periods, vulnerability.layers
    ages = np.array([mean_ages(steps, mode, top_k) for mode in modes]) / steps  # [mode, step, kind]
    over_steps, over_layers = shares_of(steps, periods), shares_of(layers, cells)
    shares = np.einsum("ps,osk,ml->lopmk", over_steps, ages, over_layers)  # [layer, mode, period, cell, kind]
    moves = shares.reshape(layers, len(modes), -1)
    gram = np.einsum("lox,xy,mpy->lomp", moves, vulnerability.matrix[:-1, :-1], moves, optimize=True)
    alone = np.einsum("lolo->lo", gram)
    return Cost(f"distance of images ({vulnerability.name})", np.maximum(0.0, alone), gram)


@dataclass(frozen=True, eq=False)
class Found:
    """One schedule of the front.  seconds: timed; said_s: by adding layers up; bound: no schedule of these modes that
    is as fast can cost less (None where costs do not add up)."""

    modes: tuple[Mode, ...]
    seconds: float
    said_s: float
    cost: float
    bound: float | None


class Unreached(ValueError):
    """Nothing was found within a limit."""


class LayerSearch:
    """Search over one mode for each layer.  timed: seconds of a schedule; timings: of all choices timed so far."""

    def __init__(
        self, steps: int, layers: int, modes: Sequence[Mode], cost: Cost, timed: Timed, top_k: int = 2
    ) -> None:
        if layers < 2:
            raise ValueError(f"layers={layers} should be at least 2: of one, there is nothing to choose among")
        self.steps, self.layers, self.modes, self.cost = steps, layers, tuple(modes), cost
        self.timed, self.top_k = timed, top_k
        self.timings = {(m,) * layers: timed(self.schedule(np.full(layers, m))) for m in range(len(modes))}
        self.each_s = np.array([*self.timings.values()]) / layers
        self.errors: list[float] = []  # timed over said, of all of them
        self.front: Front = front(np.tile(self.each_s, (layers, 1)), cost.alone)

    def schedule(self, choice: Choice) -> Schedule:
        """The schedule of one mode for each layer."""
        return layerwise(self.steps, [self.modes[m] for m in choice], self.top_k)

    def probe(self, samples: int, seed: int) -> float:
        """Times so many random choices; the largest share by which one was faster than its layers say."""
        random = Random(seed)
        for _ in range(samples):
            some = random.sample(range(len(self.modes)), random.randint(2, min(5, len(self.modes))))
            choice = np.array([random.choice(some) for _ in range(self.layers)])
            if self._can_be(choice):
                self._time(choice)
        return self.fastest_error

    @property
    def fastest_error(self) -> float:
        """The largest share by which a schedule was faster than its layers say."""
        return max([0.0, *(-error for error in self.errors)])

    def known(self, choice: Choice) -> None:
        """Times a choice that somebody thought of: nothing is found that is worse."""
        self._time(choice)

    def best(self, limit_s: float, tries: int = 12) -> Found:
        """The least costly schedule found that takes `limit_s` at most, timed; its bound is of what any could cost.

        Raises Unreached, with what comes nearest, if none was found."""
        low, high = (self.front.best_within(max(limit_s * share, self.front.first[0])) for share in self._window())
        for point in np.unique(np.linspace(high, low, tries).astype(int))[::-1]:
            choice = self._refined(self._arranged(self.front.choices[point]), max(limit_s, self.front.first[point]))
            if self._can_be(choice) and self._time(choice) <= limit_s:
                break
        fast = [choice for choice in self.timings if self.timings[choice] <= limit_s]
        if not fast:
            told = f"the fastest found takes {readable('_s', min(self.timings.values()))}"
            raise Unreached(f"nothing was found that takes {readable('_s', limit_s)} at most; {told}")
        choice = self._exchanged(np.array(min(fast, key=self._cost_of)), limit_s, tries)
        return self._found(choice, self._least_cost(limit_s))

    def fastest(self, limit: float, tries: int = 12) -> Found:
        """The fastest schedule found that costs `limit` at most, timed.

        Raises Unreached if none was found."""
        within = [n for n, choice in enumerate(self.front.choices) if self.cost.of(choice) <= limit * (1 + 1e-9)]
        for point in within[:tries]:
            choice = self._quickened(self._arranged(self.front.choices[point]), limit)
            if self._can_be(choice):
                self._time(choice)
        cheap = [choice for choice in self.timings if self._cost_of(choice) <= limit * (1 + 1e-9)]
        if not cheap:
            raise Unreached(f"nothing was found that costs {limit:g} at most")
        return self._found(np.array(min(cheap, key=lambda choice: self.timings[choice])), None)

    def _exchanged(self, choice: Choice, limit_s: float, tries: int) -> Choice:
        """The choice after exchanging modes as long as that costs less, and is timed to be fast enough."""
        while True:
            cost = self.cost.of(choice) * (1 - 1e-9)
            perhaps = limit_s / (1 - self.fastest_error)
            less = [
                (spent, tuple(other))
                for other in self._neighbours(choice)
                if self.each_s[other].sum() <= perhaps and (spent := self.cost.of(other)) < cost and self._can_be(other)
            ]
            better = (np.array(other) for _, other in sorted(less)[:tries] if self._time(np.array(other)) <= limit_s)
            if (other := next(better, None)) is None:
                return choice
            choice = other

    def _cost_of(self, choice: tuple[int, ...]) -> float:
        return self.cost.of(np.array(choice))

    def _window(self) -> tuple[float, float]:
        """Of what layers may say of a schedule, as shares of what it may take: surely fast enough, perhaps so."""
        slower = max([0.0, *self.errors])
        return 1 / (1 + slower) if self.front.first[0] else 1.0, 1 / (1 - self.fastest_error)

    def _least_cost(self, limit_s: float) -> float | None:
        if self.cost.gram is not None:
            return None
        return self.front.least_second(limit_s / (1 - self.fastest_error) * _ROUNDED)

    def _found(self, choice: Choice, bound: float | None) -> Found:
        modes = tuple(self.modes[m] for m in choice)
        return Found(
            modes, self.timings[tuple(choice.tolist())], float(self.each_s[choice].sum()), self.cost.of(choice), bound
        )

    def _arranged(self, choice: Choice) -> Choice:
        """Where layers cost the same, modes are spread evenly over them: what is heavy then lies beside what is not."""
        if self.cost.gram is not None or not (self.cost.alone == self.cost.alone[0]).all():
            return choice
        counts = np.bincount(choice, minlength=len(self.modes))
        places = [((n + 0.5) / count, mode) for mode, count in enumerate(counts) for n in range(count)]
        return np.array([mode for _, mode in sorted(places)])

    def _time(self, choice: Choice) -> float:
        key = tuple(choice.tolist())
        if key not in self.timings:
            self.timings[key] = self.timed(self.schedule(choice))
            self.errors.append(self.timings[key] / float(self.each_s[choice].sum()) - 1)
        return self.timings[key]

    def _can_be(self, choice: Choice) -> bool:
        """Whether there is such a schedule: not with a single stale layer."""
        return [self.modes[m].stale for m in choice].count(True) != 1

    def _refined(self, choice: Choice, limit_s: float) -> Choice:
        """The choice after exchanging one mode, or the modes of two layers, as long as that costs less."""
        if self.cost.gram is None:
            return choice
        choice, cost = choice.copy(), self.cost.of(choice)
        while (better := self._step(choice, cost, limit_s)) is not None:
            choice, cost = better
        return choice

    def _step(self, choice: Choice, cost: float, limit_s: float) -> tuple[Choice, float] | None:
        """The best neighbour within the limit, if it costs less."""
        best = None
        for other in self._neighbours(choice):
            if self.each_s[other].sum() <= limit_s and (found := self.cost.of(other)) < cost * (1 - 1e-9):
                best, cost = other, found
        return None if best is None else (best, cost)

    def _quickened(self, choice: Choice, limit: float) -> Choice:
        """The choice after exchanging modes as long as that is said to be faster, and costs no more than `limit`."""
        if self.cost.gram is None:
            return choice
        while True:
            faster = sorted(self._neighbours(choice), key=lambda other: float(self.each_s[other].sum()))
            now = self.each_s[choice].sum() * (1 - 1e-9)
            quicker = (other for other in faster if self.each_s[other].sum() < now and self.cost.of(other) <= limit)
            if (other := next(quicker, None)) is None:
                return choice
            choice = other

    def _neighbours(self, choice: Choice) -> list[Choice]:
        found = []
        for layer in range(self.layers):
            for mode in range(len(self.modes)):
                if mode != choice[layer]:
                    found.append(_with(choice, {layer: mode}))
            for other in range(layer):
                if choice[other] != choice[layer]:
                    found.append(_with(choice, {layer: int(choice[other]), other: int(choice[layer])}))
        return found


def _with(choice: Choice, changes: dict[int, int]) -> Choice:
    other = choice.copy()
    for layer, mode in changes.items():
        other[layer] = mode
    return other
