"""The publication's machine, inferred: the preset 8x-rtx4090 with one parameter set, and what is not known of it.

The parameter is a factor on the rates of what ranks share (bridges, the hosts' memory, the way between sockets) on the
machine whose links were fitted, 8x-l40s.  It is set so that the all-to-alls take the published share of synchronous XL
at 16 images a rank, and from nothing else.  The preset holds the rates that follow with its own values (links.py).
The file knows a machine; it refuses to know any published speed-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.optimize import brentq, root_scalar

from sim.cluster import COMPUTE_KINDS, Cluster, Interference
from sim.engine import simulate
from sim.gpu import Gpu
from sim.load import load_schedule
from sim.routing import Routing
from sim.schedule import Schedule
from sim.trace import Trace
from sim.transfers.fabric import Fabric
from sim.transfers.network import Network, Resource
from sim.workload import MODELS, Workload

PRESET, BASE = "8x-rtx4090", "8x-l40s"
MODEL = MODELS["XL"]
SHARE, SHARE_IMAGES = 0.733, 16  # of all-to-alls in synchronous XL, as published
SHARED = ("bridge", "host", "sockets")  # resources of BASE whose rates the parameter multiplies
_SHARE_STEPS = 3  # with jitter; without, a synchronous step is like any other
_FACTORS = 0.2, 50.0  # between which the parameter is looked for
_LIKELY = 3.0, 3.5  # where the search begins
_RAMP_BYTES = 1e6  # far below any all-to-all here, far above a count exchange


@dataclass(frozen=True)
class Doubt:
    """One value of everything that is not known of the machine; each default is the preset's, but for its jitter.

    compute: factor on the shares of peak and memory bandwidth that products reach.  unscaled: share of the time of an
    all-to-all at 16 images that does not depend on its bytes.  share_waits: the published share counts what a rank
    waits for the others, as the time of a collective's kernel does."""

    compute: float = 1.0
    attention_share: float = 0.5
    slow_compute: float | None = None  # of every kind of op; else as the preset has them
    slow_transfer: float | None = None
    launch_s: float = 5e-6
    collective_s: float = 2e-5
    jitter: float = 0.0
    imbalance: float = 1.0
    unscaled: float = 0.0
    wire: str = "float16"
    share_waits: bool = False
    seed: int = 0  # of jitter and of routing


RANGES: dict[str, tuple[float, float, str]] = {  # name -> ends, and where they come from
    "compute": (0.6, 1.0, "the fit, of a GPU of the same kind, is an upper end: clocks, power limits, eager code"),
    "attention_share": (0.2, 0.7, "plain attention to FlashAttention-2's best (arXiv 2307.08691)"),
    "slow_compute": (0.0, 0.4, "published for NVLink: 19 % on average, up to 40 %"),
    "slow_transfer": (0.0, 0.4, "the same, the other way round"),
    "launch_s": (3e-6, 15e-6, "CUDA launches alone, to PyTorch's eager mode on a slow host"),
    "collective_s": (1e-5, 6e-5, "the same for a collective"),
    "jitter": (0.0, 0.05, "standard deviation of the logarithm of an op's time"),
    "imbalance": (1.0, 1.3, "load of a layer's most loaded expert over the mean, of a router trained for balance"),
    "unscaled": (0.0, 0.5, "8 x L40S: 128 MiB take 2.4 times as long as 32 MiB, so half of the latter is not bytes"),
}


def draw(seed: int) -> Doubt:
    """A doubt with every value drawn evenly from RANGES, and the wire and what the share counts tossed for."""
    random = np.random.default_rng(seed)
    values = {key: float(random.uniform(low, high)) for key, (low, high, _) in RANGES.items()}
    wire, waits = str(random.choice(["float16", "float32"])), bool(random.integers(2))
    return Doubt(**values, wire=wire, share_waits=waits, seed=seed)


@cache  # reading YAML takes longer than a synchronous step
def _named(name: str) -> Cluster:
    return Cluster.load(name)


def machine(doubt: Doubt, factor: float) -> Cluster:
    """The preset as `doubt` has it, with the shared rates of BASE times `factor`."""
    preset = _named(PRESET)
    gpu, link = preset.compute, preset.link
    assert isinstance(gpu, Gpu)
    assert isinstance(link, Network)
    reached = {key: getattr(gpu.gemm, key) * doubt.compute for key in ("compute_share", "memory_share")}
    return replace(
        preset,
        compute=replace(gpu, attention_share=doubt.attention_share, gemm=replace(gpu.gemm, **reached)),
        link=_link(link, preset.ranks, doubt, factor),
        host=replace(preset.host, launch_s=doubt.launch_s, collective_s=doubt.collective_s),
        interference=_interference(preset.interference, doubt),
        jitter=dict.fromkeys("PASERFZDC", doubt.jitter) if doubt.jitter else {},
    )


def _interference(preset: Interference, doubt: Doubt) -> Interference:
    transfer = preset.communication if doubt.slow_transfer is None else doubt.slow_transfer
    if doubt.slow_compute is None:
        return replace(preset, communication=transfer)
    return Interference(dict.fromkeys(COMPUTE_KINDS, doubt.slow_compute), transfer)


def _link(link: Network, ranks: int, doubt: Doubt, factor: float) -> Network:
    faster = replace(link, resources={**link.resources, **shared(link, factor)})
    if not doubt.unscaled:
        return faster
    plan = load_schedule("sync", 1, MODEL.layers)
    even = Workload(MODEL, ranks, SHARE_IMAGES, doubt.wire).fits(plan)
    dispatch = next(op for op in plan.ops if op.kind == "D")
    moving_s = float(Fabric.of(faster, ranks).moving_s(even.sent_bytes(plan, dispatch)).max())
    return replace(faster, ramp_s=moving_s * doubt.unscaled / (1 - doubt.unscaled), ramp_bytes=_RAMP_BYTES)


def shared(link: Network, factor: float) -> dict[str, Resource]:
    """What ranks share on `link`, with the rates that BASE has, times `factor`."""
    base = _named(BASE).link
    assert isinstance(base, Network)
    rates = {name: base.resources[name].bytes_per_s * factor for name in SHARED}
    return {name: replace(link.resources[name], bytes_per_s=rate) for name, rate in rates.items()}


def all_to_all_share(trace: Trace, with_waits: bool) -> float:
    """Share of the makespan in which a dispatch or combine is under way (or is waited for), mean of the ranks."""
    if not with_waits:
        return float(trace.all_to_all_s.mean()) / trace.makespan_s
    mine = [op.kind in "DC" for op in trace.schedule.ops]
    return float((trace.end_s - trace.reached_s)[:, mine].sum(axis=1).mean()) / trace.makespan_s


def workload(images: int, doubt: Doubt) -> Workload:
    """XL with so many images a rank, and the wire and the routing that `doubt` has."""
    ranks = _named(PRESET).ranks
    even = Workload(MODEL, ranks, images, doubt.wire)
    if doubt.imbalance == 1:
        return even
    routing = Routing.skewed(MODEL, ranks, even.tokens, 1, imbalance=doubt.imbalance, seed=doubt.seed)
    return replace(even, routing=Routing(routing.counts, routing.source))


def run(schedule: Schedule, work: Workload, cluster: Cluster, doubt: Doubt) -> Trace:
    """`schedule` on the machine, with the jitter that `doubt` has."""
    return simulate(schedule, work, cluster, doubt.seed if doubt.jitter else None)


@cache  # a second; several of the page's tables ask for the same
def calibrated(doubt: Doubt, sync: str) -> tuple[Cluster, float]:
    """The machine on which `sync` (a source of a synchronous schedule) has the published share, and the factor.

    Raises ValueError if no factor gives it that share."""
    steps = _SHARE_STEPS if doubt.jitter else 1
    plan, work = load_schedule(sync, steps, MODEL.layers), workload(SHARE_IMAGES, doubt)

    def over(log_factor: float) -> float:  # of the odds, which are nearly straight on a log axis
        trace = run(plan, work, machine(doubt, float(np.exp(log_factor))), doubt)
        share = all_to_all_share(trace, doubt.share_waits)
        return float(np.log(share / (1 - share)) - np.log(SHARE / (1 - SHARE)))

    low, high = np.log(_FACTORS)
    near = root_scalar(over, method="secant", x0=np.log(_LIKELY[0]), x1=np.log(_LIKELY[1]), xtol=1e-4, maxiter=8)
    if near.converged and low < near.root < high:  # as it is nearly straight
        factor = float(np.exp(near.root))
        return machine(doubt, factor), factor
    if not over(low) > 0 > over(high):
        raise ValueError(f"no factor between {_FACTORS[0]} and {_FACTORS[1]} gives a share of {SHARE:.1%}: {doubt}")
    factor = float(np.exp(brentq(over, low, high, xtol=1e-3)))
    return machine(doubt, factor), factor
