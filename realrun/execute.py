"""Runs a schedule on one rank, op by op, in the order of its text.

Every op is a function of the results that `Schedule.inputs` names and of nothing else (but for what a policy
remembers); a result is dropped after its last user.  Compute runs in the calling thread; collectives go to the
transport of their communicator, which has a stream of its own, and are waited for only where their rows are used.
What a rank reports is what happened: when each op began and ended, and how old the added outputs, keys and values were
by the tags that travelled with them.

Suffixes: B images in the forward, T tokens of an image on this rank, N = B * T tokens, D hidden, K slots, W ranks,
X elements of a row on the wire, A heads, G width of a head."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realrun.chains import Arrived, Chains, Computed, Sent, header
from realrun.held import Held, Results
from realrun.lanes import Device, Mark, Processor
from realrun.model import Block, DiTMoE, Modulation
from realrun.patches import band, to_heads, to_rows
from realrun.profile import labelled
from realrun.stand_in import sit_out
from realrun.transport import Pending, Stamps, Transport
from realrun.wire import decode, encode
from sim.schedule import Op, Schedule
from sim.workload import Workload


class Residual(NamedTuple):
    """What P and R hand on of one micro-batch."""

    x_BTD: Tensor
    c_BD: Tensor


class Projected(NamedTuple):
    """What Q makes: the residual so far, the queries, and keys and values as they travel."""

    residual: Residual
    modulation: Modulation
    q_BATG: Tensor
    kv_RX: Tensor  # keys, then values


class Gathered(NamedTuple):
    """Keys and values of all ranks under way, of the layers from `first` on."""

    pending: Pending
    first: int
    layers: int


class Attended(NamedTuple):
    """What A makes for its own R: the residual so far and the gate of the experts' output."""

    x_BTD: Tensor
    c_BD: Tensor
    gate_BD: Tensor


@dataclass
class RankRun:
    """What one rank saw of a run.  Times are seconds of time.monotonic()."""

    staleness: Tensor  # [step, layer, slot] int64, the oldest token's of all micro-batches
    ages: Tensor  # [step, layer, slot, age] int64: how many tokens' outputs were that old
    attention_staleness: Tensor  # [step, layer] int64, the oldest micro-batch's; 0 where attention is local
    final_BCHW: Tensor  # this rank's share
    spans_s: list[tuple[float, float]] = field(default_factory=list)  # [op]: began (collective: was ready), ended
    sent_bytes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # "D3.1" -> [dst] bytes of rows over links
    experts: dict[str, Tensor] = field(default_factory=dict)  # "A3.1" -> [N, K] the experts of every token, best first
    scores: dict[str, Tensor] = field(default_factory=dict)  # "A3.1" -> [N, K] float32, the router's scores
    held: list[Held] = field(default_factory=list)
    velocity: list[Tensor] = field(default_factory=list)  # [step] [2B, C, H, W], before guidance; if asked for


def execute(
    schedule: Schedule,
    model: DiTMoE,
    streams: dict[str, Transport],
    z_BCHW: Tensor,
    y_B: Tensor,
    *,
    guidance: float = 1.5,
    keep_velocity: bool = False,
    wire: str | None = None,
    timed_row_s: Mapping[str, float] | None = None,
    device: Device | None = None,
) -> RankRun:
    """Samples from noise z [B, C, H, W] and labels y [B] by rectified flow: Euler steps z <- z - v / steps.

    Images are this rank's own; with sharded patches they are all ranks' images, of which it keeps its share.  Both
    guidance halves go through the network in one forward, [conditional ; unconditional].  streams: a transport for
    each of the schedule's communicators.  wire: how rows travel, a key of sim.workload.WIRES; None: as they are.
    timed_row_s [kind]: seconds that ops of a kind sit out for each row (realrun/stand_in.py).  device: whose moments
    are noted; None: the processor's.

    All ranks must call this with the same schedule.  Raises TransferError, which names op and rank, if a peer fails."""
    with torch.inference_mode():
        wire = wire or str(z_BCHW.dtype).removeprefix("torch.")
        executor = _Executor(schedule.check(), model, streams, z_BCHW, y_B, guidance, keep_velocity, wire)
        return executor.run(timed_row_s or {}, device or Processor())


class _Executor:
    """State of one run on one rank: the image so far, and the results that a later op will use."""

    def __init__(self, schedule: Schedule, model: DiTMoE, streams: dict[str, Transport], z: Tensor, y: Tensor,
                 guidance: float, keep_velocity: bool, wire: str) -> None:  # fmt: skip
        self.schedule, self.model, self.streams, self.wire = schedule, model, streams, wire
        self.guidance, self.keep_velocity = guidance, keep_velocity
        transport, sharded = next(iter(streams.values())), schedule.sharded_patches
        self.rank, self.world = transport.rank, transport.world
        self.z_BCHW = band(z, self.rank, self.world) if sharded else z
        self.first_token = self.rank * (model.shape.tokens // self.world) if sharded else 0
        self.y_2B = torch.cat([y, torch.full_like(y, model.shape.classes)])
        self.results = Results(schedule)
        mine = Workload(model.shape, self.world, len(z) // (self.world if sharded else 1))
        numbers = torch.from_numpy(mine.token_numbers(schedule, self.rank)).to(z.device)
        tokens = numbers.chunk(schedule.micro_batches)
        token_N = dict(zip(schedule.parts, tokens, strict=True))
        self.aged: list[tuple[Op, Tensor]] = []  # an R, and how old what it added was [slot, token]
        self.chains = Chains(schedule, model, streams, token_N, self.results, wire)
        ages = torch.zeros((schedule.steps, schedule.layers, schedule.top_k, schedule.steps), dtype=torch.int64)
        self.report = RankRun(ages[..., 0] - 1, ages, ages[:, :, 0, 0].clone(), self.z_BCHW)

    def run(self, timed_row_s: Mapping[str, float], device: Device) -> RankRun:
        transfers: dict[int, Stamps] = {}
        spans: list[tuple[Mark, Mark]] = []
        report, results = self.report, self.results
        device.align()
        self._meet()
        for i, op in enumerate(self.schedule.ops):
            results.at = i
            if op.stream == "compute":
                self._wait_for_inputs(op)
            began, began_s = device.here(), time.monotonic()
            with nullcontext() if op.collective else labelled(op.name):  # a transfer's is on the thread that runs it
                made = self._do(op)
                sit_out(op, made, began_s, timed_row_s)
            spans.append((began, device.here()))
            if isinstance(made, Sent | Gathered):
                transfers[i] = made.pending.stamps
                if op.blocks:
                    made.pending.wait()
            results.keep(op.name, made)
            results.drop()
        self._meet()
        device.finish()
        report.spans_s = [(began.at_s(), ended.at_s()) for began, ended in spans]
        for i, stamps in transfers.items():
            report.spans_s[i] = stamps.reached_s, stamps.end_s
            report.sent_bytes[self.schedule.ops[i].name] = stamps.sent_bytes
        report.held = results.held()
        self._report()
        return report

    def _do(self, op: Op) -> Any:
        try:
            return _DO[op.kind](self, op)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"{op.name}: {error}") from error

    def _report(self) -> None:
        """Brings to the host what the device has of the report."""
        report = self.report
        report.final_BCHW, report.velocity = self.z_BCHW.cpu(), [v.cpu() for v in report.velocity]
        report.experts = {name: chosen.cpu() for name, chosen in report.experts.items()}
        report.scores = {name: scores.cpu() for name, scores in report.scores.items()}
        for op, age_KN in self.aged:
            for slot, ages in enumerate(report.ages[op.step, op.layer]):
                ages += age_KN[slot].cpu().bincount(minlength=len(ages))
            oldest = report.staleness[op.step, op.layer]
            torch.maximum(oldest, age_KN.cpu().amax(dim=1), out=oldest)

    def _meet(self) -> None:
        for transport in self.streams.values():
            transport.barrier()

    def _wait_for_inputs(self, op: Op) -> None:
        for name in self.schedule.inputs(op):
            if name[0] in "KDC" and isinstance(made := self.results[name], Sent | Gathered):
                made.pending.wait()

    # One method a kind of op: its result, which is kept under the op's name.

    def _embed(self, op: Op) -> dict[str, Residual]:
        t = (self.schedule.steps - op.step) / self.schedule.steps
        x_BTD, c_BD = self.model.embed(self.z_BCHW.repeat(2, 1, 1, 1), t, self.y_2B, self.first_token)
        parts = self.schedule.parts
        chunks = zip(parts, x_BTD.chunk(len(parts)), c_BD.chunk(len(parts)), strict=True)
        return {part: Residual(x, c) for part, x, c in chunks}

    def _project(self, op: Op) -> Projected:
        residual, block = self._before(op), self._block(op)
        modulation = block.modulation(residual.c_BD)
        q_BATG, k_BATG, v_BATG = block.project(residual.x_BTD, modulation)
        return Projected(residual, modulation, q_BATG, encode(to_rows(k_BATG, v_BATG), self.wire))

    def _gather(self, op: Op) -> Gathered:
        assert op.layer is not None
        layers = self.schedule.layers_of(op)
        rows_RX = torch.cat([self.results[name].kv_RX for name in self.schedule.inputs(op)])
        counts_W1 = torch.full((self.world, 1), len(rows_RX))
        pending = self.streams[op.stream].gather(op.name, rows_RX, header(self.chains.tag(op), counts_W1))
        self.results.note("keys and values", op.name, pending.stamps)
        return Gathered(pending, op.layer, len(layers))

    def _attend(self, op: Op) -> Attended:
        block = self._block(op)
        if self.schedule.sharded_patches:
            projected: Projected = self.results[f"Q{op.step}.{op.layer}{op.part}"]
            residual = projected.residual
            qkv = (projected.q_BATG, *self._keys_and_values(op, projected.kv_RX, len(residual.c_BD)))
            x_BTD, h_BTD, gate_BD = block.finish(residual.x_BTD, projected.modulation, qkv)
        else:
            residual = self._before(op)
            x_BTD, h_BTD, gate_BD = block.attend(*residual)
        h_ND = h_BTD.flatten(0, 1)
        idx_NK, weight_NK = block.moe.route(h_ND)
        self.report.experts[op.name] = idx_NK
        self.report.scores[op.name] = weight_NK.float()
        self.results.keep(f"{op.name}/h", h_ND)
        self.chains.route(op, h_ND, idx_NK, weight_NK)
        return Attended(x_BTD, residual.c_BD, gate_BD)

    def _keys_and_values(self, op: Op, own_RX: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """[B, A, S, G] each: this rank's of now, the others' of the step that `op` reads, in the order of the ranks."""
        assert op.layer is not None
        name = next(name for name in self.schedule.inputs(op) if name[0] == "K")
        gathered: Gathered = self.results[name]
        parcel = gathered.pending.wait()
        world, rank = self.world, self.rank
        of_layer_WRX = parcel.rows_RD.view(world, gathered.layers, *own_RX.shape)[:, op.layer - gathered.first]
        by_rank = [own_RX if w == rank else of_layer_WRX[w] for w in range(world)]
        rows_RD = decode(torch.cat(by_rank), self.wire, self.z_BCHW.dtype)
        others = [tag for w, tag in enumerate(parcel.tags.tolist()) if w != rank or world == 1]
        ages = self.report.attention_staleness[op.step]
        ages[op.layer] = max(int(ages[op.layer]), *(op.step - step for step, *_ in others))
        return to_heads(rows_RD.view(world, len(own_RX), -1), images, self.model.shape.heads)

    def _count(self, op: Op) -> Sent:
        return self.chains.count(op)

    def _dispatch(self, op: Op) -> Sent:
        return self.chains.dispatch(op)

    def _share(self, op: Op) -> Tensor:
        shared_ND: Tensor = self._block(op).moe.shared_experts(self.results[f"A{op.step}.{op.layer}{op.part}/h"])
        return shared_ND

    def _compute(self, op: Op) -> Computed | Arrived:
        return self.chains.compute(op)

    def _combine(self, op: Op) -> Sent:
        return self.chains.combine(op)

    def _add(self, op: Op) -> Residual:
        assert op.layer is not None
        chain = f"{op.layer}{op.part}"
        own: Attended = self.results[f"A{op.step}.{chain}"]
        weight_NK = self.results[f"A{self.schedule.weights_step(op)}.{chain}/weights"]
        total_ND = self.results[f"S{op.step}.{chain}"]
        out_KND, age_KN = self.chains.outputs(op, len(total_ND))
        self.aged.append((op, age_KN))  # counted at the end: a look at them here would make a GPU's host wait
        for slot, out_ND in enumerate(out_KND):
            total_ND = torch.addcmul(total_ND, out_ND, weight_NK[:, slot, None])
        return Residual(own.x_BTD + own.gate_BD[:, None] * total_ND.view_as(own.x_BTD), own.c_BD)

    def _final(self, op: Op) -> Tensor:
        parts = (self.results[name] for name in self.schedule.inputs(op))
        x_BTD, c_BD = (torch.cat(halves) for halves in zip(*parts, strict=True))
        return self.model.final(x_BTD, c_BD)

    def _solve(self, op: Op) -> None:
        v_2BCHW: Tensor = self.results[f"F{op.step}"]
        if self.keep_velocity:
            self.report.velocity.append(v_2BCHW)
        v_BCHW, free_BCHW = v_2BCHW.chunk(2)
        self.z_BCHW = self.z_BCHW - torch.lerp(free_BCHW, v_BCHW, self.guidance) / self.schedule.steps

    # What the methods above share.

    def _block(self, op: Op) -> Block:
        assert op.layer is not None
        return self.model.block(op.layer)

    def _before(self, op: Op) -> Residual:
        """The residual that the first op of a layer (A, or Q) begins with."""
        (name,) = self.schedule.inputs(op)
        before = self.results[name]
        residual: Residual = before if op.layer else before[op.part]
        return residual


_DO: dict[str, Callable[[_Executor, Op], Any]] = {
    "P": _Executor._embed,
    "Q": _Executor._project,
    "K": _Executor._gather,
    "A": _Executor._attend,
    "N": _Executor._count,
    "D": _Executor._dispatch,
    "S": _Executor._share,
    "E": _Executor._compute,
    "C": _Executor._combine,
    "R": _Executor._add,
    "F": _Executor._final,
    "Z": _Executor._solve,
}
