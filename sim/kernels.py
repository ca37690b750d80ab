"""Which kernels an op is made of: matrix products, attention, and passes over memory, by their shapes.

The only statement of what an op computes: its multiply-accumulates (sim/cost.py), its seconds on a Gpu, how often the
host launches something, and the model's parameters all come from here.  Kernels are those of realrun/model.py run as
PyTorch runs them, one by one; a compiler that fuses has fewer.  It refuses to know rates, ranks and how tokens are
routed.

A row is a token of one image (both guidance halves are images of their own).  To add a kind of op, add a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sim.workload import ModelShape


class Gemm(NamedTuple):
    """`times` products [m, k] x [k, n] one after the other; m may be [rank, expert], with a product for each entry, or
    grouped: one kernel for all the experts of a rank."""

    name: str
    m: Any
    n: int
    k: int
    times: int = 1
    grouped: bool = False
    bias: bool = False


class Attention(NamedTuple):
    """softmax(q k^T) v, of every image and head: queries and keys of an image, width of a head."""

    name: str
    images: float
    heads: int
    queries: float
    keys: int
    width: int


class Pass(NamedTuple):
    """`kernels` element-wise kernels that read and write `elements` in all, and what they multiply and add."""

    name: str
    elements: Any
    kernels: int = 1
    macs: Any = 0.0


class Share(NamedTuple):
    """What a rank works on in one op: `rows`, of so many images; of E, the rows [rank, expert] of each expert held."""

    rows: Any
    images: float
    grouped: bool = False  # all experts in one kernel


Kernel = Gemm | Attention | Pass


def macs(kernel: Kernel) -> Any:
    """Multiply-accumulates; [rank] where m is [rank, expert]."""
    if isinstance(kernel, Gemm):
        each = kernel.times * kernel.n * kernel.k * kernel.m
        return each.sum(axis=-1) if np.ndim(each) else each
    if isinstance(kernel, Attention):
        return 2 * kernel.images * kernel.heads * kernel.queries * kernel.keys * kernel.width
    return kernel.macs


def kernel_launches(kernel: Kernel) -> int:
    """How many kernels the host launches: of products of several experts one for each, unless they are grouped."""
    if isinstance(kernel, Gemm):
        return kernel.times * (1 if kernel.grouped or not np.ndim(kernel.m) else np.shape(kernel.m)[-1])
    return kernel.kernels if isinstance(kernel, Pass) else 1


def parameters(model: ModelShape, experts: int | None = None) -> int:
    """Parameters of a model with so many routed experts a layer (all of them if not given), as realrun/model.py has
    them: weights and biases of its products, tables, and q/k norms.

    With top_k experts, those that one token meets: the published table's "active" (arXiv 2407.11633)."""
    return sum(parameters_by_kind(model, experts).values())


def parameters_by_kind(model: ModelShape, experts: int | None = None) -> dict[str, int]:
    """`parameters`, by the kind of op that needs them."""
    one = {kind: _weights(op_kernels(kind, model, Share(model.tokens, 1))) for kind in "PASEF"}
    norms = 4 * (model.hidden // model.heads) if model.qk_norm else 0
    table = 0 if model.adaln else 6 * model.hidden
    one["P"] += (model.classes + 1) * model.hidden
    one["A"] = model.layers * (one["A"] + norms + table)
    one["S"] *= model.layers
    one["E"] *= model.layers * (model.experts if experts is None else experts)
    return one


def forward_macs(model: ModelShape) -> float:
    """Multiply-accumulates of one image through the network once, attention's two products left out.

    Equals the "Gflops" column of arXiv 2407.11633 (15.43 for S/2 to 690.94 for G/2) to its last digit."""
    return sum(macs_by_kind(model).values())


def macs_by_kind(model: ModelShape) -> dict[str, float]:
    """`forward_macs`, by kind of op."""
    found = {kind: sum(float(macs(each)) for each in _of_an_image(kind, model) if isinstance(each, Gemm))
             for kind in "PASEF"}  # fmt: skip
    return {kind: each * (model.layers if kind in "ASE" else 1) for kind, each in found.items()}


def attention_macs(model: ModelShape) -> float:
    """Those of attention's two products, of one image through the network once."""
    return model.layers * sum(float(macs(each)) for each in _of_an_image("A", model) if isinstance(each, Attention))


def _of_an_image(kind: str, model: ModelShape) -> list[Kernel]:
    """The kernels of one op, on one image; of E, on all rows that its tokens are sent as."""
    return op_kernels(kind, model, Share(model.tokens * (model.top_k if kind == "E" else 1), 1))


def _weights(kernels: list[Kernel]) -> int:
    return sum(k.times * (k.n * k.k + k.bias * k.n) for k in kernels if isinstance(k, Gemm))


def op_kernels(kind: str, model: ModelShape, share: Share, sharded_patches: bool = False) -> list[Kernel]:
    """The kernels of one op of `kind`.  Where patches are sharded, A is what is left of it when Q has been done."""
    if kind == "A" and not sharded_patches:
        return [*_projection(model, share), *_attention(model, share)]
    return [*_KERNELS[kind](model, share)]


def _embedding(model: ModelShape, share: Share) -> Iterator[Kernel]:
    hidden, images, sinusoids = model.hidden, share.images, 256
    yield Gemm("patches", _image_rows(model, share), hidden, model.patch**2 * model.channels, bias=True)
    yield Pass("positions", 3 * share.rows * hidden)
    yield Pass("sinusoids", 4 * images * sinusoids, 6)
    yield Gemm("timestep 1", images, hidden, sinusoids, bias=True)
    yield Gemm("timestep 2", images, hidden, hidden, bias=True)
    yield Pass("label", 7 * images * hidden, 3)  # silu between the two, gather, add


def _projection(model: ModelShape, share: Share) -> Iterator[Kernel]:
    if model.adaln:
        yield Pass("silu", 2 * share.images * model.hidden)
        yield Gemm("adaLN", share.images, 6 * model.hidden, model.hidden, bias=True)
    yield _modulated_norm(model, share)
    yield Gemm("qkv", share.rows, 3 * model.hidden, model.hidden, bias=True)
    if model.qk_norm:
        yield Pass("q/k norm", 4 * share.rows * model.hidden, 2)


def _attention(model: ModelShape, share: Share) -> Iterator[Kernel]:
    rows, hidden, width = share.rows, model.hidden, model.hidden // model.heads
    yield Attention("attention", share.images, model.heads, rows / share.images, model.tokens, width)
    yield Gemm("projection", rows, hidden, hidden, bias=True)
    yield Pass("gated residual", 5 * rows * hidden, 2)
    yield _modulated_norm(model, share)
    yield Gemm("router", rows, model.experts, hidden)
    yield Pass("softmax, top-k, sort", 6 * rows * model.experts, 6)
    yield Pass("pack", 2 * rows * model.top_k * hidden)


def _shared_experts(model: ModelShape, share: Share) -> Iterator[Kernel]:
    if model.shared_experts:
        yield from _swiglu("shared", share.rows, model.hidden, model.shared_inner)


def _routed_experts(model: ModelShape, share: Share) -> Iterator[Kernel]:
    if np.ndim(share.rows) and np.shape(share.rows)[-1] > 1:  # rows come by source, and go back so
        yield Pass("sorted by expert, and back", 4 * share.rows.sum(axis=-1) * model.hidden, 2)
    yield from _swiglu("expert", share.rows, model.hidden, model.expert_inner, share.grouped)


def _residual(model: ModelShape, share: Share) -> Iterator[Kernel]:
    routed, row = share.rows * model.top_k * model.hidden, share.rows * model.hidden
    yield Pass("unpack", 2 * routed)
    yield Pass("weighted sum", 3 * routed, 2, macs=routed)
    yield Pass("shared added, gated residual", 8 * row, 3, macs=2 * row)


def _final(model: ModelShape, share: Share) -> Iterator[Kernel]:
    outputs = model.patch**2 * model.output_channels
    yield Pass("silu", 2 * share.images * model.hidden)
    yield Gemm("adaLN", share.images, 2 * model.hidden, model.hidden, bias=True)
    yield _modulated_norm(model, share)
    yield Gemm("linear", _image_rows(model, share), outputs, model.hidden, bias=True)
    yield Pass("patches to image", 2 * _image_rows(model, share) * outputs)


def _solver(model: ModelShape, share: Share) -> Iterator[Kernel]:
    latent = _image_rows(model, share) * model.patch**2 * model.channels
    yield Pass("guidance, Euler step", 7 * latent, 5, macs=2 * latent)


def _image_rows(model: ModelShape, share: Share) -> Any:
    """Those of the rows that are patches of images, not words of a text."""
    return share.rows * (model.tokens - model.text_tokens) / model.tokens


def _modulated_norm(model: ModelShape, share: Share) -> Pass:
    """A norm, a product and a sum of all rows; 1 + scale of a row an image."""
    return Pass("norm, modulation", 6 * share.rows * model.hidden + 2 * share.images * model.hidden, 4)


def _swiglu(name: str, rows: Any, hidden: int, inner: int, grouped: bool = False) -> Iterator[Kernel]:
    """down(silu(gate(x)) * up(x)); `rows` [rank, expert] of several experts one after the other, or grouped."""
    experts = np.shape(rows)[-1] if np.ndim(rows) else 1
    yield Gemm(f"{name} gate, up", rows, inner, hidden, 2, grouped)
    total = rows.sum(axis=-1) if np.ndim(rows) else rows
    yield Pass(f"{name} silu, product", 5 * total * inner, 2 * (1 if grouped else experts))
    yield Gemm(f"{name} down", rows, hidden, inner, 1, grouped)


_KERNELS: dict[str, Callable[[ModelShape, Share], Iterator[Kernel]]] = {
    "P": _embedding,
    "Q": _projection,
    "A": _attention,
    "S": _shared_experts,
    "E": _routed_experts,
    "R": _residual,
    "F": _final,
    "Z": _solver,
}
