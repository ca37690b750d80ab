"""The main job: measure this machine, predict, really run, and show how far the prediction was off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from calibration import results, samples
from calibration.cells import Cell, Key, join, predict, record_routing, run_all
from calibration.digits import draw_digits
from calibration.fit import fit
from calibration.measure import measure
from calibration.results import Result
from calibration.samples import Sample
from realrun.ranks import Ranks
from realrun.run import Settings
from sim.cluster import Cluster
from sim.load import load_schedule
from sim.perfetto import write_perfetto
from sim.schedule import Schedule
from sim.timeline import draw_timeline, save_figure
from sim.trace import Trace
from sim.units import readable
from sim.workload import MODELS, Workload

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure and run.  The default takes two to three minutes on two cores.

    Of its links the slow one makes communication dominate (about twice the compute), the fast one compute."""

    workload: Workload = field(default_factory=lambda: Workload(MODELS["tiny"], ranks=2, images=4, wire="float32"))
    schedules: Sequence[str] = ("sync", "displaced", "interweaved")
    steps: int = 12
    rates: Sequence[float] = (20e6, 80e6)  # bytes a second, each link
    images: Sequence[int] = (2, 6)  # batch sizes beside the workload's own, at which compute is measured
    rounds: int = 3
    settings: Settings = field(default_factory=Settings)
    timeout_s: float = 60.0

    def stages(self) -> int:
        """How often a run of this plan tells what it does."""
        cells = len(self.schedules) * len(self.rates)
        return 2 + self.rounds * (2 + 2 * len(self.rates) + cells)


def demo(plan: Plan, folder: Path, console: Console) -> list[Cell]:
    """Runs `plan` and writes samples, clusters, results, pictures and trace into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = samples.machine()
    schedules = [load_schedule(name, plan.steps, plan.workload.model.layers) for name in plan.schedules]
    with _progress(console, plan.stages()) as tell, Ranks(plan.workload.ranks, plan.timeout_s) as ranks:
        tell("recording what the router does")
        routed = replace(plan.workload, routing=record_routing(ranks, plan.workload, plan.settings, schedules[0]))
        rounds = [_round(plan, ranks, schedules, routed, number, meta, tell) for number in range(plan.rounds)]
        tell("drawing digits")
        digits = [*draw_digits(ranks, plan.schedules, folder / "digits.png")]
    cells = join([(predicted, measured) for _, predicted, measured in rounds])
    summary = results.summarise(cells)
    _save(plan, folder, meta, [sample for taken, _, _ in rounds for sample in taken], summary)
    show(summary, console)
    for line in [*write_pictures(cells, plan, folder), *digits]:
        console.print(line, soft_wrap=True)
    return cells


def _round(
    plan: Plan,
    ranks: Ranks,
    schedules: Sequence[Schedule],
    routed: Workload,
    number: int,
    meta: Mapping[str, str],
    tell: Tell,
) -> tuple[list[Sample], dict[Key, Trace], dict[Key, Trace]]:
    """Measure, predict, run: the samples, the predictions made from them, and the runs made afterwards."""
    settings = plan.settings
    taken = [*measure(ranks, plan.workload, settings, plan.rates, images=plan.images, seed=number, progress=tell)]
    tell("predicting")
    predicted = predict(schedules, routed, _clusters(plan, taken, meta))
    measured = run_all(ranks, schedules, plan.workload, settings, [*predicted], number, tell)
    return [replace(sample, round=number) for sample in taken], predicted, measured


def _clusters(plan: Plan, taken: Sequence[Sample], meta: Mapping[str, str]) -> dict[float, Cluster]:
    return {rate: fit(taken, plan.workload.ranks, rate, meta) for rate in plan.rates}


def _save(
    plan: Plan, folder: Path, meta: Mapping[str, str], taken: Sequence[Sample], summary: Sequence[Result]
) -> None:
    """The bundle, a Cluster for each link rate fitted to the samples of all rounds, and the results."""
    samples.save(folder / "samples", taken, meta)
    for rate, cluster in _clusters(plan, taken, meta).items():
        cluster.save(folder / f"cluster-{_rate(rate).replace(' ', '').replace('/', '-per-')}.yaml")
    results.save(folder / "results.json", summary, meta)


def show(summary: Sequence[Result], console: Console) -> None:
    """The one table."""
    table = Table(title="Predicted from microbenchmarks, then really run", box=None, padding=(0, 1, 0, 0))
    for heading in results.HEADINGS:
        table.add_column("\n".join(heading), justify="right" if heading[1] else "left", no_wrap=True)
    for before, result in zip([None, *summary], summary, strict=False):
        if before and before.link_bytes_per_s != result.link_bytes_per_s:
            table.add_row()
        table.add_row(*result.row())
    console.print(table)
    console.print(results.verdict(summary))


def write_pictures(cells: Sequence[Cell], plan: Plan, folder: Path) -> Iterator[str]:
    """One step of the last schedule at the slowest link, simulated above measured; and a trace of every cell."""
    last = [cell for cell in cells if cell.schedule.name == plan.schedules[-1]]
    cell = min(last, key=lambda cell: cell.link_bytes_per_s)
    picture, traces = folder / "timeline.png", folder / "trace.json"
    pair = cell.median_round()
    save_figure(draw_timeline(pair, step=plan.steps // 2), picture)
    for trace in pair:
        trace.save(folder / f"{trace.origin}.trace")
    yield f"picture: {picture} (step {plan.steps // 2} of {cell.schedule.name}, simulated above measured)"
    both = {f"{c.schedule.name}, {_rate(c.link_bytes_per_s)}": c.median_round() for c in cells}
    labels = [f"{name}, {trace.origin}" for name, pair in both.items() for trace in pair]
    write_perfetto([trace for pair in both.values() for trace in pair], traces, labels)
    yield f"trace:   {traces} (open it at https://ui.perfetto.dev)"


def _rate(bytes_per_s: float) -> str:
    return readable("_bytes_per_s", bytes_per_s)


@contextmanager
def _progress(console: Console, stages: int) -> Iterator[Tell]:
    """A bar that a stage's beginning moves on."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting ranks", total=stages)
        told = 0

        def tell(what: str) -> None:
            nonlocal told
            progress.update(task, description=what, completed=told)
            told += 1

        yield tell
