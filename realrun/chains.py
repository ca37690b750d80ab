"""A chain: the way of a token's rows through A, D, E and C (or A and E, where all experts are everywhere) to R.

Who travels is decided where the router has spoken, in A; the rows are then packed once and go their way in pieces.
What comes back keeps whose it is and, by the tags that travelled with it, how old.

Suffixes: N tokens, D hidden, X elements of a row on the wire, K slots, R rows, W ranks, E experts of a rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from realrun.held import Results
from realrun.model import DiTMoE
from realrun.rows import Places, lay_out, of_piece, pack, run_experts
from realrun.transport import Parcel, Pending, Stamps, Transport
from realrun.wire import decode, encode
from sim.policy import Ledger
from sim.schedule import Op, Schedule

Tag = tuple[int, int, int]  # step, layer, part


class Packing(NamedTuple):
    """Where the tokens of one A go."""

    tag: Tag
    slots: tuple[int, ...]
    pieces: tuple[Places, ...]


class Arrived(NamedTuple):
    """Expert outputs back on the rank of their tokens."""

    step: int  # of the tokens, by their tags
    rows_RX: Tensor
    places: Places
    slots: tuple[int, ...]

    def only(self, slots: Collection[int]) -> Arrived:
        """A copy with the rows of some slots."""
        mine = self.places.of_slots(slots)
        token_R, slot_R, counts = self.places
        return Arrived(self.step, self.rows_RX[mine], Places(token_R[mine], slot_R[mine], counts), tuple(slots))


class Sent(NamedTuple):
    """A collective under way, and whose rows it carries (of this rank's, there or back)."""

    pending: Pending
    tag: Tag
    places: Places
    slots: tuple[int, ...]

    def arrived(self) -> Arrived:
        """What a combine brought; checks that the tags are those of one chain, and of this one."""
        parcel = self.pending.wait()
        tags = {tuple(tag) for tag in parcel.tags.tolist()}
        assert len(tags) == 1, f"rows of several ops came together: {tags}"
        step, *chain = tags.pop()
        assert chain == [*self.tag[1:]], f"rows of {chain} came, not of {self.tag}"
        return Arrived(step, parcel.rows_RD, self.places, self.slots)

    def only(self, slots: Collection[int]) -> Arrived:
        """What came, of some slots."""
        return self.arrived().only(slots)


class Computed(NamedTuple):
    """Expert outputs on the experts' rank, grouped by the rank that they came from, with the tags they came with."""

    rows_RX: Tensor
    tags_W3: Tensor
    rows_to_W: Tensor
    tag: Tag  # of this rank's own tokens of the chain, as are places and slots
    places: Places
    slots: tuple[int, ...]


@dataclass(frozen=True)
class _Piece:
    """The part of a token count exchange that concerns one of several pieces of the experts."""

    counted: Pending
    piece: int
    pieces: int

    @property
    def stamps(self) -> Stamps:
        return self.counted.stamps

    def wait(self) -> Parcel:
        came = self.counted.wait()
        return Parcel(came.rows_RD, came.counts.chunk(self.pieces, dim=1)[self.piece], came.tags)

    def finish(self) -> None:
        self.counted.finish()


class Chains:
    """The ops N, D, E and C of one run on one rank, and what A and R have to do with them."""

    def __init__(self, schedule: Schedule, model: DiTMoE, streams: dict[str, Transport],
                 token_N: dict[str, Tensor], results: Results, wire: str) -> None:  # fmt: skip
        self.schedule, self.model, self.streams, self.results, self.wire = schedule, model, streams, results, wire
        self.dtype = model.pos_embed.dtype
        if not schedule.sharded_experts:  # no row goes anywhere
            self.wire = str(self.dtype).removeprefix("torch.")
        self._ledger = cache(
            lambda layer, part: Ledger(schedule.policy, layer, token_N[part], schedule.top_k)
        )  # one for each (layer, micro-batch)

    # ------------------------------------------------------------------------------------------- away

    def route(self, op: Op, h_ND: Tensor, idx_NK: Tensor, weight_NK: Tensor) -> None:
        """What an A hands on of its tokens: router weights, and rows packed for those that travel."""
        if self.results.wanted(f"{op.name}/weights"):
            self.results.keep(f"{op.name}/weights", weight_NK)
            self.results.note("router weights", f"{op.name}/weights", weight_NK.nbytes)
        going_N = self._going(op, weight_NK)
        if not self.results.wanted(f"{op.name}/places"):
            return
        sharded, shape = self.schedule.sharded_experts, self.model.shape
        homes = self._world if sharded else 1
        pieces = lay_out(idx_NK, going_N, homes, shape.experts, self.schedule.pieces)
        self.results.keep(f"{op.name}/places", Packing(self.tag(op), tuple(going_N), pieces))
        if self.results.wanted(f"{op.name}/rows"):
            rows = encode(pack(h_ND, pieces), self.wire)
            self.results.keep(f"{op.name}/rows", rows)
            if sharded:
                self.results.note("sent dispatch", f"{op.name}/rows", rows.nbytes)

    def _going(self, op: Op, weight_NK: Tensor) -> Mapping[int, Tensor | None]:
        """Slot -> [N]: the tokens of an A for which it travels; None: all."""
        head, slots = self.schedule.chain_head(op), self.schedule.chain_slots(op)
        if self.schedule.policy is None or head is None:
            return dict.fromkeys(slots)
        ledger = self._ledger(op.layer, op.part)
        return ledger.send(op.step, slots, head.asked, weight_NK, remember=not head.unused)

    def count(self, op: Op) -> Sent:
        """N: how many rows of every piece will come."""
        packing = self._packing(op)
        counts_WE = torch.cat([places.counts_WE for places in packing.pieces], dim=1)
        pending = self.streams[op.stream].counts(op.name, header(packing.tag, counts_WE))
        return Sent(pending, packing.tag, packing.pieces[0], packing.slots)

    def dispatch(self, op: Op) -> Sent:
        """D: the rows of one piece to the ranks of their experts."""
        tag, slots, pieces = self._packing(op)
        piece = op.piece or 0
        rows_RX = of_piece(self.results[f"{_attention(op)}/rows"], pieces, piece)
        counted: Pending | None = None
        for name in self.schedule.inputs(op):
            if name[0] == "N":
                counted = _Piece(self.results[name].pending, piece, len(pieces))
        places = pieces[piece]
        pending = self.streams[op.stream].dispatch(op.name, rows_RX, header(tag, places.counts_WE), counted)
        self.results.note("received dispatch", op.name, pending.stamps)
        return Sent(pending, tag, places, slots)

    # ------------------------------------------------------------------------------------- experts, back

    def compute(self, op: Op) -> Computed | Arrived:
        """E: the experts of one piece, on rows that came from every rank or, of replicated experts, on its own."""
        if not self.schedule.sharded_experts:
            return self._compute_here(op)
        (name,) = self.schedule.inputs(op)
        sent: Sent = self.results[name]
        parcel = sent.pending.wait()
        rows_RD = decode(parcel.rows_RD, self.wire, self.dtype)
        out_RX = encode(self._run_experts(op, rows_RD, parcel.counts), self.wire)
        self.results.note("sent combine", op.name, out_RX.nbytes)
        return Computed(out_RX, parcel.tags, parcel.counts.sum(dim=1), sent.tag, sent.places, sent.slots)

    def _compute_here(self, op: Op) -> Arrived:
        tag, slots, pieces = self._packing(op)
        places = pieces[op.piece or 0]
        rows_RD = of_piece(self.results[f"{_attention(op)}/rows"], pieces, op.piece or 0)
        out_RD = self._run_experts(op, rows_RD, places.counts_WE)
        self._note_slots("expert outputs", op, slots, places, out_RD)
        return Arrived(tag[0], out_RD, places, slots)

    def _run_experts(self, op: Op, rows_RD: Tensor, counts_WE: Tensor) -> Tensor:
        assert op.layer is not None
        held = [*self.model.block(op.layer).moe.experts.values()]
        share = len(held) // self.schedule.pieces
        first = share * (op.piece or 0)
        return run_experts(held[first : first + share], rows_RD, counts_WE)

    def combine(self, op: Op) -> Sent:
        """C: expert outputs back to the ranks of their tokens."""
        (name,) = self.schedule.inputs(op)
        done: Computed = self.results[name]
        head = torch.cat([done.tags_W3, done.rows_to_W[:, None]], dim=1)
        rows_from = done.places.counts_WE.sum(dim=1).tolist()
        self._note_slots("received combine", op, done.slots, done.places, done.rows_RX)
        pending = self.streams[op.stream].combine(op.name, done.rows_RX, head, rows_from)
        return Sent(pending, done.tag, done.places, done.slots)

    def _note_slots(self, what: str, op: Op, slots: Sequence[int], places: Places, like_RX: Tensor) -> None:
        for slot in slots:
            rows = (places.slot_R == slot).sum()  # a GPU's host does not wait for the number
            self.results.note(what, op.name, rows * like_RX.shape[1] * like_RX.element_size(), slot)

    # ------------------------------------------------------------------------------------------ added

    def outputs(self, add: Op, tokens: int) -> tuple[Tensor, Tensor]:
        """(out_KND, age_KN): what an R adds, not yet weighted: token by token the newest that it may read.

        What arrived is put in place oldest first, so that newer rows of the same tokens cover it."""
        sources, top_k = self.schedule.sources(add), self.schedule.top_k
        device = self.model.pos_embed.device
        out_KND = torch.empty(top_k, tokens, self.model.shape.hidden, dtype=self.dtype, device=device)
        age_KN = torch.full((top_k, tokens), -1, dtype=torch.int64, device=device)
        for step in sorted({step for steps in sources for step in steps}):
            slots = [slot for slot, steps in enumerate(sources) if step in steps]
            for name in self.schedule.chain(self.schedule.tail, step, add.layer, add.part):
                result: Sent | Arrived = self.results[name]
                came = result.arrived() if isinstance(result, Sent) else result
                if {*slots} != {*came.slots}:
                    came = came.only(slots)
                token_R, slot_R, _ = came.places
                out_KND[slot_R, token_R] = decode(came.rows_RX, self.wire, self.dtype)
                age_KN[slot_R, token_R] = add.step - came.step
        assert device.type != "cpu" or (age_KN >= 0).all(), f"{add.name}: some tokens have no output"
        return out_KND, age_KN

    # ------------------------------------------------------------------------------------------ shared

    def tag(self, op: Op) -> Tag:
        """What travels with the tokens of `op`."""
        assert op.layer is not None
        return op.step, op.layer, self.schedule.parts.index(op.part)

    def _packing(self, op: Op) -> Packing:
        packing: Packing = self.results[f"{_attention(op)}/places"]
        return packing

    @property
    def _world(self) -> int:
        return next(iter(self.streams.values())).world


def header(tag: Tag, counts_WE: Tensor) -> Tensor:
    """[rank, 3 + experts]: the tag that travels with the rows, and how many rows for each expert."""
    return torch.cat([torch.tensor(tag).expand(len(counts_WE), 3), counts_WE], dim=1)


def _attention(op: Op) -> str:
    """Name of the A whose tokens `op` carries."""
    return f"A{op.step}.{op.layer}{op.part}"
