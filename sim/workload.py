"""A workload: what every rank has to compute and send, as shapes and token counts.

A ModelShape is the network (DiT-MoE's table is in `MODELS`); a Workload adds images, ranks, how rows travel, and which
tokens go where (sim/routing.py).  It knows bytes and rows; it refuses to know seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.replay import Replay, replay
from sim.routing import Routing
from sim.schedule import Op, Schedule
from sim.tables import CLOSED

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelShape:
    """A DiT-MoE: every block has attention and a mixture of experts (arXiv 2407.11633, feizc/DiT-MoE).

    A routed expert is SwiGLU of inner width mlp_ratio x hidden; the shared experts are one SwiGLU of inner width
    shared_experts x hidden.  Other networks of experts differ in what stands below `qk_norm`; as DiT-MoE has it, if not
    given."""

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
    expert_width: int | None = None  # inner width of a routed expert (then mlp_ratio is not read)
    shared_width: int | None = None  # inner width of all shared experts together
    frames: int = 1  # of a video, in latent space
    text_tokens: int = 0  # of a prompt, which go through every layer beside the image's
    adaln: bool = True  # each block computes its modulation (else it adds a table to one of the whole network)
    learn_sigma: bool = True  # twice as many channels come out
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("shared_experts", "text_tokens") else 1
            given = "int" in str(field.type) and not (value is None and "None" in str(field.type))
            if given and (type(value) is not int or value < least):
                size = "from 0 up" if least == 0 else "above 0"
                raise ValueError(f"model {self.name}: {field.name}={value!r} should be a whole number {size}")
            if field.type == "bool" and type(value) is not bool:
                raise ValueError(f"model {self.name}: {field.name}={value!r} should be true or false")
        for what, whole, part in [("hidden", self.hidden, self.heads), ("latent", self.latent, self.patch)]:
            if whole % part:
                raise ValueError(f"model {self.name}: {what}={whole} is not divisible by {part}")
        if self.top_k > self.experts:
            raise ValueError(f"model {self.name}: top_k={self.top_k} of only {self.experts} experts")
        if self.shared_width and not self.shared_experts:
            raise ValueError(f"model {self.name}: shared_width={self.shared_width}, but shared_experts=0")

    @property
    def tokens(self) -> int:
        """Tokens of one image (or video), with its text."""
        return self.frames * (self.latent // self.patch) ** 2 + self.text_tokens

    @property
    def beyond_dit_moe(self) -> list[str]:
        """Settings that no DiT-MoE has: realrun/model.py, which is one, must refuse them."""
        plain = {each.name: each.default for each in fields(self)}
        names = ("expert_width", "shared_width", "frames", "text_tokens", "adaln", "learn_sigma")
        strange = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) != plain[name]]
        return strange + ([] if self.shared_experts else ["shared_experts=0"])

    @property
    def expert_inner(self) -> int:
        """Inner width of a routed expert."""
        return self.expert_width or self.mlp_ratio * self.hidden

    @property
    def shared_inner(self) -> int:
        """Inner width of the shared experts."""
        return self.shared_width or self.shared_experts * self.hidden

    @property
    def output_channels(self) -> int:
        """Channels that the final layer computes."""
        return (1 + self.learn_sigma) * self.channels


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
    dtype: str | None = None  # of compute on a Gpu: a key of sim.gpu.DTYPES; None: bf16 there
    grouped: bool = False  # on a Gpu, a rank's experts run in one kernel; else one after the other
    replay: Replay | None = None  # what a policy made of the routing; `fits` says

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
        if schedule.policy is None:
            return replace(self, routing=routing)
        numbers = np.stack([self.token_numbers(schedule, rank) for rank in range(self.ranks)])
        played = replay(schedule, routing, numbers)
        return replace(self, routing=Routing(played.travelling, routing.source), replay=played)

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

    def token_numbers(self, schedule: Schedule, rank: int) -> npt.NDArray[np.int64]:
        """[token] of `rank`, in the order of its forward: numbers that tell a token from every other of the run.

        They do not depend on how the images are shared out: 2 x T a image, its conditional half first."""
        tokens, ranks = self.model.tokens, self.ranks
        images = range(self.images * ranks) if schedule.sharded_patches else range(self.images)
        first = 0 if schedule.sharded_patches else rank * self.images
        mine = np.array_split(np.arange(tokens), ranks)[rank] if schedule.sharded_patches else np.arange(tokens)
        halves = [(first + image) * 2 * tokens + half * tokens for half in (0, 1) for image in images]
        numbers: npt.NDArray[np.int64] = (np.array(halves)[:, None] + mine).ravel()
        return numbers

    def rows(self, schedule: Schedule, op: Op, slots: Sequence[int] | None = None) -> Array:
        """Rows [src, dst] that a dispatch carries (or its experts compute, or its combine carries back: transposed).

        [r, r] stays at home: all where experts are replicated.  `op` is any of D, E, C; its slots are those that the
        first op of its chain sends (or of these `slots`), its experts those of its piece."""
        rows: Array = self._rows_of_experts(schedule, op, slots).sum(axis=1)
        return rows if schedule.sharded_experts else np.diag(rows[:, 0])

    def expert_rows(self, schedule: Schedule, op: Op) -> Array:
        """Rows [rank, expert] that each expert computes in the E `op`, of those that the rank holds."""
        rows = self._rows_of_experts(schedule, op)
        found: Array = rows.sum(axis=0).T if schedule.sharded_experts else rows[:, :, 0]
        return found

    def _rows_of_experts(self, schedule: Schedule, op: Op, slots: Sequence[int] | None = None) -> Array:
        """Rows [src, expert of its home, home] of the chain of `op`; without sharded experts, home is src."""
        assert self.routing is not None, "call fits() first"
        counts = self.routing.at(op.step, op.layer or 0, schedule.parts.index(op.part))
        by_expert = counts[list(slots or schedule.chain_slots(op))].sum(axis=0)
        by_expert = np.broadcast_to(by_expert, (self.ranks, self.model.experts))  # [src, expert]
        homes = self.ranks if schedule.sharded_experts else 1
        per_home = by_expert.reshape(self.ranks, -1, homes)  # expert e = i * homes + home
        held = per_home.shape[1] // schedule.pieces
        mine: Array = per_home[:, held * (op.piece or 0) : held * ((op.piece or 0) + 1)]
        return mine.astype(np.float64)

    def moved_bytes(self, schedule: Schedule, op: Op) -> Array:
        """Bytes [src, dst] that the collective `op` (D, C or K) brings from rank to rank; [r, r] stays at home.

        K: keys and values of a rank's rows, to every rank, for each of its layers."""
        if op.kind == "K":
            rows = np.full((self.ranks, self.ranks), self.tokens / schedule.micro_batches)
            return rows * float(2 * len(schedule.layers_of(op)) * self.row_bytes)
        rows = self.rows(schedule, op)
        return (rows if op.kind == "D" else rows.T) * float(self.row_bytes)

    def sent_bytes(self, schedule: Schedule, op: Op) -> Array:
        """`moved_bytes` that links carry: 0 on the diagonal."""
        sent = self.moved_bytes(schedule, op)
        np.fill_diagonal(sent, 0.0)
        return sent

    def about(self) -> dict[str, str]:
        """What a Trace notes of its workload."""
        model = {k: str(v) for k, v in asdict(self.model).items() if k != "name"}
        routing = self.routing.source if self.routing else "balanced"
        return {"model": self.model.name, **{f"model.{k}": v for k, v in model.items()}, "ranks": str(self.ranks),
                "images": str(self.images), "wire": self.wire, "routing": routing,
                **({"dtype": self.dtype} if self.dtype else {}), **({"grouped": "yes"} if self.grouped else {}),
                }  # fmt: skip
