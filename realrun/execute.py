"""Runs a schedule on one rank, op by op, in the order of its text.

Every op is a function of the results that `Schedule.inputs` names and of nothing else; a result is dropped after its
last user.  Compute runs in the calling thread; collectives go to the transport, which has a stream of its own, and are
waited for only where their rows are used.  What a rank reports is what happened: when each op began and ended, and how
old the added outputs were by the tags that travelled with them.

Suffixes: B images in the forward, T tokens of an image, N = B * T tokens, D hidden, K slots, R rows, W ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from realrun.model import Block, DiTMoE
from realrun.rows import Packed, pack, run_experts, unpack
from realrun.transport import Parcel, Pending, Stamps, Transport
from sim.schedule import Op, Schedule


class Residual(NamedTuple):
    """What P and R hand on of one micro-batch."""

    x_BTD: Tensor
    c_BD: Tensor


class Attended(NamedTuple):
    """What A makes: the residual so far, the experts' input, and where its tokens go."""

    x_BTD: Tensor
    c_BD: Tensor
    gate_BD: Tensor
    h_ND: Tensor
    weight_NK: Tensor
    packed: Packed | None  # None: this step's tokens are not dispatched


class Sent(NamedTuple):
    """A collective under way, and how its rows were packed on this rank."""

    pending: Pending
    packed: Packed


class Computed(NamedTuple):
    """Expert outputs on the experts' rank, grouped by the rank that they came from, with the tags they came with."""

    rows_RD: Tensor
    tags_W3: Tensor
    rows_to_W: Tensor
    packed: Packed


class Weights(NamedTuple):
    """What is left of an A after its own R: the router weights, which a later R may carry."""

    weight_NK: Tensor


@dataclass
class RankRun:
    """What one rank saw of a run.  Times are seconds of time.monotonic()."""

    spans_s: list[tuple[float, float]]  # [op]: began (a collective: this rank was ready for it), ended
    staleness: Tensor  # [step, layer, slot] int64, the oldest micro-batch's
    experts: dict[str, Tensor]  # "A3.1" -> [N, K] int16, the experts of every token, best first
    final_BCHW: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)  # "A3.1" -> [N, K] their router scores; if asked for
    velocity: list[Tensor] = field(default_factory=list)  # [step] [2B, C, H, W], before guidance; if asked for


def execute(
    schedule: Schedule,
    model: DiTMoE,
    transport: Transport,
    z_BCHW: Tensor,
    y_B: Tensor,
    *,
    guidance: float = 1.5,
    keep_velocity: bool = False,
    keep_scores: bool = False,
) -> RankRun:
    """Samples from noise z [B, C, H, W] and labels y [B] by rectified flow: Euler steps z <- z - v / steps.

    Both guidance halves go through the network in one forward, [conditional ; unconditional].  All ranks must call
    this with the same schedule.  Raises TransferError, which names op and rank, if a peer fails."""
    with torch.inference_mode():
        return _Executor(schedule.check(), model, transport, z_BCHW, y_B, guidance, keep_velocity, keep_scores).run()


class _Executor:
    """State of one run on one rank: the image so far, and the results that a later op will use."""

    def __init__(self, schedule: Schedule, model: DiTMoE, transport: Transport, z: Tensor, y: Tensor,
                 guidance: float, keep_velocity: bool, keep_scores: bool) -> None:  # fmt: skip
        self.schedule, self.model, self.transport = schedule, model, transport
        self.z_BCHW, self.guidance = z, guidance
        self.keep_velocity, self.keep_scores = keep_velocity, keep_scores
        self.y_2B = torch.cat([y, torch.full_like(y, model.shape.classes)])
        self.results: dict[str, Any] = {}
        ages = torch.full((schedule.steps, schedule.layers, schedule.top_k), -1, dtype=torch.int64)
        self.report = RankRun([], ages, {}, z)

    def run(self) -> RankRun:
        last_use = {name: i for i, op in enumerate(self.schedule.ops) for name in self.schedule.inputs(op)}
        transfers: dict[int, Stamps] = {}
        spans = self.report.spans_s
        self.transport.barrier()
        for i, op in enumerate(self.schedule.ops):
            inputs = {name: self.results[name] for name in self.schedule.inputs(op)}
            if op.stream == "compute":
                self._wait_for(inputs.values())
            began_s = time.monotonic()
            self.results[op.name] = made = _DO[op.kind](self, op, inputs)
            spans.append((began_s, time.monotonic()))
            if isinstance(made, Sent):
                transfers[i] = made.pending.stamps
                if op.blocks:
                    self._wait_for([made])
            for name in inputs:
                if last_use[name] == i:
                    del self.results[name]
        self.transport.barrier()
        for i, stamps in transfers.items():
            spans[i] = stamps.reached_s, stamps.end_s
        self.report.final_BCHW = self.z_BCHW
        return self.report

    @staticmethod
    def _wait_for(inputs: Iterable[Any]) -> None:
        for sent in inputs:
            if isinstance(sent, Sent):
                sent.pending.wait()

    # One method a kind of op: (op, results of its inputs by name) -> its result.

    def _embed(self, op: Op, inputs: Mapping[str, Any]) -> dict[str, Residual]:
        t = (self.schedule.steps - op.step) / self.schedule.steps
        x_BTD, c_BD = self.model.embed(self.z_BCHW.repeat(2, 1, 1, 1), t, self.y_2B)
        parts = self.schedule.parts
        chunks = zip(parts, x_BTD.chunk(len(parts)), c_BD.chunk(len(parts)), strict=True)
        return {part: Residual(x, c) for part, x, c in chunks}

    def _attend(self, op: Op, inputs: Mapping[str, Any]) -> Attended:
        (before,) = inputs.values()
        residual: Residual = before if op.layer else before[op.part]
        block = self._block(op)
        x_BTD, h_BTD, gate_BD = block.attend(*residual)
        h_ND = h_BTD.flatten(0, 1)
        idx_NK, weight_NK = block.moe.route(h_ND)
        self.report.experts[op.name] = idx_NK.to(torch.int16)
        if self.keep_scores:
            self.report.scores[op.name] = weight_NK.float()
        slots = self.schedule.chain_slots(op)
        packed = pack(h_ND, idx_NK, slots, self.transport.world, self.model.shape.experts) if slots else None
        return Attended(x_BTD, residual.c_BD, gate_BD, h_ND, weight_NK, packed)

    def _count(self, op: Op, inputs: Mapping[str, Any]) -> Sent:
        (attended,) = inputs.values()
        return Sent(self.transport.counts(op.name, self._header(op, attended.packed)), attended.packed)

    def _dispatch(self, op: Op, inputs: Mapping[str, Any]) -> Sent:
        chain = f"{op.step}.{op.layer}{op.part}"
        packed: Packed = inputs[f"A{chain}"].packed
        counted: Sent | None = inputs.get(f"N{chain}")
        header = self._header(op, packed)
        return Sent(self.transport.dispatch(op.name, packed.rows_RD, header, counted and counted.pending), packed)

    def _share(self, op: Op, inputs: Mapping[str, Any]) -> Tensor:
        (attended,) = inputs.values()
        shared_ND: Tensor = self._block(op).moe.shared_experts(attended.h_ND)
        return shared_ND

    def _compute(self, op: Op, inputs: Mapping[str, Any]) -> Computed:
        (sent,) = inputs.values()
        parcel: Parcel = sent.pending.wait()
        rows_RD = run_experts(self._block(op).moe.experts, parcel.rows_RD, parcel.counts)
        return Computed(rows_RD, parcel.tags, parcel.counts.sum(dim=1), sent.packed)

    def _combine(self, op: Op, inputs: Mapping[str, Any]) -> Sent:
        (done,) = inputs.values()
        header = torch.cat([done.tags_W3, done.rows_to_W[:, None]], dim=1)
        rows_from = done.packed.counts_WE.sum(dim=1).tolist()
        return Sent(self.transport.combine(op.name, done.rows_RD, header, rows_from), done.packed)

    def _add(self, op: Op, inputs: Mapping[str, Any]) -> Residual:
        own: Attended = inputs[f"A{op.step}.{op.layer}{op.part}"]
        weights = inputs[f"A{self.schedule.weights_step(op)}.{op.layer}{op.part}"].weight_NK
        outputs = {step: self._returned(op, inputs[f"C{step}.{op.layer}{op.part}"]) for step in set(op.reads)}
        total_ND = inputs[f"S{op.step}.{op.layer}{op.part}"]
        for slot, step in enumerate(self.schedule.steps_read(op)):
            age, by_slot = outputs[step]
            total_ND = torch.addcmul(total_ND, by_slot[slot], weights[:, slot, None])
            self._observe(op, slot, age)
        self.results[f"A{op.step}.{op.layer}{op.part}"] = Weights(own.weight_NK)  # all that a later R may want of it
        return Residual(own.x_BTD + own.gate_BD[:, None] * total_ND.view_as(own.x_BTD), own.c_BD)

    def _final(self, op: Op, inputs: Mapping[str, Any]) -> Tensor:
        x_BTD, c_BD = (torch.cat(halves) for halves in zip(*inputs.values(), strict=True))
        return self.model.final(x_BTD, c_BD)

    def _solve(self, op: Op, inputs: Mapping[str, Any]) -> None:
        (v_2BCHW,) = inputs.values()
        if self.keep_velocity:
            self.report.velocity.append(v_2BCHW)
        v_BCHW, free_BCHW = v_2BCHW.chunk(2)
        self.z_BCHW = self.z_BCHW - torch.lerp(free_BCHW, v_BCHW, self.guidance) / self.schedule.steps

    # What the methods above share.

    def _block(self, op: Op) -> Block:
        assert op.layer is not None
        return self.model.block(op.layer)

    def _header(self, op: Op, packed: Packed) -> Tensor:
        """[rank, 3 + experts a rank]: the tag that travels with the rows, and how many rows for each expert."""
        tag = torch.tensor([op.step, op.layer, self.schedule.parts.index(op.part)])
        return torch.cat([tag.expand(len(packed.counts_WE), 3), packed.counts_WE], dim=1)

    def _returned(self, op: Op, sent: Sent) -> tuple[int, dict[int, Tensor]]:
        """Age by the tags that came with the rows, and the rows by slot."""
        parcel: Parcel = sent.pending.wait()
        tags = {tuple(tag) for tag in parcel.tags.tolist()}
        (step, layer, part), *others = tags
        assert not others, f"{op.name}: rows of several ops came together: {tags}"
        assert (layer, part) == (op.layer, self.schedule.parts.index(op.part)), f"{op.name}: rows of {tags} came"
        return op.step - step, unpack(parcel.rows_RD, sent.packed)

    def _observe(self, op: Op, slot: int, age: int) -> None:
        assert op.layer is not None
        ages = self.report.staleness[op.step, op.layer]
        ages[slot] = max(int(ages[slot]), age)


_DO: dict[str, Callable[[_Executor, Op, Mapping[str, Any]], Any]] = {
    "P": _Executor._embed,
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
