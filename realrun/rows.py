"""Tokens to rows and back: how the tokens of a rank are laid out for dispatch, computed by experts, and put in place.

Pure functions of tensors; they know nothing of steps, streams and transfers.

Suffixes: N tokens, D hidden width, K top-k slots, R rows (pairs of token and slot), W ranks, E experts of a rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Packed(NamedTuple):
    """Rows ready to be sent, grouped by the rank of their expert, then by expert."""

    rows_RD: Tensor
    order_R: Tensor  # row r is pair order_R[r] = token * len(slots) + index of its slot in `slots`
    slots: tuple[int, ...]
    counts_WE: Tensor  # int64: rows for each expert of each rank


def pack(h_ND: Tensor, idx_NK: Tensor, slots: tuple[int, ...], ranks: int, experts: int) -> Packed:
    """Lays out the (token, slot) pairs of `slots` for their experts; expert e lives on rank e mod `ranks`."""
    expert_R = idx_NK[:, list(slots)].flatten()
    place_R = expert_R % ranks * (experts // ranks) + expert_R // ranks
    order_R = place_R.argsort(stable=True)
    counts = torch.bincount(place_R, minlength=experts)
    return Packed(h_ND[order_R // len(slots)], order_R, slots, counts.view(ranks, -1))


def run_experts(experts: nn.ModuleDict, rows_RD: Tensor, counts_WE: Tensor) -> Tensor:
    """Outputs of rows that came from every rank, in the order in which they came.

    counts_WE says how many rows of each source are for each of the local `experts`, in their order."""
    groups = torch.split(rows_RD, counts_WE.flatten().tolist())  # by source, then by expert
    outputs = list(groups)
    for i, expert in enumerate(experts.values()):
        mine = groups[i :: len(experts)]
        outputs[i :: len(experts)] = torch.split(expert(torch.cat(mine)), [len(group) for group in mine])
    return torch.cat(outputs)


def unpack(rows_RD: Tensor, packed: Packed) -> dict[int, Tensor]:
    """Slot -> [N, D]: expert outputs in packed order, back at their tokens."""
    out_RD = torch.empty_like(rows_RD)
    out_RD[packed.order_R] = rows_RD
    return dict(zip(packed.slots, out_RD.view(-1, len(packed.slots), rows_RD.shape[1]).unbind(1), strict=True))
