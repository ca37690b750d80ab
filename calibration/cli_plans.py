"""The commands that work by a plan: measure, compare; and those that read what they wrote."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from calibration.plan import Plan
    from calibration.session import Patience, Start

_PlanFile = Annotated[
    Path | None, typer.Argument(metavar="[PLAN]", help="A plan (calibration/plans); without: the default.")
]
_Rounds = Annotated[int | None, typer.Option(help="Rounds, instead of the plan's; more than are there go on.")]
_Timeout = Annotated[float | None, typer.Option(help="Seconds that a rank waits for another (60).")]
_Others = Annotated[
    float | None,
    typer.Option(help="Seconds to wait, before each job, for other programs to come to rest (10); 0: do not care."),
]
_TIMEOUT_S, _PATIENCE_S = 60.0, 10.0
_MOST_PATIENCE_S = 3600.0


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to `app`."""
    for command in (measure, fit, report, compare, evaluate, history, tables):
        app.command()(command)


def measure(
    plan: _PlanFile = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle: a folder, new or begun.")] = Path("out/bundle"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One round, fewer sizes: at most five minutes on 8 GPUs.")
    ] = False,
    backend: Annotated[
        str | None, typer.Option(help="How ranks reach each other (realrun/backends), with settings.")
    ] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks to start; torchrun says its own.")] = None,
    model: Annotated[str | None, typer.Option(help="Whose sizes are measured.")] = None,
    images: Annotated[int | None, typer.Option(help="Images a rank.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16; rows travel as that.")] = None,
    rounds: _Rounds = None,
    timeout: _Timeout = None,
    patience: _Others = None,
) -> None:
    """Measures everything that a Cluster needs; a call that was interrupted goes on where it stopped."""
    from calibration.session import carry_out

    found = _plan(plan)
    changed = {"backend": backend, "ranks": ranks, "model": model, "images": images, "dtype": dtype, "wire": dtype}
    found = replace(found, schedules=(), **{key: value for key, value in changed.items() if value is not None})  # type: ignore[arg-type]
    found, start = _joined(found, ranks, backend, planned=plan is not None)
    found = _lasting(found.quick() if quick else found, rounds)
    console, (timeout_s, calm) = Console(), _waits(timeout, patience)
    bundle = carry_out(found, out, console, timeout_s=timeout_s, patience=calm, start=start)
    if _leads():
        console.print(f"{out}: {len(bundle.done())} jobs, {len(bundle.samples())} samples", soft_wrap=True)


def compare(
    plan: Annotated[list[Path], typer.Argument(help="A plan; or two traces of one schedule, predicted and measured.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The bundle: a folder, new or begun.")] = None,
    rounds: _Rounds = None,
    timeout: _Timeout = None,
    patience: _Others = None,
) -> None:
    """Measures, runs and predicts the cells of a plan, and says how far off predictions were, level by level."""
    from calibration.session import carry_out

    if len(plan) == 2:
        given = {"--out": out, "--rounds": rounds, "--timeout": timeout, "--patience": patience}
        if idle := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{', '.join(idle)}: no effect on two traces, which are only compared")
        return _compare_traces(*plan)
    if len(plan) != 1 or out is None:
        raise ValueError("compare takes a plan and --out FOLDER, or two traces")
    found, start = _joined(_lasting(_plan(plan[0]), rounds), planned=True)
    console, (timeout_s, calm) = Console(), _waits(timeout, patience)
    carry_out(found, out, console, timeout_s=timeout_s, patience=calm, start=start)
    if _leads():
        _evaluate(out, console)
    return None


def evaluate(
    folder: Annotated[Path, typer.Argument(help="A bundle with runs in it.")],
) -> None:
    """Predicts the runs of a bundle anew, from its samples, and writes results and clusters beside them."""
    _evaluate(folder, Console())


def fit(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for clusters; without: the bundle's.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Fewer than ran, among which transfers were measured.")] = None,
) -> None:
    """Fits a Cluster for each link rate to a bundle, and says how sure each number is, and what cannot be told."""
    from calibration.bundle import Bundle
    from calibration.plan import Plan, rate_name
    from calibration.predict import fit_of
    from calibration.report import numbers

    bundle, console = Bundle(folder), Console()
    plan, samples = Plan.of(bundle.meta()["plan"]), bundle.samples()
    if ranks is not None and ranks not in plan.teams:
        measured = ", ".join(map(str, plan.teams)) or "no fewer than all"
        raise ValueError(f"--ranks {ranks}: of {plan.ranks} ranks, transfers were measured among {measured}")
    fits = [fit_of(samples, plan, rate, bundle.machine, ranks or 0) for rate in plan.rates]
    for rate, found in zip(plan.rates, fits, strict=True):
        path = (out or folder) / f"cluster-{rate_name(rate)}{f'-{ranks}-ranks' if ranks else ''}.yaml"
        found.cluster.save(path)
        console.print(f"{path}: {found.cluster.name}")
        for name, value, (low, high) in numbers(found):
            console.print(f"  {name:28} {value}  ({low} to {high})", soft_wrap=True)
        for warning in found.warnings:
            console.print(f"  warning: {warning}", soft_wrap=True)


def report(
    folder: Annotated[Path, typer.Argument(help="A bundle.")],
    html: Annotated[Path, typer.Option(help="The page.")] = Path("calibration.html"),
) -> None:
    """A page with fits, residuals, leave-one-out errors and, of a bundle with runs, predictions against them."""
    from calibration.bundle import Bundle
    from calibration.report import write

    write(Bundle(folder), html)


def history(
    out: Annotated[Path, typer.Option("--out", "-o", help="The history: a file that gets one line more.")] = Path(
        "calibration/data/history.jsonl"
    ),
) -> None:
    """A small comparison of predictions and runs; fails only where a run is not what its schedule means."""
    import shutil

    from calibration.history import append, load, record

    console, folder = Console(), Path("out/history")
    shutil.rmtree(folder, ignore_errors=True)
    append(out, record(folder, console))
    for entry in load(out)[-5:]:
        errors = ", ".join(f"{name} {error:+.1%}" for name, error in entry["errors"].items())
        console.print(f"{entry['date']} {entry['commit']}: {errors}", highlight=False)


def tables(
    data: Annotated[Path, typer.Argument(help="The folder of folders with results.")] = Path("calibration/data"),
    page: Annotated[Path, typer.Option(help="The page whose tables are replaced.")] = Path("docs/calibration.md"),
) -> None:
    """Puts the tables of all committed results into a page, each between its markers."""
    from calibration.page import renew_all

    renew_all(page, data)


def _evaluate(folder: Path, console: Console) -> None:
    from calibration.bundle import Bundle
    from calibration.demo import show, write_results
    from calibration.plan import Plan
    from calibration.predict import cells

    bundle = Bundle(folder)
    plan = Plan.of(bundle.meta()["plan"])
    with console.status("predicting") as status:
        found = cells(bundle, plan, status.update)
    show(write_results(bundle, plan, found, folder), console)


def _waits(timeout: float | None, patience: float | None) -> tuple[float, Patience]:
    """What is waited for another rank, in seconds, and for other programs."""
    from calibration.session import Patience
    from realrun.joined import started_by_torchrun

    timeout_s, seconds = _TIMEOUT_S if timeout is None else timeout, _PATIENCE_S if patience is None else patience
    if not 0 <= seconds <= _MOST_PATIENCE_S:
        raise ValueError(f"--patience {seconds:g} should be seconds, from 0 to {_MOST_PATIENCE_S:g}")
    if started_by_torchrun() and seconds >= timeout_s:
        raise ValueError(f"--patience {seconds:g} should be below --timeout {timeout_s:g}: ranks wait for the first")
    return timeout_s, Patience(seconds=seconds) if seconds else Patience(tries=1, seconds=0.0)


def _leads() -> bool:
    """Whether this process speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _plan(path: Path | None) -> Plan:
    from calibration.plan import Plan

    return Plan() if path is None else Plan.load(path)


def _lasting(plan: Plan, rounds: int | None) -> Plan:
    return plan if rounds is None else replace(plan, rounds=rounds)


def _joined(
    plan: Plan, ranks: int | None = None, backend: str | None = None, planned: bool = False
) -> tuple[Plan, Start | None]:
    """The plan for the ranks that torchrun started, and how they come together; as it is without torchrun.

    With GPUs these are over NCCL, whose links are as they are.  ranks, backend: as the command line says; planned: a
    file says how many ranks there are."""
    from calibration.plan import AS_THEY_ARE, Plan
    from realrun.backend import DEFAULT
    from realrun.joined import joined, started_by_torchrun
    from realrun.rank import backend_of_torchrun

    if not started_by_torchrun():
        return plan, None
    world, here = int(os.environ["WORLD_SIZE"]), backend_of_torchrun()
    if ranks is not None:
        raise ValueError(f"--ranks {ranks} has no effect under torchrun, which started {world}")
    if planned and plan.ranks != world:
        raise ValueError(f"the plan is for {plan.ranks} ranks, and torchrun started {world}")
    if plan.backend != here and (backend is not None or plan.backend != DEFAULT):
        raise ValueError(f"backend {plan.backend} has no effect under torchrun, whose ranks are {here} here")
    if here != plan.backend:
        if plan.rates != Plan().rates:
            raise ValueError(f"rates have no effect over {here}, whose links are as they are ([.inf])")
        plan = replace(plan, backend=here, rates=(AS_THEY_ARE,))
    return replace(plan, ranks=world), lambda _, timeout_s: joined(timeout_s)


def _compare_traces(predicted: Path, measured: Path) -> None:
    """Prints how far one trace is from another of the same schedule."""
    from rich.table import Table

    from calibration.compare import compare as compare_traces
    from sim.trace import Trace

    table = Table("level", "which", "predicted / ms", "measured / ms", "error")
    for row in compare_traces(Trace.load(predicted), Trace.load(measured)):
        seconds = (f"{1e3 * s:.3f}" for s in (row.predicted_s, row.measured_s))
        table.add_row(row.level, row.key, *seconds, f"{row.error:+.1%}")
    Console().print(table)
