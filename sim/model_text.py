"""A network in words: its shape, and by part its parameters and what it multiplies; its weights, and what tokens send.

It knows sizes alone; it refuses to know schedules and machines (`python -m sim memory` and `simulate` take both)."""

from __future__ import annotations

from collections.abc import Iterable

from sim.gpu import DTYPES
from sim.kernels import attention_macs, forward_macs, macs_by_kind, parameters, parameters_by_kind
from sim.op import KINDS
from sim.show import grid
from sim.units import readable
from sim.workload import ModelShape, Workload

_LEGEND = (
    "active: parameters that one token meets; MACs: multiply-accumulates of one image's forward, without attention's",
    "two products, as published (arXiv 2407.11633; FLOPs are double, and guidance makes two forwards of one)",
)


def listed_models(models: Iterable[ModelShape]) -> list[str]:
    """A table of networks: shape, parameters in all and those that a token meets, multiply-accumulates of an image."""
    head = ["model", "layers", "hidden", "heads", "experts", "top-k", "tokens", "parameters", "active", "MACs"]
    rows = [
        [each.name, *map(str, (each.layers, each.hidden, each.heads, each.experts, each.top_k, each.tokens)),
         _billions(parameters(each)), _billions(parameters(each, each.top_k)), _giga(forward_macs(each))]
        for each in models
    ]  # fmt: skip
    return [*grid(head, rows), "", *_LEGEND]


def model_lines(model: ModelShape, ranks: int = 8, wire: str = "bfloat16", dtype: str = "bf16") -> list[str]:
    """What a network is made of, by part; what its weights take, in all and on each of `ranks` that share its experts;
    what a token sends.

    Raises ValueError for experts that the ranks cannot share equally, and for a wire or dtype that nobody knows."""
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    if model.experts % ranks:
        raise ValueError(f"{model.experts} experts cannot be shared equally by {ranks} ranks")
    held = (parameters(model, experts) for experts in (model.experts, model.experts // ranks, model.top_k))
    whole, shared, met = (readable("_bytes", each * DTYPES[dtype]) for each in held)
    row_bytes = Workload(model, ranks, 1, wire).row_bytes
    layer_bytes = model.top_k * row_bytes
    return [
        f"{model.name}: {model.layers} layers, hidden {model.hidden}, {model.heads} heads; {model.experts} experts of "
        f"width {model.expert_inner}, {model.top_k} a token,",
        f"shared experts of width {model.shared_inner} together; {model.tokens} tokens an image",
        "",
        *_parts(model),
        "",
        *_LEGEND,
        f"weights in {dtype}: {whole}; {met} of them active; {shared} on each of {ranks} ranks that share the experts",
        f"a token is dispatched as {model.top_k} rows of {readable('_bytes', row_bytes)} ({wire}): "
        f"{readable('_bytes', layer_bytes)} a layer, {readable('_bytes', model.layers * layer_bytes)} a forward;",
        "its combines bring as much back",
    ]


def _parts(model: ModelShape) -> list[str]:
    """A table: a kind of op a line."""
    held, active = (parameters_by_kind(model, experts) for experts in (model.experts, model.top_k))
    macs, products = macs_by_kind(model), _macs(attention_macs(model), model)
    rows = [[KINDS[kind], _billions(held[kind]), _billions(active[kind]), *_macs(macs[kind], model)] for kind in held]
    whole = ["all", _billions(parameters(model)), _billions(parameters(model, model.top_k))]
    rows += [[*whole, *_macs(forward_macs(model), model)], ["attention's two products", "-", "-", *products]]
    return grid(["part", "parameters", "active", "MACs", "MACs a token"], rows)


def _macs(number: float, model: ModelShape) -> tuple[str, str]:
    return _giga(number), _giga(number / model.tokens)


def _billions(number: float) -> str:
    return _counted(number, " kMBT")


def _giga(number: float) -> str:
    return _counted(number, " kMGT")


def _counted(number: float, prefixes: str) -> str:
    """In four digits: "4.168 B", "71.81 M"."""
    thousands = min(max(len(f"{number:.0f}") - 1, 0) // 3, len(prefixes) - 1)
    return f"{number / 1000**thousands:.4g} {prefixes[thousands]}".rstrip()
