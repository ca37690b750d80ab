"""A cluster: the machine that is simulated, as numbers with their units in their names and their source beside them.

It knows rates; it refuses to know ops, schedules and workloads (sim/cost.py turns the two into seconds).  A Cluster
prints as YAML and loads back; a file may write units ("200 Mbit/s"), and what it must not have is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.faults import CLOSED, faults, unknown_key
from sim.gpu import Gpu, gpu_table, number_problems, value_errors
from sim.output import whole_file
from sim.schedule import COLLECTIVES, KINDS
from sim.tables import in_si, number_or_none, numbers, read_table, table, table_text
from sim.transfers.fabric import Fabric
from sim.transfers.network import Network, Resource, Route, network_problems

COMPUTE_KINDS = tuple(kind for kind in KINDS if kind not in (*COLLECTIVES, "Q"))
_ALSO = ("Q",)  # of schedules with sharded patches only; without a rate of its own it has that of A (sim/cost.py)
_PRESETS = Path(__file__).parent / "clusters"
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """Seconds of a compute op: fixed_s + FLOPs / flops_per_s."""

    fixed_s: float
    flops_per_s: float
    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Link:
    """Seconds of a transfer: latency_s + bytes / bytes_per_s (Hockney 1994).

    scope "pair": every ordered pair of ranks has a link of its own; "port": what a rank sends shares its port, and so
    does what it receives.  A rank's transfer ends when it has sent and received all; on a buffered link (sockets),
    which takes what is sent at once, when it has received all.  A dispatch that brings its token counts along costs
    counts_s more.  A link that was idle lets burst_bytes pass at once (a token bucket, for each direction).  pairwise:
    as of a Network."""

    latency_s: float
    bytes_per_s: float
    scope: str = "port"
    counts_s: float = 0.0
    burst_bytes: float = 0.0
    buffered: bool = False
    pairwise: bool = False
    source: str = ""
    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Host:
    """The thread that issues ops: launch_s for a compute op, collective_s for a collective, which its stream notices
    wake_s later.  A synchronous host computes itself, as a CPU does: it issues the next op when a compute op has ended;
    any other runs ahead.  Streams without priority start a collective when the kernel that runs on its rank has ended,
    since that holds the multiprocessors."""

    launch_s: float = 0.0
    collective_s: float = 0.0
    wake_s: float = 0.0
    synchronous: bool = False
    priority: bool = True
    source: str = ""
    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class Interference:
    """Slow-down on one rank while both streams are busy: work done alone in 1 s takes 1 + factor.

    compute[kind]: of a compute op while a collective is under way; communication: of a collective while any of its
    ranks computes.  0 everywhere: first-in first-out, to the last bit.

    multiprocessors: the share of them that communication takes while it is under way; a kind without a factor of its
    own takes 1 / (1 - share) times as long.  rate_at {share: of the full rate} says what that share brings (between
    points a straight line): ports then carry no more, alone or not.  A share of 0 (copy engines; or interference left
    out) takes and limits nothing."""

    compute: Mapping[str, float] = field(default_factory=dict)
    communication: float = 0.0
    multiprocessors: float = 0.0
    rate_at: Mapping[float, float] = field(default_factory=dict)
    source: str = ""  # where each of these numbers comes from, or that it is assumed
    __pydantic_config__ = CLOSED

    def of_compute(self, kind: str) -> float:
        """The factor of a compute op of `kind`."""
        return self.compute.get(kind, self.multiprocessors / (1 - self.multiprocessors))

    @property
    def any(self) -> bool:
        """Whether anything slows down."""
        return any(self.compute.values()) or self.communication > 0 or self.multiprocessors > 0

    @property
    def rate(self) -> float:
        """Share of the full rate that communication reaches with its multiprocessors."""
        return float(self.rates(np.array(self.multiprocessors)))

    def rates(self, multiprocessors: Array) -> Array:
        """`rate` of other shares of the multiprocessors, of any shape."""
        shares = sorted(self.rate_at)
        if not shares:
            return np.ones(multiprocessors.shape)
        found = np.interp(multiprocessors, shares, [self.rate_at[s] for s in shares])
        return np.asarray(np.where(multiprocessors > 0, found, 1.0))


@dataclass(frozen=True)
class Cluster:
    """`ranks` equal devices, their links and hosts."""

    name: str
    ranks: int
    compute: Mapping[str, Rate] | Gpu  # kind of op -> Rate; or the device, from which the cost of any op follows
    link: Link | Network
    host: Host = field(default_factory=Host)
    interference: Interference = field(default_factory=Interference)
    jitter: Mapping[str, float] = field(default_factory=dict)  # kind -> standard deviation of log(seconds)
    errors: Mapping[str, float] = field(default_factory=dict)  # "link.latency_s" -> its standard error
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> where its numbers come from
    source: str = ""  # how the machine is known: measured (date, command), fitted to what, inferred
    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        if problems := _problems(asdict(self)):
            raise ValueError(f"cluster {self.name}: " + "; ".join(problems))

    @cached_property
    def links(self) -> Link | Network:
        """The link as far as communication's share of the multiprocessors can use it."""
        link, rate = self.link, self.interference.rate
        if rate == 1.0:
            return link
        if isinstance(link, Link):
            return replace(link, bytes_per_s=link.bytes_per_s * rate)
        own = {
            name: replace(r, bytes_per_s=r.bytes_per_s * rate) for name, r in link.resources.items() if r.of_ranks == 1
        }
        return replace(link, resources={**link.resources, **own})

    @cached_property
    def fabric(self) -> Fabric:
        """`links`, laid out for these ranks."""
        link = self.links
        if isinstance(link, Network):
            return replace(Fabric.of(link, self.ranks), receives_only=link.buffered)
        port = Resource(link.bytes_per_s, latency_s=link.latency_s)
        return Fabric.of(Network({"port": port}, (Route(self.ranks, ("port",)),)), self.ranks).like(
            pairs=link.scope == "pair", receives_only=link.buffered
        )

    @property
    def memory_bytes(self) -> float | None:
        """Of each device; None where compute is measured rates, which do not say."""
        return self.compute.memory_bytes if isinstance(self.compute, Gpu) else None

    @property
    def known_by(self) -> str:
        """How the machine is known, in short: the first clause of its source."""
        return self.source.partition(";")[0] or "no source given"

    def __str__(self) -> str:
        return table_text(asdict(self))

    def save(self, path: Path | str) -> None:
        """Writes the YAML that `load` reads."""
        with whole_file(path) as part:
            part.write_text(str(self))

    @staticmethod
    def load(path: Path | str) -> Cluster:
        """The cluster in a YAML file, or the preset of that name.

        Raises ValueError with every unknown key and unit, every value that is missing, of the wrong type or out of
        range, a line each; OSError if the file cannot be read."""
        return Cluster.of_tables(read_table(preset_or(path)), path)

    @staticmethod
    def of_tables(tables: Any, path: Path | str) -> Cluster:
        """The cluster that tables as in a file say; errors, as of `load`, begin with `path`."""
        from pydantic import ValidationError

        problems, whole = list[str](), list[str]()
        data = _with_gpu(in_si(tables, "", problems), problems)
        try:
            cluster: Cluster = _validator().validate_python(data)
        except ValidationError as error:
            errors, gpu, network = error.errors(), _has_gpu(data), _has_network(data)
            in_gpu = [each for each in errors if gpu and each["loc"][:1] == ("compute",)]
            meant = {"compute": "Gpu" if gpu else "-Gpu", "link": "Network" if network else "Link"}
            unnamed = {"compute: missing"} if problems else set[str]()  # which is said of the GPU's name
            problems += [problem for problem in faults(errors, Cluster, meant) if problem not in unnamed]
            problems += [f"compute.{problem}" for problem in value_errors(in_gpu)]
            whole = value_errors([each for each in errors if not each["loc"]])  # all at once, where tables say none
        if problems := [*problems, *_problems(data)] or whole:
            raise ValueError("\n".join(f"{path}: {problem}" for problem in dict.fromkeys(problems)))
        return cluster


@cache  # what pydantic makes of the class takes 20 ms
def _validator() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Cluster)


def cluster_tables(path: Path | str) -> Any:
    """What `Cluster.load` reads, in SI and with its GPU spelt out, as tables of which every key can be changed.

    Raises as `load` does."""
    return asdict(Cluster.load(path))


def presets() -> list[str]:
    """Names of the clusters that come with the package."""
    return sorted(file.stem for file in _PRESETS.glob("*.yaml"))


def preset_or(path: Path | str) -> Path:
    """The file of the preset called `path`, or else `path` itself.  Raises ValueError for a name that is neither."""
    file = Path(path)
    if file.suffix or len(file.parts) != 1 or file.exists():
        return file
    if str(path) not in presets():
        raise ValueError(f"no cluster is called {path}, and no file; the names are {', '.join(presets())}")
    return _PRESETS / f"{path}.yaml"


def _has_gpu(cluster: Any) -> bool:
    """Whether the compute of a cluster, given as tables, is a Gpu."""
    return "peak" in (table(cluster, "compute") or {})


def _with_gpu(cluster: Any, problems: list[str]) -> Any:
    """`cluster` as tables, with the GPU spelt out that "compute: {gpu: name}" names."""
    compute = table(cluster, "compute") or {}
    if "gpu" not in compute:
        return cluster
    if len(compute) > 1:
        problems.append(f"compute.gpu={compute['gpu']!r} is all of it: {', '.join(k for k in compute if k != 'gpu')}?")
    try:
        return {**cluster, "compute": in_si(gpu_table(str(compute["gpu"])), "compute", problems)}
    except (OSError, ValueError) as error:
        problems.append(f"compute.gpu: {error}")
        return {key: value for key, value in cluster.items() if key != "compute"}


def _problems(cluster: Any) -> list[str]:
    """What is wrong with the numbers and kinds of a cluster, given as plain tables, of which any may be missing."""
    kinds = {**dict.fromkeys(("compute", "interference.compute"), (*COMPUTE_KINDS, *_ALSO)), "jitter": tuple(KINDS)}
    compute = table(cluster, "compute")
    if _has_gpu(cluster):
        del kinds["compute"]
    lacking = [] if compute is None or _has_gpu(cluster) else [kind for kind in COMPUTE_KINDS if kind not in compute]
    problems = [f"compute lacks {kind} ({KINDS[kind]})" for kind in lacking]
    for key, known in kinds.items():
        strange = [kind for kind in table(cluster, key) or () if kind not in known]
        problems += [f"{key}.{kind}: unknown kind; known here: {' '.join(known)}" for kind in strange]
    names = [each.name for each in fields(Cluster)]
    no_fields = {str(key): value for key, value in (table(cluster, "sources") or {}).items() if key not in names}
    problems += [f"sources.{key}: {unknown_key(key, value, names)}" for key, value in sorted(no_fields.items())]
    problems += [*_link_problems(cluster), *_without_effect(cluster)]
    problems += ["ranks=true should be a number"] * (isinstance(cluster, Mapping) and cluster.get("ranks") is True)
    values = numbers(cluster)
    strange = [key for key in table(cluster, "errors") or () if key not in values]
    problems += [f"errors.{key}: there is no number {key}" for key in strange]
    if _has_gpu(cluster):  # which knows its own numbers
        problems += [f"compute.{problem}" for problem in number_problems(compute)]
        values = {key: value for key, value in values.items() if not key.startswith("compute.")}
    told = {problem.partition("=")[0] for problem in problems}  # of these numbers there is more to say than a range
    for key, value in values.items():
        if key in told:
            continue
        positive = (
            key.endswith("_per_s") or key == "ranks" or ".rate_at." in key or ".factors." in key
        ) and not key.startswith("errors.")
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            finite = "" if math.isfinite(value) else " and finite"
            problems.append(f"{key}={value:g} should be {'above' if positive else 'at least'} 0{finite}")
    return problems


def _has_network(cluster: Any) -> bool:
    """Whether the link of a cluster, given as tables, is a Network."""
    return not (table(cluster, "link") or {}).keys().isdisjoint(("resources", "routes"))


def _link_problems(cluster: Any) -> list[str]:
    link = table(cluster, "link") or {}
    if _has_network(cluster):
        return [f"link.{problem}" for problem in network_problems(link, cluster.get("ranks"))]
    scope = link.get("scope", "port")
    return [] if scope in ("pair", "port") else [f"link.scope={scope!r} should be 'pair' or 'port'"]


def _curve_problems(rate_at: Any) -> Iterator[str]:
    """Shares that are none, and rates above the full one."""
    for share, rate in rate_at.items() if isinstance(rate_at, Mapping) else ():
        at = number_or_none(share)
        if at is None or not 0 < at < 1:
            yield f"interference.rate_at.{share}: should be a share of the multiprocessors, between 0 and 1"
        if isinstance(rate, int | float) and rate > 1:
            yield f"interference.rate_at.{share}={rate:g} should be at most 1, the full rate"


def _without_effect(cluster: Any) -> list[str]:
    """Settings of interference that change nothing, or that no machine can have."""
    interference = table(cluster, "interference") or {}
    share, rate_at = interference.get("multiprocessors"), interference.get("rate_at")
    problems = [*_curve_problems(rate_at)]
    if isinstance(share, int | float) and share >= 1:
        problems.append(f"interference.multiprocessors={share:g} should be below 1")
    if rate_at and share is None:
        problems.append("interference.rate_at has no effect without interference.multiprocessors")
    return problems
