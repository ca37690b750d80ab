"""A DiT-MoE under the parameter names of the public checkpoints, cut where a schedule cuts it.

There is no forward of the whole network: `embed`, `Block.attend`, `Block.moe.route`, the experts and `final` are
the ops of a schedule, and whoever runs the schedule joins them.  The file knows the mathematics and the names; it
refuses to know ranks, steps and transfers.  After feizc/DiT-MoE (arXiv 2407.11633); q/k norm after Cobalt-27/DICE.

Suffixes of names say the shape:
    B  images of a forward (both guidance halves)   T  tokens of an image    N  B * T tokens    D  hidden width
    C, H, W  channels, height, width of a latent    K  slots (top-k)         E  experts         R  rows of one expert
    A  heads                                        G  width of a head       S  keys (T, or more: patch parallelism)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from sim.workload import ModelShape

_SINUSOIDS = 256  # width of the timestep's sinusoids


class Modulation(NamedTuple):
    """What the conditioning does to one block, each [B, 1, D]."""

    shift_attn: Tensor
    scale_attn: Tensor
    gate_attn: Tensor
    shift_moe: Tensor
    scale_moe: Tensor
    gate_moe: Tensor


def _modulated_norm(x_BTD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=1e-6) * (1 + scale_B1D) + shift_B1D


def _conditioned(hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(hidden, outputs * hidden))


class Attention(nn.Module):
    """Self-attention in two halves, since patch parallelism gathers keys and values between them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads, width = shape.heads, shape.hidden // shape.heads
        self.qkv = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.proj = nn.Linear(shape.hidden, shape.hidden)
        self.q_norm = nn.LayerNorm(width, eps=1e-6) if shape.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width, eps=1e-6) if shape.qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, A, T, G]."""
        qkv_BT3AG = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1))
        q_BATG, k_BATG, v_BATG = qkv_BT3AG.permute(2, 0, 3, 1, 4)
        return self.q_norm(q_BATG), self.k_norm(k_BATG), v_BATG

    def mix(self, q_BATG: Tensor, k_BASG: Tensor, v_BASG: Tensor) -> Tensor:
        """Output [B, T, D] of T queries over S keys and values."""
        mixed_BATG = F.scaled_dot_product_attention(q_BATG, k_BASG, v_BASG)
        out_BTD: Tensor = self.proj(mixed_BATG.transpose(1, 2).flatten(2))
        return out_BTD


class SwiGLU(nn.Module):
    """One expert: down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, rows_RD: Tensor) -> Tensor:
        """[R, D] to [R, D], row by row; R may be 0."""
        gate_RI, up_RI = self.gate_proj(rows_RD), self.up_proj(rows_RD)
        if torch.is_inference_mode_enabled():  # in place, or fresh pages take as long as a tenth of the products
            inner_RI = F.silu(gate_RI, inplace=True).mul_(up_RI)
        else:
            inner_RI = F.silu(gate_RI) * up_RI
        out_RD: Tensor = self.down_proj(inner_RI)
        return out_RD


class MixtureOfExperts(nn.Module):
    """Router, shared experts, and the routed experts that live on this rank, by their global number."""

    def __init__(self, shape: ModelShape, local_experts: Sequence[int]) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.gate = nn.Linear(shape.hidden, shape.experts, bias=False)
        inner = shape.mlp_ratio * shape.hidden
        self.experts = nn.ModuleDict({str(e): SwiGLU(shape.hidden, inner) for e in local_experts})
        self.shared_experts = SwiGLU(shape.hidden, shape.shared_experts * shape.hidden)

    def route(self, h_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(idx_NK int64, weight_NK): the experts of every token, best first, and their scores.

        Scores are a softmax over all experts; those of the top k are not renormalised (as in DiT-MoE)."""
        score_NE = self.gate(h_ND).softmax(dim=-1)
        weight_NK, idx_NK = score_NE.topk(self.top_k, dim=-1, sorted=True)
        return idx_NK, weight_NK


class Block(nn.Module):
    """Attention and a mixture of experts, both behind adaLN-zero."""

    def __init__(self, shape: ModelShape, local_experts: Sequence[int]) -> None:
        super().__init__()
        self.attn = Attention(shape)
        self.moe = MixtureOfExperts(shape, local_experts)
        self.adaLN_modulation = _conditioned(shape.hidden, 6)

    def modulation(self, c_BD: Tensor) -> Modulation:
        """Shifts, scales and gates that the conditioning asks of this block."""
        return Modulation(*self.adaLN_modulation(c_BD).unsqueeze(1).chunk(6, dim=-1))

    def project(self, x_BTD: Tensor, modulation: Modulation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, A, T, G] of the modulated first norm."""
        return self.attn.project(_modulated_norm(x_BTD, modulation.shift_attn, modulation.scale_attn))

    def finish(self, x_BTD: Tensor, modulation: Modulation, qkv: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What `attend` returns, from queries [B, A, T, G] and keys and values [B, A, S, G]."""
        x_BTD = x_BTD + modulation.gate_attn * self.attn.mix(*qkv)
        h_BTD = _modulated_norm(x_BTD, modulation.shift_moe, modulation.scale_moe)
        return x_BTD, h_BTD, modulation.gate_moe.squeeze(1)

    def attend(self, x_BTD: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_BTD, h_BTD, gate_BD): x plus gated attention, the experts' input, and the gate of their output.

        The block's result is x_BTD + gate_BD[:, None] * (routed + shared experts of h_BTD)."""
        modulation = self.modulation(c_BD)
        return self.finish(x_BTD, modulation, self.project(x_BTD, modulation))


class DiTMoE(nn.Module):
    """The whole network, as far as one rank holds it: everything but the routed experts that live elsewhere.

    local_experts: global numbers of the experts held.  A new model has shapes only ("meta" tensors, so that
    nothing can run on weights that nobody chose); `load` (realrun/parameters.py) gives it values and a device."""

    def __init__(self, shape: ModelShape, local_experts: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        strangers = [e for e in local_experts if not 0 <= e < shape.experts]
        if strangers:
            raise ValueError(f"model {shape.name} has experts 0 to {shape.experts - 1}, not {strangers}")
        if shape.beyond_dit_moe:
            raise ValueError(f"model {shape.name} is no DiT-MoE: {', '.join(shape.beyond_dit_moe)}")
        self.shape = shape
        hidden, patch = shape.hidden, shape.patch
        with torch.device("meta"):
            self.pos_embed = nn.Parameter(torch.empty(1, shape.tokens, hidden), requires_grad=False)
            self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(shape.channels, hidden, patch, patch)})
            layers = nn.Linear(_SINUSOIDS, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
            self.t_embedder = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
            self.y_embedder = nn.ModuleDict({"embedding_table": nn.Embedding(shape.classes + 1, hidden)})
            self.blocks = nn.ModuleList(Block(shape, local_experts) for _ in range(shape.layers))
            linear = nn.Linear(hidden, patch * patch * 2 * shape.channels)  # twice: learn_sigma
            self.final_layer = nn.ModuleDict({"linear": linear, "adaLN_modulation": _conditioned(hidden, 2)})
        self.to(dtype)

    def embed(self, z_BCHW: Tensor, t: float | Tensor, y_B: Tensor, first_token: int = 0) -> tuple[Tensor, Tensor]:
        """(x_BTD, c_BD): tokens, and what conditions them: label (`classes`: no label) and time t in (0, 1], of all
        images or [B].

        The latents may be a few rows of patches of the image, the first of which is token number `first_token`."""
        x_BTD = self.x_embedder["proj"](z_BCHW).flatten(2).transpose(1, 2)
        x_BTD = x_BTD + self.pos_embed[:, first_token : first_token + x_BTD.shape[1]]
        t_B = t if isinstance(t, Tensor) else torch.full((1,), t, device=z_BCHW.device)  # no copy: a GPU's host goes on
        waves = sinusoids(t_B.to(z_BCHW.device, torch.float32).reshape(-1))
        c_BD: Tensor = self.t_embedder["mlp"](waves.to(z_BCHW.dtype)) + self.y_embedder["embedding_table"](y_B)
        return x_BTD, c_BD

    def block(self, layer: int) -> Block:
        """The block of one layer, counted from 0."""
        block = self.blocks[layer]
        assert isinstance(block, Block)
        return block

    def final(self, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
        """Velocity [B, C, H, W].  The T tokens may be a few rows of patches of the image; H is then less than W.

        The other C channels (DiT's `learn_sigma`) are computed, as published, and dropped.  Raises ValueError if
        the tokens are not whole rows."""
        shape, wide = self.shape, self.shape.latent // self.shape.patch
        if x_BTD.shape[1] % wide:
            raise ValueError(f"{x_BTD.shape[1]} tokens do not make whole rows of {wide} patches")
        shift_BD, scale_BD = self.final_layer["adaLN_modulation"](c_BD).chunk(2, dim=-1)
        out = self.final_layer["linear"](_modulated_norm(x_BTD, shift_BD[:, None], scale_BD[:, None]))
        # [B, rows, columns, row in patch, column in patch, 2C] to [B, 2C, H, W]
        patches = out.unflatten(2, (shape.patch, shape.patch, -1)).unflatten(1, (-1, wide))
        image: Tensor = patches.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return image[:, : shape.channels]


def sinusoids(t_B: Tensor) -> Tensor:
    """[B, 256]: cosines, then sines, of t at frequencies 1 to 1/10000 (as in DiT and GLIDE), computed in fp32.

    The last bit depends on the processor: Intel's library takes other code paths on other processors, which moves
    a float64 sample by about 1e-6."""
    half = _SINUSOIDS // 2
    octave = torch.arange(half, dtype=torch.float32, device=t_B.device)
    angle_BF = t_B[:, None] * torch.exp(-math.log(10000) * octave / half)
    return torch.cat([angle_BF.cos(), angle_BF.sin()], dim=-1)
