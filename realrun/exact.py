"""A schedule's exact images for any number of ranks, computed fast by one process: timing never changes numbers.

It computes what realrun/reference.py says that a schedule means, for many images at once: outputs of experts are kept
from the step that made them instead of being made again, each expert runs once a layer on all rows that chose it, and
the images of all ranks share batches.  What decides (policies, micro-batches, bands of patches) does so by a token's
number in the whole run, so that batches do not interact.  tests/test_exact.py holds it against the reference.

Suffixes: B images in the forward (both guidance halves), T tokens of an image, N = B * T tokens, D hidden, K slots,
R rows (pairs of token and slot), E experts, A heads, G width of a head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from realrun.model import Block, DiTMoE
from realrun.wire import round_trip
from sim.policy import Ledger
from sim.schedule import Op, Schedule

Chain = tuple[int, int, str]  # step, layer, micro-batch
_BATCH_TOKENS = 4096  # of both halves: a layer's activations then fit a core's share of the cache


@dataclass(frozen=True)
class Shares:
    """How images are shared out: number i is on rank i // images (with sharded patches: on all `ranks` at once).

    wire: how rows travel, a key of sim.workload.WIRES; None: as they are."""

    ranks: int = 1
    images: int = 1
    wire: str | None = None


class Exact(NamedTuple):
    """What a schedule makes of its images."""

    final_BCHW: Tensor
    ages: Tensor  # [step, layer, slot, age] int64: how many tokens' outputs were that old


class Experts(NamedTuple):
    """The routed experts of one layer, stacked."""

    gate_up_E2ID: Tensor
    down_EDI: Tensor

    @staticmethod
    def of(block: Block) -> Experts:
        """Copies of a block's, by number."""
        state = block.moe.experts.state_dict()
        gate, up, down = (
            torch.stack([state[f"{e}.{name}_proj.weight"] for e in range(len(block.moe.experts))])
            for name in ("gate", "up", "down")
        )
        return Experts(torch.cat([gate, up], dim=1), down)

    def __call__(self, rows_RD: Tensor, counts: Sequence[int]) -> Tensor:
        """[R, D] of rows that are grouped by expert, so many for each."""
        done = []
        for expert, mine_RD in enumerate(torch.split(rows_RD, list(counts))):
            gate_RI, up_RI = F.linear(mine_RD, self.gate_up_E2ID[expert]).chunk(2, dim=1)
            done.append(F.linear(F.silu(gate_RI).mul_(up_RI), self.down_EDI[expert]))
        return torch.cat(done)


def exact_images(
    schedule: Schedule,
    model: DiTMoE,
    numbers: Sequence[int],
    z_BCHW: Tensor,
    y_B: Tensor,
    guidance: float = 1.5,
    shares: Shares = Shares(),  # frozen
    tell: Callable[[int], None] = lambda _: None,
) -> Exact:
    """What `schedule` makes of noise z and labels y of the images with these `numbers`; `model` holds all experts.

    The result is that of `reference` for each rank's images, up to the rounding of another order of sums.  With a
    guidance of 1 the unconditional half has no effect on images; it is then not computed, and not in the ages.  tell:
    is called with how many more images are done."""
    experts = [Experts.of(model.block(layer)) for layer in range(schedule.layers)]
    halves = 1 if guidance == 1 else 2
    size = max(1, _BATCH_TOKENS // (halves * model.shape.tokens))
    finals, ages = [], torch.zeros((), dtype=torch.int64)
    with torch.inference_mode():
        for first in range(0, len(numbers), size):
            mine = slice(first, first + size)
            rows = _Rows.of(torch.tensor(numbers[mine]), halves, model.shape.tokens, schedule, shares)
            batch = _Batch(schedule.check(), model, experts, rows, shares, z_BCHW.dtype)
            finals.append(batch.sample(z_BCHW[mine], y_B[mine], guidance))
            ages = ages + batch.ages
            tell(len(finals[-1]))
    return Exact(torch.cat(finals), ages)


class _Rows(NamedTuple):
    """The rows of a forward, [conditional ; unconditional], grouped by micro-batch."""

    order_B: Tensor  # whose they are
    sizes: list[int]  # [micro-batch]
    token_BT: Tensor  # numbers, as `Workload.token_numbers`

    @staticmethod
    def of(number_I: Tensor, halves: int, tokens: int, schedule: Schedule, shares: Shares) -> _Rows:
        """Those of images with these numbers: a rank's forward (with sharded patches: that of all ranks) is cut into
        equal micro-batches."""
        together = shares.images * (shares.ranks if schedule.sharded_patches else 1)
        place_B = torch.cat([half * together + number_I % together for half in range(halves)])
        first_B = torch.cat([(2 * number_I + half) * tokens for half in range(halves)])
        part_B = place_B * schedule.micro_batches // (2 * together)
        order_B = part_B.argsort(stable=True)
        sizes: list[int] = part_B.bincount(minlength=schedule.micro_batches).tolist()
        return _Rows(order_B, sizes, (first_B[:, None] + torch.arange(tokens))[order_B])


class _Kept(NamedTuple):
    """What later steps read of one chain."""

    weight_NK: Tensor
    out_ND: dict[int, Tensor]  # by slot, of those that travel
    sent_N: dict[int, Tensor]  # by slot, whose do


class _Batch:
    """Some images under a schedule, from noise to the end."""

    def __init__(self, schedule: Schedule, model: DiTMoE, experts: Sequence[Experts], rows: _Rows, shares: Shares,
                 dtype: torch.dtype) -> None:  # fmt: skip
        self.schedule, self.model, self.experts, self.ranks, self.rows = schedule, model, experts, shares.ranks, rows
        plain = shares.wire in (None, str(dtype).removeprefix("torch."))
        self.over_wire: Callable[[Tensor], Tensor] = (
            (lambda rows: rows) if plain else partial(round_trip, wire=str(shares.wire))
        )
        self.attends = {(op.step, op.layer, op.part): op for op in schedule.ops if op.kind == "A"}
        self.adds = {(op.step, op.layer, op.part): op for op in schedule.ops if op.kind == "R"}
        self.left = Counter(chain for op in self.adds.values() for chain in self._used(op))
        self.left.update(chain for op in self.attends.values() for chain in self._used(op))
        self.kept: dict[Chain, _Kept] = {}
        self.gathered: dict[Chain, tuple[Tensor, Tensor]] = {}
        self.ages = torch.zeros(schedule.steps, schedule.layers, schedule.top_k, schedule.steps, dtype=torch.int64)
        self.ledgers = {
            (layer, part): Ledger(schedule.policy, layer, mine_BT.flatten(), schedule.top_k)
            for part, mine_BT in zip(schedule.parts, torch.split(rows.token_BT, rows.sizes), strict=True)
            for layer in range(schedule.layers)
        }

    def sample(self, z_ICHW: Tensor, y_I: Tensor, guidance: float) -> Tensor:
        """[I, C, H, W] after the last step: rectified flow, Euler, as in `reference`."""
        order_B, halves = self.rows.order_B, len(self.rows.order_B) // len(y_I)
        y_B, back_B = torch.cat([y_I, torch.full_like(y_I, self.model.shape.classes)])[order_B], order_B.argsort()
        for step in range(self.schedule.steps):
            v_BCHW = self._velocity(step, z_ICHW.repeat(halves, 1, 1, 1)[order_B], y_B)[back_B]
            v_ICHW, free_ICHW = v_BCHW[: len(y_I)], v_BCHW[-len(y_I) :]
            z_ICHW = z_ICHW - (free_ICHW + guidance * (v_ICHW - free_ICHW)) / self.schedule.steps
        return z_ICHW

    def _velocity(self, step: int, z_BCHW: Tensor, y_B: Tensor) -> Tensor:
        t = (self.schedule.steps - step) / self.schedule.steps
        x_BTD, c_BD = self.model.embed(z_BCHW, t, y_B)
        sizes, done = self.rows.sizes, []
        for part, x, c in zip(self.schedule.parts, *(torch.split(each, sizes) for each in (x_BTD, c_BD)), strict=True):
            for layer in range(self.schedule.layers if len(x) else 0):
                x = self._block((step, layer, part), x, c)
            done.append(x)
        v_BCHW: Tensor = self.model.final(torch.cat(done), c_BD)
        return v_BCHW

    def _block(self, chain: Chain, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
        attend, add, block = self.attends[chain], self.adds[chain], self.model.block(chain[1])
        x_BTD, h_BTD, gate_BD = self._attend(attend, block, x_BTD, c_BD)
        h_ND = h_BTD.flatten(0, 1)
        idx_NK, weight_NK = block.moe.route(h_ND)
        self.kept[chain] = self._run_experts(attend, h_ND, idx_NK, weight_NK)
        total_ND = block.moe.shared_experts(h_ND) + self._routed(add)
        self.left.subtract([*self._used(attend), *self._used(add)])
        for old in {*self._used(attend), *self._used(add), chain}:
            if self.left[old] <= 0:
                self.kept.pop(old, None)
                self.gathered.pop(old, None)
        out_BTD: Tensor = x_BTD + gate_BD[:, None] * total_ND.view_as(x_BTD)
        return out_BTD

    def _used(self, op: Op) -> set[Chain]:
        """The chains that an R reads outputs or router weights of, or an A keys and values."""
        assert op.layer is not None
        if op.kind == "A":
            return {(step, op.layer, op.part) for step in op.reads}
        steps = {self.schedule.weights_step(op), *(s for steps in self.schedule.sources(op) for s in steps)}
        return {(step, op.layer, op.part) for step in steps}

    # --------------------------------------------------------------------------------------- experts

    def _run_experts(self, attend: Op, h_ND: Tensor, idx_NK: Tensor, weight_NK: Tensor) -> _Kept:
        """Outputs of all slots and tokens of this step that a later R may read."""
        assert attend.layer is not None
        head = self.schedule.chain_head(attend)
        if head is None or head.unused:
            return _Kept(weight_NK, {}, {})
        slots = self.schedule.slots_sent(head)
        sent_N = self.ledgers[attend.layer, attend.part].send(attend.step, slots, head.asked, weight_NK)
        going_SN = torch.stack([sent_N[slot] for slot in slots])
        place_R = going_SN.flatten().nonzero().squeeze(1)  # slot * N + token
        order_R = place_R[idx_NK.T[list(slots)].flatten()[place_R].argsort()]
        counts = idx_NK.T[list(slots)][going_SN].bincount(minlength=len(self.experts[attend.layer].down_EDI)).tolist()
        over_wire = self.over_wire if self.schedule.sharded_experts else (lambda rows: rows)
        rows_RD = over_wire(h_ND)[order_R % len(h_ND)]
        out_SND = h_ND.new_empty(len(slots) * len(h_ND), h_ND.shape[1])
        out_SND[order_R] = over_wire(self.experts[attend.layer](rows_RD, counts))
        return _Kept(weight_NK, dict(zip(slots, out_SND.view(len(slots), *h_ND.shape), strict=True)), sent_N)

    def _routed(self, add: Op) -> Tensor:
        """[N, D]: slot by slot and token by token the newest outputs that an R may add, weighed."""
        assert add.layer is not None
        weight_NK = self.kept[self.schedule.weights_step(add), add.layer, add.part].weight_NK
        total_ND: Tensor | None = None
        for slot, steps in enumerate(self.schedule.sources(add)):
            weight_N1 = weight_NK[:, slot, None]
            out_ND = self._newest(add, slot, steps)
            total_ND = weight_N1 * out_ND if total_ND is None else total_ND.addcmul_(weight_N1, out_ND)
        assert total_ND is not None
        return total_ND

    def _newest(self, add: Op, slot: int, steps: Sequence[int]) -> Tensor:
        assert add.layer is not None
        newest, *older = (self.kept[step, add.layer, add.part] for step in steps)
        out_ND, has_N = newest.out_ND[slot], newest.sent_N[slot]
        ages = self.ages[add.step, add.layer, slot]
        ages[add.step - steps[0]] += has_N.sum()
        for step, kept in zip(steps[1:], older, strict=True):
            out_ND = torch.where(has_N[:, None], out_ND, kept.out_ND[slot])
            ages[add.step - step] += (kept.sent_N[slot] & ~has_N).sum()
            has_N = has_N | kept.sent_N[slot]
        assert has_N.all(), f"{add}: some tokens never sent slot {slot}"
        return out_ND

    # ------------------------------------------------------------------------------------- attention

    def _attend(self, op: Op, block: Block, x_BTD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.schedule.sharded_patches:
            return block.attend(x_BTD, c_BD)
        assert op.layer is not None
        modulation, (read,) = block.modulation(c_BD), op.reads
        q_BATG, *kv = block.project(x_BTD, modulation)
        fresh = self._heads_over_wire(kv[0]), self._heads_over_wire(kv[1])
        self.gathered[op.step, op.layer, op.part] = fresh
        stale, width = self.gathered[read, op.layer, op.part], x_BTD.shape[1] // self.ranks
        done = []
        for first in range(0, x_BTD.shape[1], width):
            own = slice(first, first + width)
            k_BATG, v_BATG = (old.clone() for old in stale)
            k_BATG[:, :, own], v_BATG[:, :, own] = fresh[0][:, :, own], fresh[1][:, :, own]
            done.append(block.finish(x_BTD[:, own], modulation, (q_BATG[:, :, own], k_BATG, v_BATG)))
        x_parts, h_parts, gates = zip(*done, strict=True)
        return torch.cat(x_parts, dim=1), torch.cat(h_parts, dim=1), gates[0]

    def _heads_over_wire(self, heads_BATG: Tensor) -> Tensor:
        """Keys or values after the round trip that each token's row takes."""
        rows_BTD = heads_BATG.transpose(1, 2).flatten(2)
        came_ND = self.over_wire(rows_BTD.flatten(0, 1))
        return came_ND.view(*rows_BTD.shape[:2], heads_BATG.shape[1], -1).transpose(1, 2)
