"""The command line: `python -m realrun SCHEDULE`, and commands beside it; also called `dice-realrun`.

Commands of their own files: realrun/cli_train.py, realrun/cli_weights.py, realrun/cli_quality.py,
realrun/cli_measure.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realrun.cli_measure import classifier, vulnerability
from realrun.cli_quality import emulate, quality
from realrun.cli_train import train
from realrun.cli_weights import File, Guidance, Model, Picture, Vae, about, choose, paint, refuse_undrawable
from sim.load import load_for, only, sources
from sim.output import refuse_unwritable
from sim.terminal import end_orderly, run_app
from sim.units import quantity, readable
from sim.workload import WIRES, Workload

if TYPE_CHECKING:
    from realrun.checkpoint import Checkpoint
    from realrun.run import Run, Settings
    from sim.schedule import Schedule

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
for one in (quality, emulate, classifier, vulnerability):
    app.command()(one)
app.command()(train)
app.command()(about)


@app.callback()
def _commands() -> None:
    """Runs a schedule on real ranks: `python -m realrun SCHEDULE`, short for `python -m realrun run SCHEDULE`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command in `arguments` (default: those of the process), and exits."""
    from realrun.joined import ended_at_once, started_by_torchrun
    from realrun.messages import TransferError
    from realrun.ranks import RanksFailed

    given = list(sys.argv[1:] if arguments is None else arguments)
    named = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    if not given or given[0] not in (*named, "-h", "--help"):
        given.insert(0, "run")  # what is no command begins with a schedule
    if not started_by_torchrun():  # which ends ranks that wait in a transfer, and takes no longer than it has to
        end_orderly()
    with ended_at_once():
        run_app(app, given, faults=(RanksFailed, TransferError))


Schedules = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEDULE [SETTING=VALUE]...",
        help="A name, a text file, or FILE.py:FUNCTION, and its settings; `python -m sim schedules` lists them.",
    ),
]
Wire = Annotated[str | None, typer.Option(help=f"How rows travel ({', '.join(WIRES)}); as they are without.")]
Link = Annotated[str | None, typer.Option(help='Rate of each link between two ranks, as "200 Mbit/s".')]
Profile = Annotated[
    Path | None, typer.Option(help="Profile each rank, and write its torch.profiler trace into this folder.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Also compare with one process without communication.")]


@app.command()
def run(
    schedule: Schedules,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; a text file says its own.")] = None,
    model: Model = None,
    checkpoint: File = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks to start here (2); torchrun says its own.")] = None,
    images: Annotated[int, typer.Option(help="Images a rank.")] = 4,
    dtype: Annotated[str, typer.Option(help="float32, float64 or bfloat16.")] = "float32",
    wire: Wire = None,
    link: Link = None,
    seed: Annotated[int, typer.Option(help="Of noise and labels; of weights, where they are random.")] = 0,
    guidance: Guidance = None,
    picture: Picture = None,
    vae: Vae = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a rank waits for another.")] = 60.0,
    save: Annotated[Path | None, typer.Option(help="Write the trace here.")] = None,
    routing: Annotated[Path | None, typer.Option(help="Write experts and scores of every token here (.npz).")] = None,
    profile: Profile = None,
    verify: Verify = False,
) -> None:
    """Run a schedule on real ranks: how long it took, how stale it was.

    Alone it starts its ranks on this machine; under torchrun it is one of them:
    torchrun --nproc-per-node 2 -m realrun interweaved --steps 8"""
    from realrun.run import Settings, check_fit

    chosen = choose(model, checkpoint, guidance)
    refuse_undrawable(chosen.shape, picture, vae)
    _check_outputs(save, routing, profile)
    rate = None if link is None else quantity("link_bytes_per_s", link)
    profiles = None if profile is None else str(profile)
    settings = Settings(seed, dtype, chosen.guidance, link_bytes_per_s=rate, profile=profiles)
    world = _world(ranks)
    workload = Workload(chosen.shape, world, images, wire or dtype)
    plan = load_for(only(sources(schedule)), steps, workload.model)
    check_fit(plan, workload, settings, world)
    made = _run(plan, workload, settings, chosen.weights, timeout)
    if made is None:  # under torchrun the first rank speaks for all
        return
    _tell(made, settings)
    if verify:
        _verify(made, plan, workload, settings, chosen.weights)
    if picture is not None:
        paint(made, chosen.shape, settings, picture, vae)
    if save is not None:
        made.trace.save(save)
    if routing is not None:
        made.routing.save(routing)


def _check_outputs(save: Path | None, routing: Path | None, profile: Path | None) -> None:
    """Raises ValueError or OSError, before long work, for what cannot be written."""
    if save is not None and save == routing:
        raise ValueError(f"{save} is named twice: for the trace and for the routing")
    for path in (save, routing):
        if path is not None:
            refuse_unwritable(path)
    if profile is not None:
        profile.mkdir(parents=True, exist_ok=True)


def _world(ranks: int | None) -> int:
    if "RANK" not in os.environ:
        return 2 if ranks is None else ranks
    if ranks is not None:
        raise ValueError(f"--ranks {ranks} has no effect under torchrun, which started {os.environ['WORLD_SIZE']}")
    return int(os.environ["WORLD_SIZE"])


def _run(
    schedule: Schedule, workload: Workload, settings: Settings, weights: Checkpoint | None, timeout_s: float
) -> Run | None:
    from realrun.rank import rank_from_environment
    from realrun.ranks import Ranks
    from realrun.run import run as run_on
    from realrun.run import run_as_rank

    if "RANK" in os.environ:
        return run_as_rank(rank_from_environment(timeout_s), schedule, workload, settings, weights)
    with Ranks(workload.ranks, timeout_s) as pool:
        return run_on(schedule, workload, pool, settings, weights)


def _tell(made: Run, settings: Settings) -> None:
    from realrun.held import peak_bytes

    trace = made.trace
    ages = trace.staleness
    rate, steps = settings.link_bytes_per_s, " ".join(str(age) for age in ages.max(axis=(1, 2)))
    link = "" if rate is None else f" over links of {readable('_bytes_per_s', rate)}"
    print(f"{trace.schedule.header}: {trace.ranks} ranks{link}, {trace.makespan_s:.3f} s")
    print(f"staleness, measured: mean {ages.mean():.2f}, oldest {ages.max()}; step by step {steps}")
    held = max((peak_bytes(each) for each in made.held), key=lambda peak: sum(peak.values()))
    kept = ", ".join(f"{what} {readable('_bytes', size)}" for what, size in held.items())
    print(f"buffers between ops at most, of the fullest rank: {kept or 'none'}")
    for kind, seconds, share in trace.table():
        print(f"  {kind:22} {seconds:8.3f} s  {share:6.1%}")


def _verify(made: Run, schedule: Schedule, workload: Workload, settings: Settings, weights: Checkpoint | None) -> None:
    from realrun.verify import difference

    furthest, wrong = difference(made, schedule, workload, settings, weights)
    aged = "" if made.trace.ages is None else f"; outputs of another age: {wrong}"
    print(f"largest difference from one process without communication: {furthest:.3g}{aged}")
