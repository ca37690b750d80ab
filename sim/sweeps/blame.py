"""Which settings are at fault where no point can be run: with which values, and why.

A value is at fault if no point that has it can be run, whatever else is left away, and if what is wrong with such a
point is not wrong without the value.  It knows points by trying to put them together (sim/sweeps/point.py); it refuses
to run any."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.cluster import Cluster
from sim.cost import check_compute
from sim.gpu import Gpu
from sim.sweeps.point import Sources, build_model, build_schedule, build_workload, machine_tables

_TRIES = 64
_ALWAYS = ("schedule", "cluster")  # without which there is no point
Settings = Mapping[str, Any]
Choices = Mapping[str, Sequence[Any]]  # setting -> its values


def blame(base: Settings, axes: Choices, sources: Sources) -> Iterator[tuple[str, str]]:
    """(setting, "with 'value', no point can be run: why") of every value at fault, as far as can be seen without
    running any; (setting, why) if all its values are, for one reason; ("", why) if none is, and yet no point can be
    run."""
    given: Choices = {**{key: (value,) for key, value in base.items()}, **axes}
    suited = {key: [each for each in values if _runs({**given, key: (each,)}, sources)] for key, values in axes.items()}
    none_runs = any(not suited[key] for key in axes)
    suspects = {key: [each for each in values if each not in suited[key]] for key, values in axes.items()}
    suspects |= {key: [value] for key, value in base.items() if none_runs and value is not None}
    freed = {key: _freed(key, values, suited.get(key, [] if none_runs else values)) for key, values in given.items()}
    accused = False
    for key, values in suspects.items():
        own = [_own_problem(key, value, given[key], freed, sources) for value in values]
        accused = accused or any(own)
        if own and own[0] and len(own) == len(given[key]) and len({*own}) == 1:
            yield key, own[0]
        else:
            told = zip(values, own, strict=True)
            yield from ((key, f"with {value!r}, no point can be run: {why}") for value, why in told if why)
    if none_runs and not accused:
        first = next(_combinations(given))
        yield "", f"no point can be run: {'; '.join(point_problems(first, sources))}"


def _freed(key: str, values: Sequence[Any], suited: Sequence[Any]) -> Sequence[Any]:
    """What others may have at `key` while a suspect is looked at: what suits, or anything, and nothing."""
    return suited or ([*values] if key in _ALWAYS else [*values, None])


def _runs(choices: Choices, sources: Sources) -> bool:
    return any(not point_problems(point, sources) for point in _combinations(choices))


def _own_problem(key: str, value: Any, values: Sequence[Any], freed: Choices, sources: Sources) -> str:
    """What is wrong with all points of this value, and not without it; "" if there is a point that can be run."""
    own = ""
    for point in _combinations({**freed, key: (value,)}):
        problems = point_problems(point, sources)
        if not problems:
            return ""
        if not own:
            others = [{**point, key: other} for other in (None, *values[:_TRIES]) if other != value]
            spared = [{*point_problems(each, sources)} for each in others]
            own = next((problem for problem in problems if any(problem not in each for each in spared)), "")
    return own


def _combinations(choices: Choices) -> Iterator[dict[str, Any]]:
    """All combinations, or the first and some at random where there are many."""
    size = 1
    for each in choices.values():
        size *= len(each)
    if size <= _TRIES:
        for values in itertools.product(*choices.values()):
            yield dict(zip(choices, values, strict=True))
        return
    draw = random.Random(0)
    yield {key: each[0] for key, each in choices.items()}
    for _ in range(_TRIES - 1):
        yield {key: draw.choice(each) for key, each in choices.items()}


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
        if workload.dtype is not None and isinstance(cluster.compute, Gpu):
            cluster.compute.flops_per_s(workload.dtype)
    except (ValueError, OSError) as error:
        return [str(error)]
    if point.get("seed") is not None and not any(cluster.jitter.values()):
        return [f"seed={point['seed']} has no effect: cluster {cluster.name} has no jitter"]
    return []
