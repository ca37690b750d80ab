"""What a schedule means, computed by one process without communication: the truth that real runs must equal.

Only what A and R say is read (whose keys and values, whose outputs, weighed by whom), and which slots each chain
sends.  Order, streams, ranks, dispatches and combines do not exist here, so nothing of the runner is trusted: what is
shared is the network, the policies and the round trip of the wire.

Suffixes: B images in the forward, T tokens of an image, N = B * T tokens, D hidden, K slots, A heads, G width of a
head, W ranks."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from realrun.model import Block, DiTMoE, MixtureOfExperts
from realrun.wire import round_trip
from sim.policy import Ledger
from sim.schedule import Op, Schedule

Chain = tuple[int, int | None, str]  # step, layer, micro-batch


class Meaning(NamedTuple):
    """What a schedule makes of its images."""

    final_BCHW: Tensor
    velocity: list[Tensor]  # [step] [2B, C, H, W], before guidance
    ages: Tensor  # [step, layer, slot, age] int64: how many tokens' outputs were that old


class Routed(NamedTuple):
    """The experts' input of one layer at one step, where it goes, and for which tokens (slot -> [N]) it does."""

    h_ND: Tensor
    idx_NK: Tensor
    weight_NK: Tensor
    sent_N: dict[int, Tensor]


def reference(
    schedule: Schedule,
    model: DiTMoE,
    z_BCHW: Tensor,
    y_B: Tensor,
    guidance: float = 1.5,
    *,
    ranks: int = 1,
    first_image: int = 0,
    wire: str | None = None,
) -> Meaning:
    """What `schedule` makes of noise z and labels y; `model` holds all experts.

    ranks: among how many each image's tokens are shared out (no effect with whole patches).  first_image: number of
    the first image in the whole run, which random policies read.  wire: as rows travel; None: as they are.
    Rectified flow, Euler: z <- z - v / steps with v = u + guidance (c - u), as DICE's released sampler does."""
    dtype = str(z_BCHW.dtype).removeprefix("torch.")
    network = _Network(schedule.check(), model, ranks, wire or dtype, first_image, len(y_B))
    y_2B, velocities = torch.cat([y_B, torch.full_like(y_B, model.shape.classes)]), []
    with torch.inference_mode():
        for step in range(schedule.steps):
            velocities.append(network.velocity(step, z_BCHW.repeat(2, 1, 1, 1), y_2B))
            v_BCHW, free_BCHW = velocities[-1].chunk(2)
            z_BCHW = z_BCHW - (free_BCHW + guidance * (v_BCHW - free_BCHW)) / schedule.steps
    return Meaning(z_BCHW, velocities, network.ages)


class _Network:
    """The network under a schedule: what it remembers of earlier steps is what later ones will read."""

    def __init__(self, schedule: Schedule, model: DiTMoE, ranks: int, wire: str, first_image: int, images: int) -> None:
        self.schedule, self.model, self.ranks = schedule, model, ranks
        self.over_wire = partial(round_trip, wire=wire)
        self.attends = {(op.step, op.layer, op.part): op for op in schedule.ops if op.kind == "A"}
        self.adds = {(op.step, op.layer, op.part): op for op in schedule.ops if op.kind == "R"}
        self.left = Counter((s, op.layer, op.part) for op in self.adds.values() for s in self._steps_used(op))
        self.left.update((s, op.layer, op.part) for op in self.attends.values() for s in op.reads)
        self.routed: dict[Chain, Routed] = {}
        self.gathered: dict[Chain, tuple[Tensor, Tensor]] = {}
        self.ages = torch.zeros(schedule.steps, schedule.layers, schedule.top_k, schedule.steps, dtype=torch.int64)
        tokens = model.shape.tokens
        token_BT = torch.stack([  # [half, image, token]
            (first_image + torch.arange(images))[:, None] * 2 * tokens + half * tokens + torch.arange(tokens)
            for half in (0, 1)
        ]).flatten(0, 1)  # fmt: skip
        self.ledgers = {
            (layer, part): Ledger(schedule.policy, layer, mine_BT.flatten(), schedule.top_k)
            for part, mine_BT in zip(schedule.parts, token_BT.chunk(schedule.micro_batches), strict=True)
            for layer in range(schedule.layers)
        }

    def velocity(self, step: int, z_2BCHW: Tensor, y_2B: Tensor) -> Tensor:
        """[2B, C, H, W] of one step."""
        t = (self.schedule.steps - step) / self.schedule.steps
        x_BTD, c_BD = self.model.embed(z_2BCHW, t, y_2B)
        chunks = (whole.chunk(self.schedule.micro_batches) for whole in (x_BTD, c_BD))
        halves = []
        for part, x, c in zip(self.schedule.parts, *chunks, strict=True):
            for layer in range(self.schedule.layers):
                x = self._block((step, layer, part), self.model.block(layer), x, c)
            halves.append(x)
        v_2BCHW: Tensor = self.model.final(torch.cat(halves), c_BD)
        return v_2BCHW

    def _block(self, chain: Chain, block: Block, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
        attend, add = self.attends[chain], self.adds[chain]
        x_BTD, h_BTD, gate_BD = self._attend(attend, block, x_BTD, c_BD)
        h_ND = h_BTD.flatten(0, 1)
        idx_NK, weight_NK = block.moe.route(h_ND)
        self.routed[chain] = Routed(h_ND, idx_NK, weight_NK, self._sent(attend, weight_NK))
        total_ND = block.moe.shared_experts(h_ND) + self._routed(add, block.moe)
        used = {*self._steps_used(add), *attend.reads}
        self.left.subtract((step, add.layer, add.part) for step in self._steps_used(add))
        self.left.subtract((step, add.layer, add.part) for step in attend.reads)
        for old in [(step, add.layer, add.part) for step in used] + [chain]:
            if self.left[old] <= 0:
                self.routed.pop(old, None)
                self.gathered.pop(old, None)
        out_BTD: Tensor = x_BTD + gate_BD[:, None] * total_ND.view_as(x_BTD)
        return out_BTD

    def _attend(self, op: Op, block: Block, x_BTD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.schedule.sharded_patches:
            return block.attend(x_BTD, c_BD)
        modulation = block.modulation(c_BD)
        q_BATG, k_BATG, v_BATG = block.project(x_BTD, modulation)
        chain, (read,) = (op.step, op.layer, op.part), op.reads
        fresh = self._heads_over_wire(k_BATG), self._heads_over_wire(v_BATG)
        self.gathered[chain] = fresh
        theirs = self.gathered[read, op.layer, op.part]
        mixed = []
        for rank, q in enumerate(q_BATG.chunk(self.ranks, dim=2)):
            k, v = (
                torch.cat([(new if w == rank else old).chunk(self.ranks, dim=2)[w] for w in range(self.ranks)], dim=2)
                for new, old in zip(fresh, theirs, strict=True)
            )
            rows = slice(rank * q.shape[2], (rank + 1) * q.shape[2])
            mixed.append(block.finish(x_BTD[:, rows], modulation, (q, k, v)))
        x_parts, h_parts, gates = zip(*mixed, strict=True)
        return torch.cat(x_parts, dim=1), torch.cat(h_parts, dim=1), gates[0]

    def _heads_over_wire(self, heads_BATG: Tensor) -> Tensor:
        """Keys or values after the round trip that each token's row takes."""
        rows_BTD = heads_BATG.transpose(1, 2).flatten(2)
        came_ND = self.over_wire(rows_BTD.flatten(0, 1))
        came_BATG: Tensor = came_ND.view(*rows_BTD.shape[:2], heads_BATG.shape[1], -1).transpose(1, 2)
        return came_BATG

    def _sent(self, attend: Op, weight_NK: Tensor) -> dict[int, Tensor]:
        """Slot -> [N]: the tokens whose outputs of this step a later R may read."""
        head = self.schedule.chain_head(attend)
        if head is None or head.unused:
            return {}
        ledger = self.ledgers[attend.layer, attend.part]  # type: ignore[index]
        return ledger.send(attend.step, self.schedule.slots_sent(head), head.asked, weight_NK)

    def _steps_used(self, add: Op) -> set[int]:
        """The steps whose tokens an R uses: for their outputs, or for their router weights."""
        return {self.schedule.weights_step(add), *(s for steps in self.schedule.sources(add) for s in steps)}

    def _routed(self, add: Op, moe: MixtureOfExperts) -> Tensor:
        """Routed outputs [N, D] that an R adds: slot by slot and token by token the newest, weighed."""
        assert add.layer is not None
        weight_NK = self.routed[self.schedule.weights_step(add), add.layer, add.part].weight_NK
        total_ND = torch.zeros(())
        for slot, steps in enumerate(self.schedule.sources(add)):
            lacks_N = torch.ones_like(weight_NK[:, 0], dtype=torch.bool)
            out_ND = torch.zeros(len(weight_NK), self.model.shape.hidden, dtype=weight_NK.dtype)
            for step in steps:  # newest first
                routed = self.routed[step, add.layer, add.part]
                mine_N = routed.sent_N[slot] & lacks_N
                out_ND[mine_N] = self._outputs(moe, routed.h_ND[mine_N], routed.idx_NK[mine_N, slot])
                self.ages[add.step, add.layer, slot, add.step - step] += mine_N.sum()
                lacks_N &= ~mine_N
            assert not lacks_N.any(), f"{add}: some tokens never sent slot {slot}"
            total_ND = total_ND + weight_NK[:, slot, None] * out_ND
        return total_ND

    def _outputs(self, moe: MixtureOfExperts, h_ND: Tensor, expert_N: Tensor) -> Tensor:
        """[N, D]: what each token's expert makes of it; there and back over the wire, if experts are spread."""
        over_wire = self.over_wire if self.schedule.sharded_experts else (lambda rows: rows)
        h_ND, out_ND = over_wire(h_ND), torch.empty_like(h_ND)
        for number, expert in moe.experts.items():
            mine_N = expert_N == int(number)
            out_ND[mine_N] = over_wire(expert(h_ND[mine_N]))
        return out_ND
