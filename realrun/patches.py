"""Each image's tokens spread over the ranks: which are this rank's, and how all keys and values make a whole again.

Pure functions of tensors; they know nothing of steps and transfers.

Suffixes: B images in the forward (both guidance halves), T tokens of an image on this rank, N = B * T, D hidden,
A heads, G width of a head, S keys (tokens of an image on all ranks), W ranks."""

from __future__ import annotations

import torch
from torch import Tensor


def band(z_BCHW: Tensor, rank: int, ranks: int) -> Tensor:
    """The rows of latents that one of `ranks` ranks has: an equal share, in the order of the ranks."""
    return z_BCHW.chunk(ranks, dim=2)[rank]


def to_rows(k_BATG: Tensor, v_BATG: Tensor) -> Tensor:
    """Keys, then values, a row a token: [2N, D]."""
    return torch.cat([heads.transpose(1, 2).flatten(2).flatten(0, 1) for heads in (k_BATG, v_BATG)])


def to_heads(rows_WRD: Tensor, images: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [B, A, S, G] of what `to_rows` made on every rank (R = 2N), in the order of the ranks."""
    apart = rows_WRD.view(len(rows_WRD), 2, images, -1, heads, rows_WRD.shape[2] // heads)  # [W, 2, B, T, A, G]
    k_BASG, v_BASG = apart.permute(1, 2, 4, 0, 3, 5).flatten(3, 4).unbind()
    return k_BASG, v_BASG
