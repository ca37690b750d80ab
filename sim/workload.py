"""A workload: what every rank has to compute and send, as shapes and token counts.

A ModelShape is the network (sim/shape.py); a Workload adds images, ranks and their mesh (sim/mesh.py), how rows travel,
which tokens go where (sim/routing.py) and where experts live (sim/placement.py).  It knows bytes and rows; it refuses
to know seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sim.mesh import Mesh, number_of
from sim.placement import Placement
from sim.replay import Replay, replay
from sim.routing import Routing
from sim.schedule import Op, Schedule
from sim.shape import MODELS, ModelShape

__all__ = ["MODELS", "WIRES", "ModelShape", "Wire", "Workload"]

Array = npt.NDArray[np.float64]


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

    Under a schedule with sharded patches it has as many rows, but of all ranks x images images, a share of each.  A
    mesh says who shares images, halves and experts instead; where the halves are on different ranks, each of the two
    has images x tokens rows, of the same images."""

    model: ModelShape
    ranks: int
    images: int
    wire: str = "bfloat16"  # how elements travel: a key of WIRES
    routing: Routing | None = None  # None: balanced
    dtype: str | None = None  # of compute on a Gpu: a key of sim.gpu.DTYPES; None: bf16 there
    grouped: bool = False  # on a Gpu, a rank's experts run in one kernel; else one after the other
    replay: Replay | None = None  # what a policy made of the routing; `fits` says
    guidance: bool = True  # False: there is no second half (guidance off, or distilled into the network)
    mesh: Mesh | None = None  # None: one group of all ranks
    placement: Placement | None = None  # of experts on the ranks of a group; None: expert e on rank e mod ranks

    def __post_init__(self) -> None:
        for name, most in [("ranks", 2**20), ("images", 2**20)]:
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"workload: {name}={getattr(self, name)} should be at least 1 and at most {most}")
        if self.wire not in WIRES:
            raise ValueError(f"workload: unknown wire {self.wire!r}; known: {', '.join(WIRES)}")
        if self.mesh is not None and self.mesh.of_world(self.ranks).guidance > 1 and not self.guidance:
            raise ValueError(f"mesh {self.mesh}: without guidance there is no second half for guidance=2")

    @property
    def halves(self) -> int:
        """Guidance halves of an image that a rank has in its forward."""
        return 2 if self.guidance and (self.mesh is None or self.mesh.guidance == 1) else 1

    @property
    def tokens(self) -> int:
        """Rows that a rank carries through the network: halves x images x tokens of an image."""
        return self.halves * self.images * self.model.tokens

    @property
    def images_in_all(self) -> int:
        """Images that all ranks make together."""
        return self.images * self.ranks // (1 if self.mesh is None else self.mesh.guidance)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (a token's hidden state, or an expert's output of it) on the wire."""
        wire = WIRES[self.wire]
        return self.model.hidden * wire.element_bytes + wire.row_bytes

    # ------------------------------------------------------------------------------------------- the mesh

    def mesh_of(self, schedule: Schedule) -> Mesh:
        """Its mesh, or the one that `schedule` means: one group of all ranks."""
        return self._meshes[schedule.sharded_patches]

    @cached_property
    def _meshes(self) -> tuple[Mesh, Mesh]:
        """By whether patches are sharded."""
        whole, shared = (self.mesh or Mesh.of(self.ranks, sharded) for sharded in (False, True))
        return whole, shared

    def teams(self, schedule: Schedule, op: Op) -> tuple[tuple[int, ...], ...]:
        """Ranks that meet in the collective `op`, a tuple each."""
        mesh = self.mesh_of(schedule)
        return mesh.sharers if op.kind == "K" else mesh.groups

    def forward_images(self, schedule: Schedule) -> int:
        """Images, a guidance half being one of its own, of which a rank has rows in its forward."""
        return self.halves * self.images * self.mesh_of(schedule).patch

    def held_experts(self, schedule: Schedule) -> int:
        """Experts of a layer that a rank holds."""
        if not schedule.sharded_experts:
            return self.model.experts
        return self.placement.held_experts if self.placement else self.model.experts // self._degree(schedule)

    def home(self, expert: int) -> int:
        """The rank that holds `expert`, where there is one group and no placement."""
        return expert % self.ranks

    def _degree(self, schedule: Schedule) -> int:
        return self.mesh_of(schedule).group_ranks

    # ------------------------------------------------------------------------------------- does it fit

    def fits(self, schedule: Schedule) -> Workload:
        """Returns the workload itself, with its routing spelt out, if `schedule` can be run on it.

        Raises ValueError that names what does not fit: mesh, placement, layers, top_k, experts, patches,
        micro-batches, or the recorded routing, whose slots should route every token of a rank."""
        model, parts = self.model, schedule.micro_batches
        self._check_mesh(schedule)
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

    def _check_mesh(self, schedule: Schedule) -> None:
        """Raises ValueError if the mesh or the placement says what `schedule` does not do, or the other way round."""
        mesh, name, placement = self.mesh, schedule.name, self.placement
        if mesh is not None and self.ranks > 1:
            if mesh.patch > 1 and not schedule.sharded_patches:
                raise ValueError(f"mesh: patch={mesh.patch} has no effect: in schedule {name} images are whole")
            if mesh.patch == 1 and schedule.sharded_patches:
                raise ValueError(f"mesh: schedule {name} shares out patches; say over how many ranks, as patch=2")
            if mesh.expert > 1 and not schedule.sharded_experts:
                told = f"experts are on every rank in schedule {name}"
                raise ValueError(f"mesh: expert={mesh.expert} has no effect: {told}; say data={mesh.expert}")
        if placement is None:
            return
        if not schedule.sharded_experts:
            raise ValueError(
                f"placement {placement.source} has no effect: schedule {name} has all experts on each rank"
            )
        found = (placement.ranks, placement.experts)
        want = (self._degree(schedule), self.model.experts)
        if found != want:
            raise ValueError(
                f"placement is of {found[1]} experts on {found[0]} ranks; there are {want[1]} on {want[0]}"
            )
        if len(placement.holders) not in (1, self.model.layers):
            raise ValueError(
                f"placement has {len(placement.holders)} layers, model {self.model.name} {self.model.layers}"
            )

    def _check_shares(self, schedule: Schedule) -> None:
        """Raises ValueError if experts, tokens or images cannot be shared out evenly as `schedule` wants."""
        model, name, mesh = self.model, schedule.name, self.mesh_of(schedule)
        if schedule.sharded_experts and self.placement is None and model.experts % mesh.group_ranks:
            raise ValueError(f"workload: {model.experts} experts cannot be spread evenly over {mesh.group_ranks} ranks")
        held = self.held_experts(schedule)
        if held % schedule.pieces:
            raise ValueError(
                f"schedule {name} cuts the experts of a rank into pieces={schedule.pieces}, which has {held}"
            )
        if schedule.sharded_patches and model.latent // model.patch % mesh.patch:
            rows = model.latent // model.patch
            raise ValueError(f"schedule {name} shares out patches, but {rows} rows of them over {mesh.patch} ranks")
        images = self.forward_images(schedule)
        if images % schedule.micro_batches:
            parts, both = schedule.micro_batches, " (with guidance)" if self.halves > 1 else ""
            raise ValueError(f"{images} rows of images{both} do not divide into {parts} micro-batches")

    # --------------------------------------------------------------------------------------- rows and bytes

    def token_numbers(self, schedule: Schedule, rank: int) -> npt.NDArray[np.int64]:
        """[token] of `rank`, in the order of its forward: numbers that tell a token from every other of the run.

        They do not depend on how the images are shared out: 2 x T a image, its conditional half first."""
        tokens, mesh = self.model.tokens, self.mesh_of(schedule)
        place = mesh.coordinates[rank]
        first = mesh.images_before(rank) * self.images
        images = range(first, first + self.images * mesh.patch)
        mine = np.array_split(np.arange(tokens), mesh.patch)[place["patch"]]
        halves = range(2) if self.halves > 1 else (place["guidance"],)
        starts = [image * 2 * tokens + half * tokens for half in halves for image in images]
        numbers: npt.NDArray[np.int64] = (np.array(starts)[:, None] + mine).ravel()
        return numbers

    def rows(self, schedule: Schedule, op: Op, slots: Sequence[int] | None = None) -> Array:
        """Rows [src, dst] that a dispatch carries (or its experts compute, or its combine carries back: transposed).

        [r, r] stays at home: all where experts are replicated.  `op` is any of D, E, C; its slots are those that the
        first op of its chain sends (or of these `slots`), its experts those of its piece."""
        rows: Array = self._rows_of_experts(schedule, op, slots).sum(axis=1)
        if not schedule.sharded_experts:
            return np.diag(rows[:, 0])
        found = np.zeros((self.ranks, self.ranks))
        for group in self.mesh_of(schedule).groups:
            found[np.ix_(group, group)] = rows[list(group)]
        return found

    def expert_rows(self, schedule: Schedule, op: Op) -> Array:
        """Rows [rank, expert] that each expert computes in the E `op`, of those that the rank holds."""
        rows = self._rows_of_experts(schedule, op)
        if not schedule.sharded_experts:
            return rows[:, :, 0]
        found = np.empty((self.ranks, rows.shape[1]))
        for group in self.mesh_of(schedule).groups:
            found[list(group)] = rows[list(group)].sum(axis=0).T
        return found

    def _rows_of_experts(self, schedule: Schedule, op: Op, slots: Sequence[int] | None = None) -> Array:
        """Rows [src, expert of its home, home in its group] of the chain of `op`; without sharded experts, home is src.

        The only place that knows where experts live."""
        assert self.routing is not None, "call fits() first"
        counts = self.routing.at(op.step, op.layer or 0, schedule.parts.index(op.part))
        by_expert = counts[list(slots or schedule.chain_slots(op))].sum(axis=0)
        by_expert = np.broadcast_to(by_expert, (self.ranks, self.model.experts)).astype(np.float64)  # [src, expert]
        if self.placement is None:
            homes = self._degree(schedule) if schedule.sharded_experts else 1
            per_home = by_expert.reshape(self.ranks, -1, homes)  # expert e = i * homes + home
        else:
            groups = self.mesh_of(schedule).groups
            members = [groups[number].index(rank) for rank, number in enumerate(number_of(groups))]
            shares = self.placement.shares(op.layer or 0)[members]  # [src, home, expert of its home]
            per_home = (by_expert[:, self.placement.held(op.layer or 0)] * shares).transpose(0, 2, 1)
        held = per_home.shape[1] // schedule.pieces
        mine: Array = per_home[:, held * (op.piece or 0) : held * ((op.piece or 0) + 1)]
        return mine

    def moved_bytes(self, schedule: Schedule, op: Op) -> Array:
        """Bytes [src, dst] that the collective `op` (D, C or K) brings from rank to rank; [r, r] stays at home.

        K: keys and values of a rank's rows, to every rank that shares its images, for each of its layers."""
        if op.kind == "K":
            number = np.array(number_of(self.teams(schedule, op)))
            rows = np.where(number[:, None] == number, self.tokens / schedule.micro_batches, 0.0)
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
                **({} if self.guidance else {"guidance": "off"}),
                **({"mesh": str(self.mesh), "images_in_all": str(self.images_in_all)} if self.mesh else {}),
                **({"placement": self.placement.source} if self.placement else {}),
                }  # fmt: skip
