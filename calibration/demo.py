"""The main job: measure this machine, predict, really run, and show how far the prediction was off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from calibration import results
from calibration.bundle import META, Bundle
from calibration.cells import Cell
from calibration.digits import draw_digits
from calibration.plan import Plan, rate_name
from calibration.predict import cells, fit_of
from calibration.results import Results
from calibration.samples import Sample
from calibration.session import Patience, carry_out
from realrun.backend import load_backend
from sim.output import LOCK, refuse_strangers
from sim.perfetto import write_perfetto
from sim.timeline import draw_timeline, save_figure
from sim.units import readable

# Two to three minutes on two cores.  Of its links the slow one makes communication dominate (about twice the compute),
# the fast one compute.
PLAN = Plan(
    rates=(20e6, 80e6), schedules=("sync", "displaced", "interweaved"), steps=12, rounds=3, loads=(1.0,),
    about="the demo's",
)  # fmt: skip


def demo(plan: Plan, folder: Path, console: Console, timeout_s: float = 60.0) -> list[Cell]:
    """Runs `plan`, all of it anew, and writes bundle, clusters, results, pictures and trace into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_strangers(folder / "bundle", META, "bundle", but=(LOCK,))
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    bundle = carry_out(plan, folder / "bundle", console, timeout_s=timeout_s, patience=Patience(tries=1, seconds=0.0))
    with console.status("predicting") as status:
        found = cells(bundle, plan, status.update)
    summary = write_results(bundle, plan, found, folder)
    show(summary, console)
    with load_backend(plan.backend).start(plan.ranks, timeout_s) as ranks:
        digits = [*draw_digits(ranks, plan.schedules, folder / "digits.png")]
    for line in [*write_pictures(found, plan, folder), *digits]:
        console.print(line, soft_wrap=True)
    return found


def write_results(bundle: Bundle, plan: Plan, found: Sequence[Cell], folder: Path) -> Results:
    """The results, a Cluster for each link rate fitted to the samples of all rounds, and a prediction and a run."""
    samples = bundle.samples()
    summary = results.summarise(found, {**bundle.machine, "others": f"{others(samples, found):.0%}"})
    results.save(folder / "results.json", summary)
    for rate in plan.rates:
        fit_of(samples, plan, rate, bundle.machine).cluster.save(folder / f"cluster-{rate_name(rate)}.yaml")
    for trace in _shown(found, plan).median_round():
        trace.save(folder / f"{trace.origin}.trace")
    return summary


def others(samples: Sequence[Sample], found: Sequence[Cell]) -> float:
    """Share of the processors that other programs had meanwhile, of the median job or run."""
    jobs = {(s.round, s.what, s.load, s.queued, s.link_bytes_per_s): s.others for s in samples}
    runs = [float(trace.about["others"]) for cell in found for trace in cell.measured]
    return median([*jobs.values(), *runs])


def show(summary: Results, console: Console) -> None:
    """The tables."""
    table = Table(title="Predicted from microbenchmarks, then really run", box=None, padding=(0, 1, 0, 0))
    equal = all(result.staleness_equal for result in summary.cells)
    shown = [n for n in range(len(results.HEADINGS)) if n != results.STALE_MEASURED or not equal]
    rows = [[result.row()[n] for n in shown] for result in summary.cells]
    for heading, column in zip([results.HEADINGS[n] for n in shown], zip(*rows, strict=True), strict=True):
        least = max(len(word) for text in column for word in text.split())  # what does not fit folds between words
        table.add_column("\n".join(heading), justify="right" if heading[1] else "left", min_width=least)
    for before, result, row in zip([None, *summary.cells], summary.cells, rows, strict=False):
        if before and before.link_bytes_per_s != result.link_bytes_per_s:
            table.add_row()
        table.add_row(*row)
    console.print(table)
    if equal:
        console.print("staleness measured: as predicted, in every step, layer and slot")
    for name, level in summary.levels.items():
        console.print(f"  {name:10} {level.median:+7.1%}  ({level.low:+.1%} to {level.high:+.1%})")
    console.print(results.verdict(summary))


def _shown(found: Sequence[Cell], plan: Plan) -> Cell:
    """The cell of the pictures: interweaved (or the last schedule there is) on the slowest link."""
    text = "interweaved" if "interweaved" in plan.schedules else plan.schedules[-1]
    return min((cell for cell in found if cell.text == text), key=lambda cell: cell.link_bytes_per_s)


def write_pictures(found: Sequence[Cell], plan: Plan, folder: Path) -> Iterator[str]:
    """One step of a schedule at the slowest link, simulated above measured; and a trace of every cell."""
    cell, picture, traces = _shown(found, plan), folder / "timeline.png", folder / "trace.json"
    save_figure(draw_timeline(cell.median_round(), step=plan.steps // 2), picture)
    yield f"picture: {picture} (step {plan.steps // 2} of {cell.text}, simulated above measured)"
    both = {f"{c.text}, {readable('_bytes_per_s', c.link_bytes_per_s)}": c.median_round() for c in found}
    labels = [f"{name}, {trace.origin}" for name, pair in both.items() for trace in pair]
    write_perfetto([trace for pair in both.values() for trace in pair], traces, labels)
    yield f"trace:   {traces} (open it at https://ui.perfetto.dev)"
