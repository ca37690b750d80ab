"""Timed compute: attention and experts that compute nothing, and ops that wait until their time is over.

For tests of *scheduling* with more ranks than cores: the router, the rows and the transfers are real, what lies
between them is a wait.  A measurement made so is called that.

Suffixes: as in realrun/model.py."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from realrun.model import DiTMoE
from sim.schedule import Op

TIMED = "ASE"  # kinds that may be timed: what is most of the work of a layer


class _IdleAttention(nn.Module):
    """Every token attends to itself."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BATG = x_BTD.view(*x_BTD.shape[:2], self.heads, -1).transpose(1, 2)
        return q_BATG, q_BATG, q_BATG

    def mix(self, q_BATG: Tensor, k_BASG: Tensor, v_BASG: Tensor) -> Tensor:
        return q_BATG.transpose(1, 2).flatten(2)


class _IdleExpert(nn.Module):
    def forward(self, rows_RD: Tensor) -> Tensor:
        return 0.5 * rows_RD


def idle(model: DiTMoE) -> DiTMoE:
    """`model`, with attention and experts that cost next to nothing."""
    for layer in range(model.shape.layers):
        block = model.block(layer)
        block.attn = _IdleAttention(model.shape.heads)  # type: ignore[assignment]
        block.moe.shared_experts = _IdleExpert()  # type: ignore[assignment]
        block.moe.experts = nn.ModuleDict({name: _IdleExpert() for name in block.moe.experts})
    return model


def sit_out(op: Op, made: Any, began_s: float, row_s: Mapping[str, float]) -> None:
    """Waits until `op`, which began then and made this, has taken row_s [kind] seconds for each of its rows."""
    if op.kind in row_s:
        left_s = began_s + row_s[op.kind] * _rows(op.kind, made) - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)


def _rows(kind: str, made: Any) -> int:
    """Rows of hidden width that an op worked on."""
    if kind == "A":
        images, tokens, _ = made.x_BTD.shape
        return int(images * tokens)
    return len(made) if kind == "S" else len(made.rows_RX)
