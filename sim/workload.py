"""A workload: what every rank has to compute and send, as shapes and token counts.

A ModelShape is the network (DiT-MoE's table is in `MODELS`), a Routing says how many tokens go to which expert, and a
Workload adds images, ranks and element sizes.  It knows bytes and FLOPs; it refuses to know seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.routing import Routing
from sim.schedule import Op, Schedule

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelShape:
    """A DiT-MoE: every block has attention and a mixture of experts (arXiv 2407.11633, feizc/DiT-MoE).

    A routed expert is SwiGLU of inner width mlp_ratio x hidden; the shared experts are one SwiGLU of inner width
    shared_experts x hidden."""

    name: str
    layers: int
    hidden: int
    heads: int
    experts: int
    top_k: int = 2
    shared_experts: int = 2
    mlp_ratio: int = 4
    patch: int = 2
    channels: int = 4
    classes: int = 1000
    latent: int = 32  # side of the latent image: 32 for 256 px, 64 for 512 px
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"model {self.name}: {field.name}={value!r} should be a whole number above 0")
        for what, whole, part in [("hidden", self.hidden, self.heads), ("latent", self.latent, self.patch)]:
            if whole % part:
                raise ValueError(f"model {self.name}: {what}={whole} is not divisible by {part}")
        if self.top_k > self.experts:
            raise ValueError(f"model {self.name}: top_k={self.top_k} of only {self.experts} experts")

    @property
    def tokens(self) -> int:
        """Tokens of one image."""
        return (self.latent // self.patch) ** 2


_DIT_MOE = [("S", 12, 384, 6, 8), ("S-16E", 12, 384, 6, 16), ("B", 12, 768, 12, 8), ("L", 24, 1024, 16, 8)]
_DIT_MOE += [("XL", 28, 1152, 16, 8), ("G", 40, 1408, 16, 16)]
MODELS = {
    "tiny": ModelShape("tiny", layers=4, hidden=256, heads=4, experts=8, classes=10, latent=16),  # for two cores
    **{
        name: ModelShape(name, layers, hidden, heads, experts, qk_norm=name in ("XL", "G"))
        for name, layers, hidden, heads, experts in _DIT_MOE
    },
}


class Wire(NamedTuple):
    """How rows travel: bytes of an element, and bytes that each row needs beside them (its scale)."""

    element_bytes: int
    row_bytes: int = 0


WIRES = {
    "float64": Wire(8),
    "float32": Wire(4),
    "bfloat16": Wire(2),
    "float16": Wire(2),
    "float8": Wire(1, 4),  # e4m3, and a float32 a row
    "int8": Wire(1, 4),
}


@dataclass(frozen=True)
class Workload:
    """What each of `ranks` ranks works on: `images` of its own (so 2 x images x tokens rows: both guidance halves go
    through the network in one forward), with expert e on rank e mod ranks.

    Under a schedule with sharded patches it has as many rows, but of all ranks x images images, a share of each."""

    model: ModelShape
    ranks: int
    images: int
    wire: str = "bfloat16"  # how elements travel: a key of WIRES
    routing: Routing | None = None  # None: balanced

    def __post_init__(self) -> None:
        for name, most in [("ranks", 2**20), ("images", 2**20)]:
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"workload: {name}={getattr(self, name)} should be at least 1 and at most {most}")
        if self.wire not in WIRES:
            raise ValueError(f"workload: unknown wire {self.wire!r}; known: {', '.join(WIRES)}")

    @property
    def tokens(self) -> int:
        """Rows that a rank carries through the network: 2 (guidance) x images x tokens of an image."""
        return 2 * self.images * self.model.tokens

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (a token's hidden state, or an expert's output of it) on the wire."""
        wire = WIRES[self.wire]
        return self.model.hidden * wire.element_bytes + wire.row_bytes

    def home(self, expert: int) -> int:
        """The rank that holds `expert`."""
        return expert % self.ranks

    def fits(self, schedule: Schedule) -> Workload:
        """Returns the workload itself, with its routing spelt out, if `schedule` can be run on it.

        Raises ValueError that names what does not fit: layers, top_k, experts, patches, micro-batches, or the recorded
        routing, whose slots should route every token of a rank."""
        model, parts = self.model, schedule.micro_batches
        self._check_shares(schedule)
        for key in ("layers", "top_k"):
            if getattr(schedule, key) != getattr(model, key):
                raise ValueError(
                    f"schedule {schedule.name} has {key}={getattr(schedule, key)}, "
                    f"but model {model.name} has {key}={getattr(model, key)}"
                )
        routing = (self.routing or Routing.balanced(model, self.ranks, self.tokens, parts)).cut(parts)
        shape = routing.counts.shape
        want = (schedule.steps, model.layers, parts, model.top_k, self.ranks, model.experts)
        if any(
            n != w and (n != 1 or axis not in (0, 1, 4)) for axis, (n, w) in enumerate(zip(shape, want, strict=True))
        ):
            raise ValueError(f"routing {routing.source} has shape {shape}; schedule and model need {want}")
        if not np.allclose(tokens := routing.counts.sum(axis=-1), self.tokens / parts):
            raise ValueError(
                f"routing {routing.source} routes {tokens.min():g} to {tokens.max():g} tokens of a rank; "
                f"{self.images} images in {parts} micro-batches have {self.tokens / parts:g}"
            )
        return replace(self, routing=routing)

    def _check_shares(self, schedule: Schedule) -> None:
        """Raises ValueError if experts, tokens or images cannot be shared out evenly as `schedule` wants."""
        model, name = self.model, schedule.name
        if schedule.sharded_experts and model.experts % self.ranks:
            raise ValueError(f"workload: {model.experts} experts cannot be spread evenly over {self.ranks} ranks")
        held = model.experts // self.ranks if schedule.sharded_experts else model.experts
        if held % schedule.pieces:
            raise ValueError(
                f"schedule {name} cuts the experts of a rank into pieces={schedule.pieces}, which has {held}"
            )
        if schedule.sharded_patches and model.latent // model.patch % self.ranks:
            rows = model.latent // model.patch
            raise ValueError(f"schedule {name} shares out patches, but {rows} rows of them over {self.ranks} ranks")
        images = 2 * self.images * (self.ranks if schedule.sharded_patches else 1)
        if images % schedule.micro_batches:
            parts = schedule.micro_batches
            raise ValueError(f"{images} rows of images (with guidance) do not divide into {parts} micro-batches")

    def rows(self, schedule: Schedule, op: Op) -> Array:
        """Rows [src, dst] that a dispatch carries (or its experts compute, or its combine carries back: transposed).

        [r, r] stays at home: all where experts are replicated.  `op` is any of D, E, C; its slots are those that the
        first op of its chain sends, its experts those of its piece."""
        assert self.routing is not None, "call fits() first"
        counts = self.routing.at(op.step, op.layer or 0, schedule.parts.index(op.part))
        by_expert = counts[list(schedule.chain_slots(op))].sum(axis=0)  # [src, expert], one src for all or each its own
        by_expert = np.broadcast_to(by_expert, (self.ranks, self.model.experts))
        homes = self.ranks if schedule.sharded_experts else 1
        per_home = by_expert.reshape(self.ranks, -1, homes)  # expert e = i * homes + home
        held = per_home.shape[1] // schedule.pieces
        mine = per_home[:, held * (op.piece or 0) : held * ((op.piece or 0) + 1)]
        rows: Array = mine.sum(axis=1).astype(np.float64)
        return rows if schedule.sharded_experts else np.diag(rows[:, 0])

    def sent_bytes(self, schedule: Schedule, op: Op) -> Array:
        """Bytes [src, dst] that the collective `op` (D, C or K) sends over links; the diagonal stays at home: 0.

        K: keys and values of a rank's rows, to every other rank, for each of its layers."""
        if op.kind == "K":
            rows = np.full((self.ranks, self.ranks), self.tokens / schedule.micro_batches)
            sent = rows * float(2 * len(schedule.layers_of(op)) * self.row_bytes)
        else:
            rows = self.rows(schedule, op)
            sent = (rows if op.kind == "D" else rows.T) * float(self.row_bytes)
        np.fill_diagonal(sent, 0.0)
        return sent

    def about(self) -> dict[str, str]:
        """What a Trace notes of its workload."""
        model = {k: str(v) for k, v in asdict(self.model).items() if k != "name"}
        routing = self.routing.source if self.routing else "balanced"
        return {"model": self.model.name, **{f"model.{k}": v for k, v in model.items()}, "ranks": str(self.ranks),
                "images": str(self.images), "wire": self.wire, "routing": routing}  # fmt: skip
