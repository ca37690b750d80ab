"""Advice: which schedule to run, on a machine, for so many images, within limits; and how sure that is.

Candidates are the named methods, exact rivals, fewer bytes, caching, and fewer steps: as many as the latency of a stale
schedule pays for, and as the limits ask for (sim/fewer.py).  Each is evaluated on draws of the cluster's uncertain
numbers (sim/inputs.py), the same for all: an interval of each, and of each pair the share of draws in which one is
faster.  What costs images something that is in no number here (rounded rows, stale keys and values; fewer steps, unless
a vulnerability says) is not ranked beside the rest.  It knows what is compared; it refuses to know how an image looks:
quality is a mean age, or what a vulnerability's file estimates (sim/vulnerability.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np

from sim.cluster_text import sources_of, unsourced
from sim.cost import check_compute, computes_in, element_bytes_of
from sim.fewer import fewer_steps, shortened
from sim.gpu import Gpu
from sim.limits import missed
from sim.load import load_for
from sim.memory import channels_of
from sim.option import Asked, Option, rounds
from sim.rivals import contenders
from sim.schedule import Schedule
from sim.sweeps.facts import FactBook
from sim.vectorised.engines import Case, evaluate
from sim.workload import WIRES, Workload

SURE = 0.95  # share of draws in which one has to be faster than another to be called so
STALE = (
    "displaced", "displaced stride=5", "displaced synchronous=deep", "interweaved", "interweaved stride=5",
    "interweaved synchronous=deep", "interweaved synchronous=staggered", "interweaved conditional=low", "dice",
    "dice stride=5",
)  # fmt: skip
PATCHES = ("patch_parallel", "distrifusion")
Tell = Callable[[str], None]


def advise(asked: Asked, tell: Tell = lambda name: None) -> list[Option]:
    """All candidates that can be run, best first: those within all limits, then those whose cost in images is in no
    number, then those beyond the limits.

    Best is fastest; where latency alone is limited, least stale (or least costly in quality) within it, and of most
    steps.  Raises ValueError, before anything is evaluated, for a dtype or a further candidate that cannot be."""
    check_compute(asked.workload, asked.cluster)
    book_of = cache(FactBook)  # which serves a schedule's rounded rows, too
    options = [option for each in _candidates(asked) if (option := _option(asked, each, book_of, tell)) is not None]
    for each in _fewer(asked, options, tell):
        if (option := _option(asked, each, book_of, tell)) is not None:
            options.append(option)
    return sorted(options, key=lambda option: _order(asked, option))


@dataclass(frozen=True)
class _Candidate:
    name: str
    why: str
    schedule: Schedule
    workload: Workload


def _candidates(asked: Asked) -> Iterator[_Candidate]:
    own = {source: _plan(asked, source) for source in asked.also}
    for source in dict.fromkeys(("sync", *STALE, *PATCHES, *own)):
        try:
            plan = own.get(source) or _plan(asked, source)
        except ValueError:  # not with so many experts a token
            continue
        yield _Candidate(source, "stale" if _is_stale(plan) else "exact", plan, asked.workload)
    stale = [source for source in dict.fromkeys((*STALE, *asked.also)) if " " not in source]
    for name, why, schedule, workload in contenders(stale, asked.steps, asked.workload):
        if name not in own:
            yield _Candidate(name, why, schedule, workload)


def _fewer(asked: Asked, options: Sequence[Option], tell: Tell) -> Iterator[_Candidate]:
    for source, plan in fewer_steps(asked, options, tell):
        yield _Candidate(shortened(source, plan.steps), "fewer steps", plan, asked.workload)


def _is_stale(plan: Schedule) -> bool:
    added = any(age for layers in plan.staleness() for slots in layers for age in slots)
    return added or any(map(any, plan.attention_staleness()))


def _plan(asked: Asked, source: str) -> Schedule:
    return load_for(source, asked.steps, asked.workload.model)


def _option(asked: Asked, one: _Candidate, book_of: Callable[[Schedule], FactBook], tell: Tell) -> Option | None:
    """What becomes of a candidate; None where it cannot be run (images that cannot be cut, experts that do not fit).

    Raises ValueError if that is one that was asked for."""
    tell(one.name)
    draws = len(next(iter(asked.draws.values()))) if asked.draws else 1
    outcome = evaluate(Case(one.schedule, one.workload, asdict(asked.cluster), draws, asked.draws))
    if outcome.error[0] is not None or np.isnan(outcome.makespan_s).any():
        if one.name in asked.also:
            raise ValueError(f"{one.name}: {outcome.error[0] or 'its makespan is not known'}")
        return None
    book = book_of(one.schedule)
    facts = book.facts(one.workload, element_bytes_of(one.workload, asked.cluster), channels_of(asked.cluster))
    rounded = rounds(one.workload, facts)
    why = "fewer bytes" if rounded and one.why == "exact" else one.why
    costs = None if rounded else asked.vulnerability  # which knows ages and steps alone
    quality = None if costs is None else book.quality(one.workload, costs)
    against = tuple(missed(asked.limits, float(outcome.makespan_s[0]), facts, quality))
    return Option(one.name, why, one.schedule, one.workload, outcome.makespan_s, str(outcome.engine[0]), facts,
                  quality, against)  # fmt: skip


def ranked_by(asked: Asked) -> str:
    """What the order of an advice is."""
    limits = asked.limits
    if limits.latency_s is None or limits.mean_age is not None or limits.quality is not None:
        return "makespan"
    return "mean age" if asked.vulnerability is None else "quality"


def _order(asked: Asked, option: Option) -> tuple[float, ...]:
    cost = option.facts.mean_age_steps if option.quality is None else option.quality
    first = (option.makespan_s,) if ranked_by(asked) == "makespan" else (cost, -option.schedule.steps)
    return len(option.against), bool(option.unpriced), *first, option.makespan_s


def verdicts(options: Sequence[Option], by: str = "makespan") -> list[str]:
    """[option]: limits that it misses; or by how much it is slower than the first, which has "".

    Where makespans rank (by: as `ranked_by`), "too close to call" with the number of the first ranked one that may be
    slower, if there is one."""
    told = []
    for n, option in enumerate(options):
        ranked = [i for i in range(n) if not options[i].against and not options[i].unpriced]
        close = [i for i in ranked if _close(options[i], option)] if by == "makespan" else []
        if n == 0 or option.against:
            told.append("; ".join(option.against))
        elif close:
            told.append(f"too close to call with {close[0] + 1}")
        else:
            told.append(f"{option.makespan_s / options[0].makespan_s - 1:+.1%}")
    return told


def _close(one: Option, other: Option) -> bool:
    share = one.faster_than(other)
    return max(share, 1 - share) < SURE


def evidence(asked: Asked) -> list[str]:
    """What stands behind the numbers, a line each."""
    lines = [f"cluster: {asked.cluster.source or 'no source given'}"]
    lines += [f"{key}: {source}" for key, source in sources_of(asked.cluster).items() if key != "source"]
    lines += [f"no source given: {key}" for key in unsourced(asked.cluster)]
    lines.append("memory: weights and buffers exact; working space, library and allocator estimated (sim/memory.py)")
    wire, dtype = asked.workload.wire, computes_in(asked.workload, isinstance(asked.cluster.compute, Gpu))
    if WIRES[wire].element_bytes < element_bytes_of(asked.workload, asked.cluster):
        told = f"rows travel as {wire}, and are computed in {dtype}"
        lines.append(f"{told}: what rounding them costs in images is in no number here")
    if asked.vulnerability is None:
        lines.append("mean age: exact, from the schedules; what a step of it costs in images, it does not say")
    else:
        told_errors = ", ".join(f"{key} {value:.3g}" for key, value in asked.vulnerability.errors.items())
        lines.append(f"quality: {asked.vulnerability.source}; errors on other schedules: {told_errors or 'not stated'}")
    return lines
