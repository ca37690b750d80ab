"""Tokens to rows and back: how the tokens of a rank are laid out for dispatch, computed by experts, and put in place.

Pure functions of tensors; they know nothing of steps, streams and transfers.

Suffixes: N tokens, D hidden width, K top-k slots, R rows (pairs of token and slot), W ranks, E experts of a rank."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Places(NamedTuple):
    """Whose rows are packed, in which order: row r is slot_R[r] of token_R[r].

    They are grouped by the rank of their expert, then by expert; one piece of each rank's experts, or all of them."""

    token_R: Tensor
    slot_R: Tensor
    counts_WE: Tensor  # int64, on the host: rows for each expert (of the piece) of each rank

    def of_slots(self, slots: Collection[int]) -> Tensor:
        """[R]: which rows belong to one of `slots`."""
        return torch.isin(self.slot_R, torch.tensor([*slots], device=self.slot_R.device))


def lay_out(
    idx_NK: Tensor, mask_N: Mapping[int, Tensor | None], ranks: int, experts: int, pieces: int = 1
) -> tuple[Places, ...]:
    """The places, piece by piece, of the tokens in mask_N [slot] (None: all); expert e lives on rank e mod `ranks`.

    A rank's experts, in order, are cut into `pieces` equal pieces.  The rows of all pieces follow one another.  A GPU's
    host waits once, for the counts, if all tokens of each slot go."""
    held = experts // ranks
    share = held // pieces
    token_R, slot_R = _going(idx_NK, mask_N)
    expert_R = idx_NK[token_R, slot_R]
    home_R, local_R = expert_R % ranks, expert_R // ranks
    group_R = (local_R // share * ranks + home_R) * share + local_R % share
    order_R = group_R.argsort(stable=True)
    counts_E = torch.zeros(experts, dtype=torch.int64, device=idx_NK.device)
    counts_PWE = counts_E.scatter_add(0, group_R, torch.ones_like(group_R)).cpu().view(pieces, ranks, share)
    sizes = counts_PWE.sum(dim=(1, 2)).tolist()
    orders = torch.split(order_R, sizes)
    return tuple(Places(token_R[o], slot_R[o], c) for o, c in zip(orders, counts_PWE, strict=True))


def _going(idx_NK: Tensor, mask_N: Mapping[int, Tensor | None]) -> tuple[Tensor, Tensor]:
    """(token_R, slot_R) of the tokens in mask_N [slot], token by token."""
    column_N = idx_NK[:, 0]
    if all(mask is None for mask in mask_N.values()):
        slot_R = torch.stack([torch.full_like(column_N, slot) for slot in sorted(mask_N)], dim=1).flatten()
        return torch.arange(len(slot_R), device=idx_NK.device) // len(mask_N), slot_R
    none, every = torch.zeros_like(column_N, dtype=torch.bool), torch.ones_like(column_N, dtype=torch.bool)
    masks = [mask_N.get(slot, none) for slot in range(idx_NK.shape[1])]
    going_NK = torch.stack([every if mask is None else mask for mask in masks], dim=1)
    token_R, slot_R = going_NK.nonzero(as_tuple=True)
    return token_R, slot_R


def pack(h_ND: Tensor, pieces: Sequence[Places]) -> Tensor:
    """Rows [R, D] of all pieces, one after the other."""
    return h_ND[torch.cat([places.token_R for places in pieces])]


def of_piece(rows_RD: Tensor, pieces: Sequence[Places], piece: int) -> Tensor:
    """The rows of one piece, as a view of what `pack` made."""
    ends = [*accumulate((len(places.token_R) for places in pieces), initial=0)]
    start, end = [*pairwise(ends)][piece]
    return rows_RD[start:end]


def run_experts(experts: Sequence[nn.Module], rows_RD: Tensor, counts_WE: Tensor) -> Tensor:
    """Outputs of rows that came from every rank, in the order in which they came.

    counts_WE says how many rows of each source are for each of the local `experts`, in their order."""
    groups = torch.split(rows_RD, counts_WE.flatten().tolist())  # by source, then by expert
    outputs = list(groups)
    for i, expert in enumerate(experts):
        mine = groups[i :: len(experts)]
        outputs[i :: len(experts)] = torch.split(expert(torch.cat(mine)), [len(group) for group in mine])
    return torch.cat(outputs)
