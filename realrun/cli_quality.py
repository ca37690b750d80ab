"""`python -m realrun quality | emulate`: what schedules cost in images, beside what they save in time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realrun.cli_weights import File, Guidance, Picture, Vae, choose, refuse_undrawable
from realrun.progress import progress
from sim.load import load_for, sources
from sim.output import refuse_unwritable, whole_file
from sim.workload import MODELS, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from realrun.cli_weights import Chosen
    from realrun.latency import Clock
    from realrun.quality import Judge, Judged, Quality, Question

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SCHEDULE [SETTING=VALUE]...",
        help="Names, text files, or FILE.py:FUNCTION, and their settings; `python -m sim schedules` lists them.",
    ),
]
Steps = Annotated[int, typer.Option(help="Sampling steps.")]
Seeds = Annotated[int, typer.Option(help="Seeds of noise and labels: intervals are over them.")]
Model = Annotated[str | None, typer.Option(help=f"One of {', '.join(MODELS)}; digits, or the checkpoint's, without.")]
Fine = Annotated[int, typer.Option(help="Synchronous steps that stand for infinitely many.")]
ClusterName = Annotated[str, typer.Option("--cluster", help="The machine whose seconds are simulated.")]
Wire = Annotated[str | None, typer.Option(help="How rows travel, as int8; as they are without.")]
Jobs = Annotated[int, typer.Option(help="Processes that make images, a core each.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write everything, with the values of all seeds.")]
Npz = Annotated[
    Path | None,
    typer.Option("--npz", help="Write samples there for other evaluators, an .npz a schedule (ADM's format)."),
]


@dataclass(frozen=True)
class Outputs:
    """What is to be written."""

    json: Path | None
    picture: Path | None
    npz: Path | None
    vae: Path | None

    def check(self, chosen: Chosen) -> None:
        """Raises ValueError or OSError, before long work, for what cannot be."""
        if self.json is not None:
            refuse_unwritable(self.json)
        if self.npz is not None and not self.npz.is_dir():
            raise ValueError(f"--npz {self.npz} should be a folder that exists")
        pixels = self.picture or (None if self.npz is None else self.npz / "samples.png")
        refuse_undrawable(chosen.shape, pixels, self.vae)


def quality(
    schedules: Sources,
    steps: Steps = 20,
    seeds: Seeds = 5,
    images: Annotated[int, typer.Option(help="Images a seed, of all ranks together.")] = 400,
    ranks: Annotated[int, typer.Option(help="Ranks that share them.")] = 8,
    model: Model = None,
    checkpoint: File = None,
    guidance: Guidance = None,
    wire: Wire = None,
    fine: Fine = 100,
    cluster: ClusterName = "8x-rtx4090",
    timed: Annotated[str, typer.Option(help="The model whose seconds are simulated.")] = "XL",
    timed_images: Annotated[int, typer.Option(help="Its images a rank.")] = 16,
    jobs: Jobs = 2,
    json: Json = None,
    picture: Picture = None,
    npz: Npz = None,
    vae: Vae = None,
) -> None:
    """Judge schedules by their images: to a classifier, and beside synchronous images of the same noise.

    Beside every schedule that the simulation finds faster than the synchronous one stands the synchronous one with as
    many steps as its time pays for."""
    from realrun.latency import Clock
    from realrun.quality import Question

    chosen, outputs = _chosen(model, checkpoint, guidance), Outputs(json, picture, npz, vae)
    outputs.check(chosen)
    question = Question(steps, tuple(range(seeds)), images, _shares(ranks, images, wire), chosen.guidance, fine)
    clock = Clock.of(cluster, timed, timed_images, wire=wire)
    _judge(sources(schedules), chosen, question, clock, jobs, outputs)


def emulate(
    schedules: Sources,
    cluster: ClusterName,
    steps: Steps = 20,
    seeds: Seeds = 5,
    images: Annotated[int, typer.Option(help="Images on each rank, of a seed.")] = 16,
    ranks: Annotated[int | None, typer.Option(help="Ranks; as many as the machine has without.")] = None,
    model: Model = None,
    checkpoint: File = None,
    guidance: Guidance = None,
    wire: Wire = None,
    fine: Fine = 100,
    jobs: Jobs = 2,
    json: Json = None,
    picture: Picture = None,
    npz: Npz = None,
    vae: Vae = None,
) -> None:
    """Emulate a machine that one lacks: exact images of its ranks, computed here, and its seconds, simulated."""
    from realrun.latency import Clock
    from realrun.quality import Question

    chosen, outputs = _chosen(model, checkpoint, guidance), Outputs(json, picture, npz, vae)
    outputs.check(chosen)
    clock = Clock.of(cluster, chosen.shape, images, ranks, wire)
    world = clock.workload.ranks
    question = Question(
        steps, tuple(range(seeds)), world * images, _shares(world, world * images, wire), chosen.guidance, fine
    )
    _judge(sources(schedules), chosen, question, clock, jobs, outputs)


# ------------------------------------------------------------------------------------------------ what both do


def _chosen(model: str | None, checkpoint: Path | None, guidance: float | None) -> Chosen:
    return choose(model if model or checkpoint else "digits", checkpoint, guidance)


def _shares(ranks: int, images: int, wire: str | None) -> Any:
    from realrun.exact import Shares

    if ranks < 1 or images % ranks:
        raise ValueError(f"{images} images cannot be shared out evenly over {ranks} ranks")
    return Shares(ranks, images // ranks, wire)


def _judge(named: Sequence[str], chosen: Chosen, question: Question, clock: Clock, jobs: int, outputs: Outputs) -> None:
    """Judges them and their rivals of equal latency; prints and writes what came out."""
    from realrun.makers import makers
    from realrun.quality import Judge, classifier_of, images_to_make

    asked = [("sync", question.steps), *((source, question.steps) for source in named if source != "sync")]
    _check(asked, chosen, question)
    plans = [*((source, steps, source) for source, steps in asked), *_as_long(asked[1:], clock)]
    with (
        progress("images", images_to_make(question, len(plans) - 1)) as tell,
        makers(chosen.shape, chosen.weights, jobs) as make,
    ):
        judge = Judge(make, question, classifier_of(chosen.shape.name), tell)
        judged = [judge(judge.schedule(source, steps), name) for source, steps, name in plans]
    seconds = [clock.seconds(source, steps) for source, steps, _ in plans]
    print(*table([each.quality for each in judged], seconds), sep="\n")
    timed = f"{clock.workload.model.name}, {clock.workload.images} images on each rank of {clock.cluster.name}"
    print(f"seconds: {timed}, simulated; distances: relative, root mean square; intervals: 95 % over seeds")
    _write(judged, seconds, judge, clock, outputs)


def _as_long(asked: Sequence[tuple[str, int]], clock: Clock) -> list[tuple[str, int, str]]:
    """(schedule, steps, name): synchronous, with as many steps as the time of each of `asked` pays for; each once."""
    paid: dict[int, list[str]] = {}
    for source, steps in asked:
        if few := clock.as_long_as(source, steps):
            paid.setdefault(few, []).append(source)
    return [("sync", few, f"sync, as long as {', '.join(paid[few])}") for few in sorted(paid, reverse=True)]


def _check(asked: Sequence[tuple[str, int]], chosen: Chosen, question: Question) -> None:
    """Raises ValueError if a schedule does not fit the ranks that share the images."""
    shape, shares = chosen.shape, question.shares
    if shares.wire in ("float32", "float64"):
        raise ValueError(f"wire: float32 rows gain nothing from travelling as {shares.wire}")
    workload = Workload(shape, shares.ranks, shares.images, shares.wire or "float32")
    for source, steps in asked:
        workload.fits(replace(load_for(source, steps, shape), policy=None))


def table(found: Sequence[Quality], seconds: Sequence[float]) -> list[str]:
    """Lines: a schedule each, means over seeds and half widths of their 95 % intervals."""
    head = ["schedule", "steps", "seconds", "faster", "age", "distance", "to fine", "Frechet", "right class"]
    lines = [
        [
            one.name, f"{one.steps}", f"{s:.3g}", f"{seconds[0] / s:.2f}", f"{one.mean_age:.2f}",
            _told(one.distance, 4), _told(one.fine, 4), _told(one.frechet, 2), _told(one.accuracy, 3),
        ]
        for one, s in zip(found, seconds, strict=True)
    ]  # fmt: skip
    wide = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, wide, strict=True)).rstrip() for line in [head, *lines]]


def _told(values: list[float] | None, digits: int) -> str:
    from realrun.intervals import interval

    if values is None:
        return "-"
    mean, low, high = interval(values)
    width = f" +-{(high - low) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{width}"


def _write(judged: Sequence[Judged], seconds: Sequence[float], judge: Judge, clock: Clock, outputs: Outputs) -> None:
    """Writes what was asked for."""
    import torch

    from realrun.adm import save_samples
    from realrun.gallery import draw_gallery
    from realrun.vae import decode

    def pixels(latents: Tensor) -> Tensor:
        return latents if outputs.vae is None else decode(latents, outputs.vae)

    if outputs.json is not None:
        held = {"question": asdict(judge.question), "cluster": clock.cluster.name, "timed": clock.workload.about()}
        rows = [{**one.quality.table(), "seconds": s} for one, s in zip(judged, seconds, strict=True)]
        with whole_file(outputs.json) as beside:
            beside.write_text(json.dumps({**held, "rows": rows}, indent=1) + "\n")
    if outputs.picture is not None:
        shown = {one.quality.name: pixels(one.finals[0][:_SHOWN]) for one in judged}
        labels = [str(label) for label in judge.labels(judge.question.seeds[0])[:_SHOWN].tolist()]
        draw_gallery(shown, labels, outputs.picture)
    for one in judged if outputs.npz is not None else ():
        assert outputs.npz is not None
        save_samples(pixels(torch.cat(one.finals)), outputs.npz / f"{_file_name(one.quality.name)}.npz")


_SHOWN = 16  # images of a schedule in a picture


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "=.-" else "-" for letter in title)
