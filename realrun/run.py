"""A schedule and a workload, run on real ranks: images and a Trace out.

`run` prepares the same inputs that any number of ranks would share out, has every rank execute the schedule, and joins
what the ranks saw into one Trace.  It knows nothing of predictions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from realrun.backend import Pool
from realrun.execute import RankRun, execute
from realrun.held import Held
from realrun.model import DiTMoE
from realrun.parameters import Weights, load, random_state
from realrun.profile import profile_path, profiled
from realrun.rank import RankContext
from realrun.stand_in import TIMED, idle
from sim.records import Records
from sim.routing import Routing
from sim.schedule import Op, Schedule
from sim.trace import HOSTS, Trace
from sim.workload import WIRES, ModelShape, Workload

Array = npt.NDArray[np.int64]
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """How to run: seed of noise, labels and random weights; element type; guidance; rate of each link (None: as is).

    timed_row_s {kind: seconds}: instead of computing, ops of these kinds wait so long for each row
    (realrun/stand_in.py); the images are then meaningless.  profile: folder for a torch.profiler trace of each rank
    (realrun/profile.py); None: without a profiler."""

    seed: int = 0
    dtype: str = "float32"
    guidance: float = 1.5
    link_bytes_per_s: float | None = None
    keep_velocity: bool = False
    timed_row_s: Mapping[str, float] | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; known: {', '.join(DTYPES)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} should be 0 to {2**32 - 1}")
        if self.link_bytes_per_s is not None and not 1 <= self.link_bytes_per_s < 2**63:
            raise ValueError(f"link: {self.link_bytes_per_s:g} bytes/s should be at least 1 and finite")
        timed = self.timed_row_s
        if timed is not None and (sorted(timed) != sorted(TIMED) or not all(0 < s < 1 for s in timed.values())):
            raise ValueError(f"timed_row_s={dict(timed)} should have seconds, below 1, for each of {', '.join(TIMED)}")


@dataclass(frozen=True, eq=False)
class Run:
    """What real ranks made of a schedule."""

    trace: Trace
    final: Tensor  # [rank, image, C, H, W] latents; with sharded patches: of as many images, each made by all ranks
    velocity: Tensor | None  # [rank, step, 2 x image, C, H, W], conditional half first; None unless kept
    routing: Routing  # what the router chose for every token, as a simulation's workload reads it
    sent_bytes: Array  # [op, src, dst] of rows over links; headers not counted
    held: list[list[Held]]  # [rank] the buffers that waited between ops


def run(
    schedule: Schedule,
    workload: Workload,
    ranks: Pool,
    settings: Settings = Settings(),  # frozen
    weights: Weights | None = None,
) -> Run:
    """Runs `schedule` on `ranks`; random weights unless some are given: a checkpoint, of which each rank reads its
    own, or a state by names.

    Raises ValueError if schedule, workload and ranks do not fit each other, RanksFailed if a rank failed."""
    check_fit(schedule, workload, settings, ranks.world)
    reports = ranks.call(execute_rank, schedule, workload, settings, weights)
    return join(schedule, workload, settings, reports)


def run_as_rank(
    context: RankContext,
    schedule: Schedule,
    workload: Workload,
    settings: Settings = Settings(),  # frozen
    weights: Weights | None = None,
) -> Run | None:
    """The same on ranks that torchrun started, each of which calls this; the Run is rank 0's, the others get None."""
    check_fit(schedule, workload, settings, context.world)
    mine = execute_rank(context, schedule, workload, settings, weights)
    reports: list[RankRun] | None = [mine] * context.world if context.rank == 0 else None
    dist.gather_object(mine, reports, group=context.group)
    return None if reports is None else join(schedule, workload, settings, reports)


def check_fit(schedule: Schedule, workload: Workload, settings: Settings, world: int) -> None:
    """Raises ValueError that says which two things do not fit each other."""
    workload.fits(replace(schedule.check(), policy=None))  # whom a policy picks, the run itself will find out
    wire, size = workload.wire, DTYPES[settings.dtype].itemsize
    if WIRES[wire].element_bytes > size:
        raise ValueError(f"wire: {settings.dtype} rows gain nothing from travelling as {wire}")
    if wire != settings.dtype and not any(op.kind in "KDC" for op in schedule.ops):
        raise ValueError(f"wire: {wire} has no effect on {schedule.name}: no rows travel")
    if workload.ranks != world:
        raise ValueError(f"the workload is for {workload.ranks} ranks, but {world} are running")
    if settings.link_bytes_per_s is not None and world == 1:
        raise ValueError(f"link: {settings.link_bytes_per_s:g} bytes/s has no effect on 1 rank")
    for what, given in [("mesh", workload.mesh), ("placement", workload.placement)]:
        if given is not None:
            raise ValueError(f"{what}: real ranks are one group, with expert e on rank e mod {world}; leave it out")
    for what, said in [("dtype", workload.dtype), ("grouped", workload.grouped)]:
        if said:
            raise ValueError(f"workload: {what}={said} has no effect on real ranks, which compute in settings.dtype")
    if not workload.guidance:
        raise ValueError("guidance=False: real runs always compute both halves")
    if workload.routing is not None:
        raise ValueError(f"a real run routes by its own router: routing {workload.routing.source} has no effect")


def inputs(shape: ModelShape, images: range, settings: Settings) -> tuple[Tensor, Tensor]:
    """Noise [image, C, H, W] and labels [image] of the images with these numbers, whichever rank works on them."""
    generators = [torch.Generator().manual_seed(settings.seed * 1_000_003 + image) for image in images]
    size = (shape.channels, shape.latent, shape.latent)
    noise = torch.stack([torch.randn(size, generator=g, dtype=torch.float64) for g in generators])
    labels = torch.stack([torch.randint(shape.classes, (), generator=g) for g in generators])
    return noise.to(DTYPES[settings.dtype]), labels


def build_model(
    shape: ModelShape,
    local_experts: range,
    settings: Settings,
    weights: Weights | None = None,
    device: torch.device | str = "cpu",
) -> DiTMoE:
    """The part of the model that holds `local_experts`, with `weights` or random ones."""
    model = DiTMoE(shape, local_experts, DTYPES[settings.dtype])
    load(model, random_state(shape, settings.seed, local_experts) if weights is None else weights, device)
    return model


def prepare(
    context: RankContext,
    schedule: Schedule,
    workload: Workload,
    settings: Settings,
    weights: Weights | None = None,
) -> tuple[DiTMoE, Tensor, Tensor]:
    """What a rank works with: its part of the model, and noise and labels of its images (sharded patches: of all)."""
    shape, images = workload.model, workload.images
    held = range(context.rank, shape.experts, context.world) if schedule.sharded_experts else range(shape.experts)
    mine = range(context.rank * images, (context.rank + 1) * images)
    numbers = range(context.world * images) if schedule.sharded_patches else mine
    model = _kept_model(context, shape, held, settings, weights)
    noise, labels = (tensor.to(context.device) for tensor in inputs(shape, numbers, settings))
    return model, noise, labels


def _kept_model(
    context: RankContext, shape: ModelShape, held: range, settings: Settings, weights: Weights | None
) -> DiTMoE:
    """The model of the call before, if this one wants the same: random weights of DiT-MoE-XL take half a minute."""
    if weights is not None:
        return _idle_or_not(build_model(shape, held, settings, weights, context.device), settings)
    key = shape, held, settings.seed, settings.dtype, bool(settings.timed_row_s)
    if key not in context.kept:
        context.kept.clear()  # two may be more than there is memory
        context.kept[key] = _idle_or_not(build_model(shape, held, settings, None, context.device), settings)
    model: DiTMoE = context.kept[key]
    return model


def _idle_or_not(model: DiTMoE, settings: Settings) -> DiTMoE:
    return idle(model) if settings.timed_row_s else model


def execute_rank(
    context: RankContext,
    schedule: Schedule,
    workload: Workload,
    settings: Settings,
    weights: Weights | None,
) -> RankRun:
    """What one rank does of `run`: builds its part of the model, throttles its links, executes the schedule."""
    model, noise, labels = prepare(context, schedule, workload, settings, weights)
    profile = None if settings.profile is None else profile_path(settings.profile, context.rank)
    with context.backend.open_streams(context, schedule.streams) as streams:
        context.backend.throttle(context, settings.link_bytes_per_s)
        run_once = partial(
            execute, schedule, model, streams, noise, labels,
            guidance=settings.guidance, keep_velocity=settings.keep_velocity, wire=workload.wire,
            timed_row_s=settings.timed_row_s, device=context.lanes,
        )  # fmt: skip
        if context.device.type == "cuda":
            run_once()  # loads kernels, and takes the memory that the run will need: a GPU waits for both
        with profiled(profile) as about:
            report = run_once()
            about |= _of_run(context, schedule, {**workload.about(), **_about(settings)}, report)
        return report


def _of_run(context: RankContext, schedule: Schedule, about: dict[str, str], report: RankRun) -> dict[str, Any]:
    """What a rank's profile says of its run, for sim/kineto.py."""
    ages = {key: getattr(report, key).tolist() for key in ("staleness", "ages", "attention_staleness")}
    return {"schedule": str(schedule), "rank": context.rank, "world": context.world, "about": about, **ages}


def join(schedule: Schedule, workload: Workload, settings: Settings, reports: list[RankRun]) -> Run:
    """One Trace of what all ranks saw; a collective starts when the last rank has reached it.

    The ranks' clocks must be one clock (time.monotonic of one machine)."""
    spans = np.array([report.spans_s for report in reports])  # [rank, op, 2]
    spans -= spans.min()
    reached, end = spans[:, :, 0], spans[:, :, 1]
    talks = np.array(schedule.on_communication)
    start = np.where(talks, reached.max(axis=0), reached)
    oldest = np.max([report.staleness.numpy() for report in reports], axis=0)
    gathered = np.max([report.attention_staleness.numpy() for report in reports], axis=0)
    ages = np.sum([report.ages.numpy() for report in reports], axis=0)
    trace = Trace(
        schedule, "measured", reached, start, end, oldest, {**workload.about(), **_about(settings)},
        ages=ages if schedule.policy else None, attention_staleness=gathered if schedule.sharded_patches else None,
    )  # fmt: skip
    sent = [[report.sent_bytes.get(op.name) or (0,) * len(reports) for report in reports] for op in schedule.ops]
    return Run(
        trace, *_images(schedule, settings, reports), routing_of(schedule, workload, reports),
        np.array(sent, dtype=np.int64), [report.held for report in reports],
    )  # fmt: skip


def _images(schedule: Schedule, settings: Settings, reports: list[RankRun]) -> tuple[Tensor, Tensor | None]:
    """final and velocity of a Run; the ranks' bands are put together where each image is made by all ranks."""
    final = torch.stack([report.final_BCHW for report in reports])
    velocity = torch.stack([torch.stack(r.velocity) for r in reports]) if settings.keep_velocity else None
    if not schedule.sharded_patches:
        return final, velocity
    world = len(reports)
    final = torch.cat([*final], dim=2)
    final = final.view(world, -1, *final.shape[1:])
    if velocity is None:
        return final, None
    whole = torch.cat([*velocity], dim=3)
    by_image = whole.view(len(whole), 2, world, -1, *whole.shape[2:])  # [step, half, rank, image, C, H, W]
    return final, by_image.permute(2, 0, 1, 3, 4, 5, 6).flatten(2, 3)


def _about(settings: Settings) -> dict[str, str]:
    link = "as it is" if settings.link_bytes_per_s is None else f"{settings.link_bytes_per_s:g} bytes/s a pair"
    return {
        "machine": platform.processor() or platform.machine(),
        "host": HOSTS[True],  # gloo: on processors
        "torch": torch.__version__,
        "dtype": settings.dtype,
        "seed": str(settings.seed),
        "link": link,
        **({"compute": "timed"} if settings.timed_row_s else {}),
    }


def routing_of(schedule: Schedule, workload: Workload, reports: list[RankRun]) -> Routing:
    """What the router chose for every token, and its scores."""

    def recorded(chosen: Callable[[RankRun], Mapping[str, Tensor]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """[step, layer, src, token, slot]"""
        layers = [
            [
                [torch.cat([chosen(r)[Op("A", step, layer, part).name] for part in schedule.parts]) for r in reports]
                for layer in range(schedule.layers)
            ]
            for step in range(schedule.steps)
        ]
        return np.array([[[tokens.numpy() for tokens in ranks] for ranks in step] for step in layers], dtype=dtype)

    experts, scores = recorded(lambda r: r.experts, np.int16), recorded(lambda r: r.scores, np.float32)
    return Routing.of(Records(experts, scores, workload.model.experts, workload.tokens), schedule.micro_batches)
