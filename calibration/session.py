"""A session: the jobs of a plan, done one after the other into a bundle, each wholly or not at all.

What is already there is not done again, so that a call that was interrupted, at any moment and by anything, goes on
where it stopped.  Of a job that other programs disturbed, the least disturbed of some tries is kept, with the share of
the processors that others had.  The file knows order, patience and progress; it
refuses to know what is measured (calibration/measure.py) and what it means."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from calibration.bundle import META, Bundle
from calibration.measure import measure
from calibration.others import Watch, wait_until_quiet
from calibration.plan import Job, Plan
from calibration.samples import machine
from realrun.backend import Pool, load_backend
from realrun.rank import RankContext
from realrun.run import run
from sim.output import owned_folder
from sim.routing import Routing
from sim.trace import Trace

T = TypeVar("T")
Tell = Callable[[str], None]
Start = Callable[["Plan", float], AbstractContextManager[Pool]]


@dataclass(frozen=True)
class Patience:
    """With others on the machine: a job during which they had more than `share` of the processors is done again, up to
    `tries` times in all, each after waiting up to `seconds` for them to come to rest."""

    share: float = 0.08
    tries: int = 3
    seconds: float = 10.0


def carry_out(
    plan: Plan,
    folder: Path,
    console: Console,
    *,
    timeout_s: float = 60.0,
    patience: Patience = Patience(),  # frozen
    start: Start | None = None,
) -> Bundle:
    """Does what is left of `plan`, into the bundle in `folder`, which it makes if there is none.

    start: how ranks come to be; by default by the plan's backend.  Raises RanksFailed if a rank failed, ValueError if
    ranks cannot do the plan, or if the folder holds something else or another process has it; in all cases what is
    done stays."""
    plan.check()
    with (start or _start)(plan, timeout_s) as pool, _owned(folder) if pool.leads else nullcontext():
        bundle = Bundle.open(folder, plan.table(), machine()) if pool.leads else Bundle(folder)
        done = pool.call(_say, sorted(bundle.done()) if pool.leads else [])[0]
        left = [job for job in plan.jobs() if job.name not in done]
        with _progress(console if pool.leads else Console(quiet=True), len(plan.jobs()), len(left)) as tell:
            _do_all(left, plan, pool, bundle, patience, tell)
    return bundle


def _start(plan: Plan, timeout_s: float) -> AbstractContextManager[Pool]:
    return load_backend(plan.backend).start(plan.ranks, timeout_s)


def _owned(folder: Path) -> AbstractContextManager[None]:
    return owned_folder(folder, META, "bundle", keeps=lambda: bool(Bundle(folder).done()))


def _do_all(left: Sequence[Job], plan: Plan, pool: Pool, bundle: Bundle, patience: Patience, tell: Tell) -> None:
    if plan.schedules and pool.call(_say, pool.leads and bundle.routing() is None)[0]:
        routing = _record_routing(plan, pool)
        if pool.leads:
            bundle.add_routing(routing)
    for job in left:
        tell(job.name)
        if job.kind == "run":
            trace, others = _undisturbed(pool, patience, lambda job=job: _run(job, plan, pool))  # type: ignore[misc]
            if pool.leads:
                bundle.add_run(job.name, replace(trace, about={**trace.about, "others": f"{others:.3f}"}))
        else:
            samples, others = _undisturbed(pool, patience, lambda job=job: measure(job, plan, pool))  # type: ignore[misc]
            if pool.leads:
                bundle.add_samples(job.name, [replace(sample, others=others) for sample in samples])


def _run(job: Job, plan: Plan, pool: Pool) -> Trace:
    assert job.schedule is not None
    return run(plan.schedule(job.schedule), plan.workload, pool, plan.settings_at(job.rate)).trace


def _record_routing(plan: Plan, pool: Pool) -> Routing:
    """Token counts of one run over an unthrottled link: what the router does, whatever the link."""
    return run(plan.schedule(plan.schedules[0]), plan.workload, pool, plan.settings).routing


def _undisturbed(pool: Pool, patience: Patience, work: Callable[[], T]) -> tuple[T, float]:
    """What the least disturbed of several tries made, and the share that others had meanwhile."""
    best: tuple[T, float] | None = None
    for _ in range(patience.tries):
        pool.call(_wait_until_quiet, patience)
        watches = pool.call(_watch)
        made = work()
        others = max(pool.call(_others, watches))
        if best is None or others < best[1]:
            best = made, others
        if others <= patience.share:
            break
    assert best is not None
    return best


# On ranks, so that all of those that torchrun started decide alike: rank 0 looks for all.


def _say(context: RankContext, what: T) -> T:
    return what


def _wait_until_quiet(context: RankContext, patience: Patience) -> None:
    if context.rank == 0 and patience.seconds:
        wait_until_quiet(patience.share, patience.seconds)


def _watch(context: RankContext) -> Watch:
    return Watch.begin([os.getpid()])


def _others(context: RankContext, watches: Sequence[Watch]) -> float:
    """What others had since then, by rank 0's counters and all ranks' processes."""
    pids = [pid for watch in watches for pid in watch.pids]
    first = watches[0]
    whole = Watch(tuple(dict.fromkeys(pids)), first.at_s, first.all_s, _own_s(watches))
    return whole.others() if context.rank == 0 else 0.0


def _own_s(watches: Sequence[Watch]) -> float:
    return sum({watch.pids: watch.own_s for watch in watches}.values())


@contextmanager
def _progress(console: Console, jobs: int, left: int) -> Iterator[Tell]:
    """A bar that the beginning of a job moves on, with an estimate of what is left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # looked after once a second: what it takes the ranks' processors
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as progress:
        task = progress.add_task("starting", total=jobs, completed=jobs - left)
        begun = jobs - left

        def tell(what: str) -> None:
            nonlocal begun
            progress.update(task, description=what, completed=begun)
            begun += 1

        yield tell
