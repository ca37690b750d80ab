"""A rank's share of the images: whole ones of its own, or a band of rows of patches of every one.

Pure functions: which latents and tokens are this rank's, and how the keys and values of all ranks make a whole again.

Suffixes: B images in the forward (both guidance halves), T tokens of an image on this rank, N = B * T, D hidden,
A heads, G width of a head, S keys (tokens of an image on all ranks), W ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """What one of `world` ranks has: of `images` images from number `first_image` on, all `image_tokens` tokens
    (whole), or an equal share, in the order of the ranks."""

    rank: int
    world: int
    sharded: bool
    images: int
    image_tokens: int

    @property
    def first_image(self) -> int:
        """Number, in the whole run, of the first image."""
        return 0 if self.sharded else self.rank * self.images

    @property
    def tokens(self) -> int:
        """Tokens of an image on this rank."""
        return self.image_tokens // self.world if self.sharded else self.image_tokens

    @property
    def first_token(self) -> int:
        """Number, in its image, of the first of them."""
        return self.rank * self.tokens if self.sharded else 0

    def band(self, z_BCHW: Tensor) -> Tensor:
        """This rank's rows of whole latents."""
        return z_BCHW.chunk(self.world, dim=2)[self.rank] if self.sharded else z_BCHW

    def token_N(self, parts: int) -> tuple[Tensor, ...]:
        """[part] [N]: numbers that tell a token from every other of the run: (image * 2 + half) * tokens + token."""
        image_B = self.first_image + torch.arange(self.images)
        token_T = self.first_token + torch.arange(self.tokens)
        half_H = torch.arange(2)
        number = ((image_B * 2)[:, None] + half_H[:, None, None]) * self.image_tokens  # [half, image, 1]
        number_BT = number.flatten()[:, None] + token_T
        return tuple(part_BT.flatten() for part_BT in number_BT.chunk(parts))


def to_rows(k_BATG: Tensor, v_BATG: Tensor) -> Tensor:
    """Keys, then values, a row a token: [2N, D]."""
    return torch.cat([heads.transpose(1, 2).flatten(2).flatten(0, 1) for heads in (k_BATG, v_BATG)])


def to_heads(rows_WRD: Tensor, images: int, heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [B, A, S, G] of what `to_rows` made on every rank (R = 2N), in the order of the ranks."""
    apart = rows_WRD.view(len(rows_WRD), 2, images, -1, heads, rows_WRD.shape[2] // heads)  # [W, 2, B, T, A, G]
    k_BASG, v_BASG = apart.permute(1, 2, 4, 0, 3, 5).flatten(3, 4).unbind()
    return k_BASG, v_BASG
