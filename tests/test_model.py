"""The model against the outputs of the DICE authors' own code, and its parameters against their rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from realrun.model import Block, DiTMoE
from realrun.parameters import load, random_state
from sim.workload import MODELS, ModelShape

GOLDEN = Path(__file__).parent / "golden"
SHAPE = ModelShape("golden", layers=6, hidden=48, heads=4, experts=8, classes=10, latent=8)


pytestmark = pytest.mark.usefixtures("one_thread")


def arrays(name: str) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(GOLDEN / name) as data:
        return dict(data)


def golden_state() -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays("state.npz").items()}


def golden_model(local_experts: Sequence[int] = range(8), dtype: torch.dtype = torch.float64) -> DiTMoE:
    model = DiTMoE(SHAPE, local_experts, dtype)
    load(model, golden_state())
    return model


def run_block(block: Block, x_BTD: Tensor, c_BD: Tensor) -> Tensor:
    """A whole block without communication: every expert on every token that chose it."""
    x_BTD, h_BTD, gate_BD = block.attend(x_BTD, c_BD)
    h_ND = h_BTD.flatten(0, 1)
    idx_NK, weight_NK = block.moe.route(h_ND)
    sum_ND = block.moe.shared_experts(h_ND)
    for expert, mlp in block.moe.experts.items():
        token, slot = (idx_NK == int(expert)).nonzero(as_tuple=True)
        sum_ND = sum_ND.index_add(0, token, mlp(h_ND[token]) * weight_NK[token, slot, None])
    out_BTD: Tensor = x_BTD + gate_BD[:, None] * sum_ND.view_as(h_BTD)
    return out_BTD


@torch.no_grad()
def sample(model: DiTMoE, z_BCHW: Tensor, y_B: Tensor, steps: int, guidance: float) -> tuple[Tensor, Tensor]:
    """Rectified flow, Euler: (latents, velocities [step, 2B, C, H, W])."""
    y_both, velocities = torch.cat([y_B, torch.full_like(y_B, model.shape.classes)]), []
    for i in range(steps, 0, -1):
        x_BTD, c_BD = model.embed(torch.cat([z_BCHW, z_BCHW]), i / steps, y_both)
        for layer in range(model.shape.layers):
            x_BTD = run_block(model.block(layer), x_BTD, c_BD)
        velocities.append(model.final(x_BTD, c_BD))
        cond, uncond = velocities[-1].chunk(2)
        z_BCHW = z_BCHW - (uncond + guidance * (cond - uncond)) / steps
    return z_BCHW, torch.stack(velocities)


def test_names_are_those_of_the_checkpoint() -> None:
    assert DiTMoE(SHAPE, range(8)).state_dict().keys() == golden_state().keys()
    with_norm = DiTMoE(replace(SHAPE, qk_norm=True), range(8)).state_dict().keys() - golden_state().keys()
    assert sorted(with_norm)[:2] == ["blocks.0.attn.k_norm.bias", "blocks.0.attn.k_norm.weight"]


@pytest.mark.parametrize(
    ("name", "unit", "published"),
    [("S", 1e6, 199), ("S-16E", 1e6, 369), ("B", 1e6, 795), ("L", 1e8, 28), ("XL", 1e8, 41), ("G", 1e8, 165)],
)
def test_parameter_counts_are_the_published_ones(name: str, unit: float, published: int) -> None:
    model = DiTMoE(MODELS[name], range(MODELS[name].experts))
    assert int(sum(p.numel() for p in model.parameters()) / unit) == published


def test_slots_are_ordered_best_first() -> None:
    idx_NK, weight_NK = golden_model([]).block(0).moe.route(torch.randn(64, 48, dtype=torch.float64))
    assert idx_NK.dtype == torch.int64
    assert (weight_NK[:, 0] >= weight_NK[:, 1]).all()
    assert (weight_NK.sum(dim=1) < 1).all(), "scores of the top k are not renormalised"


def test_final_of_some_rows_is_that_part_of_the_image() -> None:
    model, x_BTD = golden_model([]), torch.randn(2, 16, 48, dtype=torch.float64)
    c_BD = torch.randn(2, 48, dtype=torch.float64)
    torch.testing.assert_close(model.final(x_BTD[:, 8:], c_BD), model.final(x_BTD, c_BD)[:, :, 4:])
    with pytest.raises(ValueError, match="6 tokens do not make whole rows of 4 patches"):
        model.final(x_BTD[:, :6], c_BD)


def test_random_parameters_do_not_depend_on_who_asks() -> None:
    whole, mine = random_state(SHAPE, seed=3), random_state(SHAPE, seed=3, local_experts=[5])
    assert {n.split(".")[4] for n in mine if ".experts." in n} == {"5"}
    assert all(torch.equal(whole[name], tensor) for name, tensor in mine.items())
    weight = "blocks.2.moe.experts.5.up_proj.weight"
    assert not torch.equal(random_state(SHAPE, seed=4, local_experts=[5])[weight], whole[weight])
    torch.testing.assert_close(whole["pos_embed"], golden_state()["pos_embed"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, layers=3, hidden=96, latent=16, qk_norm=True)])
def test_random_parameters_keep_a_sampling_alive(shape: ModelShape, dtype: torch.dtype) -> None:
    model, generator = DiTMoE(shape, range(8), dtype), torch.Generator().manual_seed(0)
    load(model, random_state(shape, seed=0))
    z = torch.randn(4, 4, shape.latent, shape.latent, generator=generator).to(dtype)
    final, _ = sample(model, z, torch.arange(4), steps=12, guidance=1.5)
    assert final.isfinite().all()
    assert 0.5 < final.float().std() < 20

    x_BTD, c_BD = model.embed(final, 0.5, torch.arange(4))
    _, h_BTD, gate_BD = model.block(0).attend(x_BTD, c_BD)
    share = model.block(0).moe.route(h_BTD.flatten(0, 1))[0].flatten().bincount(minlength=8) / h_BTD[..., :2].numel()
    assert gate_BD.float().std() > 0.3
    assert share.max() < 0.5, "routing should not be degenerate"
    assert (share > 0.02).sum() >= 4


def test_load_takes_what_this_rank_holds_and_casts_a_copy() -> None:
    model, state = DiTMoE(SHAPE, [1, 3], torch.bfloat16), golden_state()
    load(model, state)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert list(model.block(0).moe.experts) == ["1", "3"]
    same = golden_model([1], torch.float32)
    state["pos_embed"].zero_()
    assert same.pos_embed.abs().sum() > 0
    assert not same.pos_embed.requires_grad


def test_load_understands_the_names_of_the_flash_attention_checkpoints() -> None:
    def renamed(name: str) -> str:
        return name.replace("attn.qkv", "attn.Wqkv").replace("attn.proj", "attn.out_proj")

    model = DiTMoE(SHAPE, [])
    load(model, {renamed(name): tensor for name, tensor in golden_state().items()})
    assert torch.equal(model.block(0).attn.qkv.weight, golden_state()["blocks.0.attn.qkv.weight"])


def test_load_lists_everything_that_does_not_fit() -> None:
    state = golden_state()
    del state["blocks.0.moe.experts.1.up_proj.weight"], state["blocks.0.moe.experts.2.up_proj.weight"]
    state["blocks.0.mlp.weight"] = state["pos_embed"]
    state["final_layer.linear.bias"] = torch.zeros(16)
    want = (
        "the state does not fit model golden: missing: blocks.0.moe.experts.1.up_proj.weight; "
        "unexpected: blocks.0.mlp.weight; mis-shaped: final_layer.linear.bias [16], should be [32]"
    )
    with pytest.raises(ValueError, match=re.escape(want) + "$"):
        load(DiTMoE(SHAPE, [1]), state)
    with pytest.raises(ValueError, match=r"missing: blocks.0.adaLN_modulation.1.bias, .* and 208 more"):
        load(DiTMoE(SHAPE, range(8)), {})
    with pytest.raises(ValueError, match=r"experts 0 to 7, not \[8\]"):
        DiTMoE(SHAPE, [0, 8])
