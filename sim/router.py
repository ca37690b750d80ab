"""A modelled router: which experts tokens choose, with which scores, where no run has been recorded.

One generative model, from which experts, scores and counts all follow.  A token's logits are

    logit [expert] = bias [layer, expert] + z [expert],   z of the next step = rho z + sqrt(1 - rho^2) e,

with z and e standard normal; its experts are the top k, its scores a softmax over all.  The biases (a normal profile of
each layer's own, drawn from the seed) are as large as the asked imbalance needs, and rho of each layer as the asked
share of kept best experts needs; both are solved for on a sample of their own, to about a hundredth.

It reproduces: skew of experts that differs by layer, a token's drift from step to step, and scores that agree with
both (a token near a choice's border has close scores, and changes sooner).  It ignores: that images, classes and
guidance halves prefer experts of their own (tokens are alike and independent, and so are ranks), that hot experts
change over the steps (biases stay), and how peaked a trained router is: logits of one standard deviation are an
assumption, which moves scores but hardly experts.

Tokens are drawn in groups of as many as there are experts, whose z are the same numbers, rotated through the experts.
Each is as random as any; together they load unbiased experts exactly evenly, so that a sample of a few hundred tokens
has the load of a rank's thousands with little of the noise of a few hundred: exactly none at imbalance 1; at 1.5 (XL,
8 ranks) an expert gets from a rank 5 % more or less than its mean, and a layer's imbalance is 1.53 +- 0.02."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.records import Records

if TYPE_CHECKING:
    from sim.shape import ModelShape

Floats = npt.NDArray[np.float32]
_SAMPLE = 384  # tokens recorded on a rank, about: 48 groups of 8 experts, which 2, 3, 4, 6, 8 micro-batches can share
_SOLVED_ON = 4096  # tokens, about, that biases and rho are solved for on
_HALVINGS = 16  # of an interval, to solve
_LARGEST_BIAS = 30.0  # standard deviations of a token's own logit: what is beyond goes to fixed experts


def modelled(
    model: ModelShape, ranks: int, tokens: int, steps: int, *, imbalance: float = 1.0, keep: float = 1.0, seed: int = 0
) -> Records:
    """Records of a sample of the `tokens` of each rank; the first n steps do not depend on how many follow.

    imbalance: load of a layer's most loaded expert over the mean (1: balanced); keep: probability that a token keeps
    its best expert from one step to the next (1: one step serves all).  Raises ValueError for what is out of reach."""
    if steps < 1:
        raise ValueError(f"modelled routing: steps={steps} should be at least 1")
    bias = _biases(model, imbalance, seed)
    rho = _rhos(model, bias, keep, seed)
    groups = max(1, min(max(2, _SAMPLE // model.experts), tokens // model.experts))
    random = np.random.default_rng([seed, 0])
    size = (model.layers, ranks, groups, model.experts)
    kind = np.uint8 if model.experts <= 256 else np.uint16
    shape = (1 if keep == 1 else steps, model.layers, ranks, min(groups * model.experts, tokens), model.top_k)
    experts, scores = np.empty(shape, kind), np.empty(shape, np.float32)
    z = random.standard_normal(size, np.float32)
    for step in range(len(experts)):
        if step:
            z = _later(z, rho[:, None, None, None], random.standard_normal(size, np.float32))
        logits = _rotated(z) + bias[:, None, None, :]
        experts[step], scores[step] = _top(logits[:, :, : shape[3]], model.top_k)
    return Records(experts, scores, model.experts, tokens)


def _later(z: Floats, rho: Floats, fresh: Floats) -> Floats:
    """z one step later (AR(1)): standard normal again, correlated by rho."""
    later: Floats = rho * z + np.sqrt(1 - rho * rho) * fresh
    return later


def _rotated(z: Floats) -> Floats:
    """[..., group, expert] -> [..., group * expert, expert]: every rotation of each group's numbers."""
    experts = z.shape[-1]
    turns = (np.arange(experts)[:, None] + np.arange(experts)) % experts
    return z[..., turns].reshape(*z.shape[:-2], -1, experts)


def _top(logits: Floats, top_k: int) -> tuple[npt.NDArray[Any], Floats]:
    """(experts, scores) [..., slot] of logits [..., expert], best first; scores are the softmax over all."""
    weights = np.exp(logits)
    whole = weights.sum(axis=-1)
    chosen, scores = [], []
    for _ in range(top_k):
        best = weights.argmax(axis=-1)[..., None]
        chosen.append(best[..., 0])
        scores.append(np.take_along_axis(weights, best, -1)[..., 0] / whole)
        np.put_along_axis(weights, best, -1.0, -1)
    return np.stack(chosen, axis=-1), np.stack(scores, axis=-1)


# ------------------------------------------------------------------------------------- what parameters mean


def _biases(model: ModelShape, imbalance: float, seed: int) -> Floats:
    """[layer, expert]: biases under which the most loaded expert has `imbalance` times the mean load."""
    most = model.experts / model.top_k
    if not 1 <= imbalance < most:
        what = f"top-{model.top_k} of {model.experts} experts"
        raise ValueError(f"imbalance={imbalance:g} should be 1 (balanced) to less than {most:g}, all that {what} allow")
    profile = np.random.default_rng([seed, 1]).standard_normal((model.layers, model.experts), np.float32)
    z = _solving(model, 2)

    def load(scale: Floats) -> Floats:
        chosen, _ = _top(z + (scale[:, None] * profile)[:, None], model.top_k)
        hottest = profile.argmax(axis=-1)[:, None, None]
        share: Floats = (chosen == hottest).any(axis=-1).mean(axis=-1) * np.float32(most)
        return share

    if imbalance == 1:
        return np.zeros_like(profile)
    return _solved(load, imbalance, model.layers, _LARGEST_BIAS)[:, None] * profile


def _rhos(model: ModelShape, bias: Floats, keep: float, seed: int) -> Floats:
    """[layer]: correlation of a token's logits from step to step under which best experts are kept so often."""
    if keep == 1:
        return np.ones(model.layers, np.float32)
    z, fresh = _solving(model, 3), _solving(model, 4)
    before = (z + bias[:, None]).argmax(axis=-1)

    def kept(rho: Floats) -> Floats:
        after = (_later(z, rho[:, None, None], fresh) + bias[:, None]).argmax(axis=-1)
        share: Floats = (before == after).mean(axis=-1)
        return share

    least = float(kept(np.zeros(model.layers, np.float32)).max())
    if not least <= keep < 1:
        raise ValueError(f"keep={keep:g} should be {least:.2g} (what tokens keep by chance) to 1 (they never change)")
    return _solved(kept, keep, model.layers, 1.0)


def _solving(model: ModelShape, stream: int) -> Floats:
    """z [1, token, expert] to solve on: the same whatever the seed, so that a seed moves tokens and not parameters."""
    groups = max(1, _SOLVED_ON // model.experts)
    return _rotated(np.random.default_rng([0, stream]).standard_normal((1, groups, model.experts), np.float32))


def _solved(rising: Callable[[Floats], Floats], wanted: float, layers: int, high: float) -> Floats:
    """[layer]: where the function `rising` [layer] -> [layer] takes the value `wanted`, between 0 and `high`."""
    found = np.zeros(layers, np.float32)
    for halving in range(1, _HALVINGS + 1):
        width = np.float32(high / 2**halving)
        found += width * (rising(found + width) <= wanted)
    return found
