"""Which settings are at fault where no point can be run: with which values, and why.

A value is at fault if no point that has it can be run, whatever else is left away, and if what is wrong with such a
point is not wrong without the value.  It knows points by trying to put them together (sim/sweeps/point.py); it refuses
to run any."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.cluster import Cluster
from sim.cost import check_compute
from sim.sweeps.point import Sources, build_model, build_schedule, build_workload, machine_tables

_TRIES = 64
_FEW = 4  # values of a setting that others are tried with
_ALWAYS = ("schedule", "cluster", "steps")  # without which there is hardly a point
Settings = Mapping[str, Any]
Choices = Mapping[str, Sequence[Any]]  # setting -> its values


def blame(base: Settings, axes: Choices, sources: Sources) -> Iterator[tuple[str, str]]:
    """(setting, "with 'value', no point can be run: why") of every value at fault, as far as can be seen without
    running any; (setting, why) if all its values are, for one reason; ("", why) if none is, and yet no point can be
    run."""
    judge, given = _Judge(sources), {**{key: (value,) for key, value in base.items()}, **axes}
    suited = {key: [each for each in values if judge.runs({**given, key: (each,)})] for key, values in axes.items()}
    none_runs = any(not suited[key] for key in axes)
    suited |= {key: [] if none_runs else [value] for key, value in base.items()}
    accused = False
    for key, values in given.items():
        own = [judge.own_problem(key, each, given, suited) if each not in suited[key] else "" for each in values]
        accused = accused or any(own)
        if own[0] and len({*own}) == 1:
            yield key, own[0]
        else:
            told = zip(values, own, strict=True)
            yield from ((key, f"with {value!r}, no point can be run: {why}") for value, why in told if why)
    if none_runs and not accused:
        first = next(_combinations(given))
        yield "", f"no point can be run: {'; '.join(judge.problems(first))}"


class _Judge:
    """Looks at points, at each once."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._known: dict[str, list[str]] = {}

    def problems(self, point: Settings) -> list[str]:
        """`point_problems`."""
        name = repr(sorted((key, value) for key, value in point.items() if value is not None))
        if name not in self._known:
            self._known[name] = point_problems(point, self._sources)
        return self._known[name]

    def runs(self, choices: Choices) -> bool:
        """Whether any of these points can be run."""
        return any(not self.problems(point) for point in _combinations(choices))

    def own_problem(self, key: str, value: Any, given: Choices, suited: Choices) -> str:
        """What is wrong with all points of this value, and not without it; "" if there is a point that can be run,
        even if only with others left away."""
        own = ""
        for point in _freed({**given, key: (value,)}, {**suited, key: (value,)}):
            problems = self.problems(point)
            if not problems:
                return ""
            if not own:
                others = [{**point, key: other} for other in (None, *given[key][:_FEW]) if other != value]
                spared = [{*self.problems(each)} for each in others]
                own = next((problem for problem in problems if any(problem not in each for each in spared)), "")
        return own


def _freed(given: Choices, suited: Choices) -> Iterator[dict[str, Any]]:
    """Points of values that suit, as far as there are; where none do, one setting left away, then all, then any."""
    best = {key: suited[key][:_FEW] or values[:_FEW] for key, values in given.items()}
    free = [key for key in given if not suited[key] and key not in _ALWAYS]
    yield from itertools.islice(_combinations(best), _FEW)
    yield from ({**next(_combinations(best)), key: None} for key in free)
    yield from itertools.islice(_combinations({**best, **dict.fromkeys(free, (None,))}), _FEW)
    yield from _combinations({**best, **{key: (*best[key], None) for key in free}})


def _combinations(choices: Choices) -> Iterator[dict[str, Any]]:
    """All combinations, or the first and some at random where there are many."""
    size = math.prod(len(each) for each in choices.values())
    if size <= _TRIES:
        yield from (dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))
        return
    draw = random.Random(0)
    yield {key: each[0] for key, each in choices.items()}
    yield from ({key: draw.choice(each) for key, each in choices.items()} for _ in range(_TRIES - 1))


def point_problems(point: Settings, sources: Sources) -> list[str]:
    """Why a point cannot be run, as far as can be seen without running it: with its model and schedule, its cluster,
    or, if these stand, with what it makes of them.  What has no schedule or no cluster is looked at without."""
    problems = list[str]()
    try:
        model = build_model(point, sources)
        schedule = build_schedule(point, model, sources) if point.get("schedule") is not None else None
    except (ValueError, OSError) as error:
        problems.append(str(error))
    try:
        name = point.get("cluster")
        cluster = None if name is None else Cluster.of_tables(machine_tables(point, sources), name)
    except (ValueError, OSError) as error:
        problems += str(error).splitlines()
    if problems or schedule is None or cluster is None:
        return problems
    try:
        workload = build_workload(point, model, schedule, cluster.ranks, sources)
        workload.fits(schedule)
        check_compute(workload, cluster)
    except (ValueError, OSError) as error:
        return [str(error)]
    if point.get("seed") is not None and not any(cluster.jitter.values()):
        return [f"seed={point['seed']} has no effect: cluster {cluster.name} has no jitter"]
    return []
