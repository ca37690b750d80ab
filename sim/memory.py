"""Memory: the most bytes that a rank needs at once, by what they are for, and whether a GPU has them.

Weights and buffers follow from model, schedule and token counts, and are exact; working space inside an op is an
estimate from the tensors that realrun/model.py makes; what library and allocator take is `Reserve`, assumed.  It knows
bytes; it refuses to know seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from sim.buffers import Buffer
from sim.cluster import Cluster
from sim.cost import element_bytes_of
from sim.gpu import Gpu
from sim.kernels import parameters
from sim.op import Op
from sim.schedule import Schedule
from sim.workload import Workload

Array = npt.NDArray[np.float64]
_P2P_BYTES = 12 * 2**20  # of one channel to one peer: 10 and 2 MiB, NCCL issue 1685
_MOST_IMAGES = 2**20


@dataclass(frozen=True)
class Reserve:
    """What a process takes beside its tensors.  Assumed, not measured here; the sources:

    context_bytes: CUDA context and math libraries, 0.3 to 1 GB (nairr.readthedocs.io, GPU estimation).
    channels: of a communicator to each peer, of 12 MiB: 32 on NVSwitch, where an all-to-all of 8 H100 took 3.3 GB
    (NCCL issue 1685: this says 2.8), 2 over PCIe (NCCL issue 1189).
    slack: share of the tensors' bytes that a caching allocator with several streams holds unused.
    vae_bytes: peak of decoding (sim/decode.py), after the last step, when buffers are gone; 0: not decoded here."""

    context_bytes: float = 0.5e9
    channels: int = 2
    slack: float = 0.08
    vae_bytes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("context_bytes", "channels", "slack", "vae_bytes"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"reserve: {name}={getattr(self, name)} should be at least 0 and finite")


def channels_of(cluster: Cluster) -> int:
    """Channels to each peer of a communicator on `cluster`."""
    gpu = cluster.compute
    return int(channels(cluster.interference.multiprocessors, gpu.multiprocessors if isinstance(gpu, Gpu) else 0))


def channels(share: float | Array, multiprocessors: float | Array) -> Array:
    """Channels to each peer: each holds a multiprocessor, of which communication has that share (sim/clusters)."""
    busy = np.rint(np.multiply(share, multiprocessors))
    return np.where(busy > 0, busy, Reserve().channels)


@dataclass(frozen=True)
class Memory:
    """The moment at which the fullest rank needs most: bytes by what they are for, and the op then under way."""

    rank: int
    at: str
    bytes_of: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> float:
        """All together."""
        return sum(self.bytes_of.values())

    def fits(self, memory_bytes: float) -> bool:
        """Whether a device of `memory_bytes` has enough."""
        return self.peak_bytes <= memory_bytes


def memory(schedule: Schedule, workload: Workload, element_bytes: int = 2, reserve: Reserve = Reserve()) -> Memory:
    """The peak of a run of `schedule` (checked) with `workload`; weights and activations take element_bytes each.

    Where a policy decides and the workload has no routing, all slots that it may send count: an upper bound.  Raises
    ValueError if schedule and workload do not fit each other."""
    if element_bytes < 1:
        raise ValueError(f"element_bytes={element_bytes} should be at least 1")
    workload = workload.fits(schedule if workload.routing is not None else replace(schedule, policy=None))
    held = _held(schedule, workload, element_bytes)  # what for -> [op, rank]
    inside = np.array([working_elements(op, schedule, workload) for op in schedule.ops]) * float(element_bytes)
    total = sum(held.values()) + inside
    at, rank = np.unravel_index(int(np.argmax(total)), total.shape)
    weights = parameters(workload.model, workload.held_experts(schedule)) * element_bytes
    tensors = {"weights": float(weights), **{what: float(each[at, rank]) for what, each in held.items()},
               "working space": float(inside[at, rank])}  # fmt: skip
    library = {
        "context": reserve.context_bytes,
        "communicators": reserve.channels * channel_bytes(schedule, workload),
        "allocator slack": reserve.slack * (sum(tensors.values()) - weights),
        "VAE decoding": max(0.0, reserve.vae_bytes - (sum(tensors.values()) - weights)),
    }
    return Memory(int(rank), schedule.ops[int(at)].name, {k: v for k, v in {**tensors, **library}.items() if v})


def memory_on(cluster: Cluster, schedule: Schedule, workload: Workload) -> Memory:
    """`memory` with what `cluster` computes in, and its channels."""
    return memory(schedule, workload, element_bytes_of(workload, cluster), Reserve(channels=channels_of(cluster)))


def channel_bytes(schedule: Schedule, workload: Workload) -> float:
    """Of one channel to each peer, of all communicators of a rank."""
    return float((len(schedule.streams) - 1) * (workload.mesh_of(schedule).group_ranks - 1) * _P2P_BYTES)


def buffer_bytes(
    buffers: Iterable[Buffer], schedule: Schedule, workload: Workload, element_bytes: int = 2
) -> dict[str, Array]:
    """What some buffers of `schedule` take together (those of `Schedule.persistent` or `alive`): what for -> bytes
    [rank].

    `workload` must have been fitted to the schedule (`Workload.fits`)."""
    total: dict[str, Array] = defaultdict(lambda: np.zeros(workload.ranks))
    for buffer in buffers:
        total[buffer.what] += _buffer_elements(buffer, schedule, workload) * element_bytes
    return dict(total)


def _held(schedule: Schedule, workload: Workload, element_bytes: int) -> dict[str, Array]:
    """What waits between ops: what for -> bytes [op, rank] while each op runs."""
    change: dict[str, Array] = defaultdict(lambda: np.zeros((len(schedule.ops) + 1, workload.ranks)))
    for what, born, dies, size in lifetimes(schedule, workload, element_bytes):
        change[what][born] += size
        change[what][dies + 1] -= size
    return {what: np.cumsum(each, axis=0)[:-1] for what, each in change.items()}


def lifetimes(
    schedule: Schedule, workload: Workload, element_bytes: int = 2
) -> Iterator[tuple[str, int, int, Array | float]]:
    """(what for, position of the op that makes it, position of its last user, bytes [rank] or of every rank) of
    whatever waits between ops: buffers, then activations.

    `workload` must have been fitted to the schedule (`Workload.fits`)."""
    sizes: dict[tuple[object, ...], Array] = {}
    for buffer in schedule.buffers:
        varies = (buffer.step, buffer.layer) if _by_step(workload) else ()
        key = (buffer.what, buffer.part, buffer.slot, buffer.piece, *varies)
        if key not in sizes:
            sizes[key] = _buffer_elements(buffer, schedule, workload) * element_bytes
        yield buffer.what, buffer.born, buffer.dies, sizes[key]
    rows = workload.tokens / schedule.micro_batches
    last = {j: i for i, needs in enumerate(schedule.needs) for j in needs}
    for born, op in enumerate(schedule.ops):
        if op.kind in _BETWEEN:
            dies = last[born] if op.kind != "A" else schedule.position[op._replace(kind="R", reads=()).name]
            parts = schedule.micro_batches if op.layer is None else 1
            yield "activations", born, dies, _BETWEEN[op.kind] * rows * parts * workload.model.hidden * element_bytes


_BETWEEN = {"P": 1, "Q": 4, "A": 2, "S": 1, "R": 1}  # kind -> rows x hidden that its result takes until it is used


def _by_step(workload: Workload) -> bool:
    placed = workload.placement is not None and len(workload.placement.holders) > 1
    return placed or (workload.routing is not None and max(workload.routing.counts.shape[:2]) > 1)


def _buffer_elements(buffer: Buffer, schedule: Schedule, workload: Workload) -> Array:
    """Elements [rank] of a buffer."""
    op = schedule.ops[buffer.born]
    tokens = workload.tokens / schedule.micro_batches
    if buffer.what == "router weights":
        return np.full(workload.ranks, tokens)
    if buffer.what == "keys and values":
        sharers = workload.mesh_of(schedule).patch
        return np.full(workload.ranks, 2 * sharers * tokens * workload.model.hidden)
    whole = [op._replace(kind=schedule.head, piece=piece) for piece in schedule.piece_numbers]
    pieces = [op] if op.kind in "DEC" else whole
    rows = np.sum([workload.rows(schedule, piece, slots=(buffer.slot,)) for piece in pieces], axis=0)  # [src, home]
    at_home = buffer.what in ("received dispatch", "sent combine")
    found: Array = rows.sum(axis=0 if at_home else 1) * workload.model.hidden
    return found


def working_elements(op: Op, schedule: Schedule, workload: Workload) -> Array:
    """Elements [rank] that `op` makes and drops again, beside its inputs and its result: an estimate.

    A: normed rows, q, k, v, their mix and its projection.  S and E: gate, up and their product.  R: rows back in the
    tokens' order, and their sum.  Ignores what kernels use inside (flash attention holds no scores)."""
    model, rows = workload.model, workload.tokens / (schedule.micro_batches if op.layer is not None else 1)
    if op.kind == "E":
        computed: Array = workload.rows(schedule, op).sum(axis=0)
        return 3 * computed * model.expert_inner
    hidden = model.hidden
    each = {"Q": hidden, "A": (3 if schedule.sharded_patches else 6) * hidden, "S": 3 * model.shared_inner,
            "R": (model.top_k + 1) * hidden, "F": 2 * hidden}  # fmt: skip
    return np.full(workload.ranks, each.get(op.kind, 0) * rows)


def most_images(
    schedule: Schedule, workload: Workload, memory_bytes: float, element_bytes: int = 2, reserve: Reserve = Reserve()
) -> int:
    """The most images a rank for which a run fits into `memory_bytes` of every rank; 0 if not even one does.

    Routing is taken as balanced, since recorded token counts are of one number of images."""

    def fits(images: int) -> bool:
        balanced = replace(workload, images=images, routing=None)
        if balanced.forward_images(schedule) % schedule.micro_batches:
            return fits(images + 1)
        return memory(schedule, balanced, element_bytes, reserve).fits(memory_bytes)

    low, high = 0, 1
    while high < _MOST_IMAGES and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
