"""Transfers to the links of a Cluster: pairs with a link each, ranks with a port each, or hosts with a card each.

Ports (of GPUs, or of ranks that share one) take what comes to a rank one after the other: latency_s + those bytes.
Pairs: latency_s + bytes / bytes_per_s of the fullest, less the burst of a link that has rested (of paced sockets half
a segment on average: the last leaves as soon as those before are paid for), plus counts_s of a dispatch, which brings
its counts along.  What is fitted began on all ranks at once; in a run the pairs of more than
two ranks begin one by one.  Hosts: the same of the fullest card, without a burst (a card's is 4 kB);
what a dispatch takes longer is spread over both, since routes know latencies only.  Ignores what ranks of one host
send each other while a card is busy: loopback is far faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import trim_mean

from calibration.lines import TRIMMED, Array, Line, fit_line, scatter
from calibration.samples import Sample
from sim.cluster import Link
from sim.transfers.network import Network, Resource, Route
from sim.units import readable

_LINE = "measured: a line through transfers alone (calibration/fit_links.py)"
_LOCAL = "measured: the median of the larger transfers over links without a rate (calibration/fit_links.py)"
_LAYOUT = "the hosts of the ranks that ran"


@dataclass(frozen=True, eq=False)
class LinkFit:
    """A line through the transfers at one rate, its features as `features` makes them."""

    line: Line
    rate: float  # that was set
    jitter: dict[str, float]  # kind of collective -> standard deviation of the logarithm
    host_ranks: int  # ranks that share a card; 0: every pair has a link of its own
    local_bytes_per_s: float = 0.0  # between two ranks of one host
    port: bool = False  # a rank has a link of its own for all that comes to it, instead of one for each pair

    def link(self, coefficients: Array, ranks: int) -> Link | Network:
        """The cluster's link, of coefficients that were fitted or drawn."""
        latency_s, counts_s, s_per_byte, burst_s = np.maximum(coefficients, 0.0).tolist()
        bytes_per_s = 1 / max(s_per_byte, 1e-15)
        if not self.host_ranks:
            burst_bytes = burst_s * bytes_per_s
            scope, pairwise = "port" if self.port else "pair", ranks > 2 and not self.port
            return Link(latency_s, bytes_per_s, scope, counts_s, burst_bytes, self.port, pairwise, source=_LINE)
        card = Resource(bytes_per_s, self.host_ranks, latency_s + counts_s / 2, source=_LINE)
        local = Resource(self.local_bytes_per_s, source=_LOCAL)
        within = (Route(self.host_ranks, ("local",), source=_LAYOUT),) if self.host_ranks > 1 else ()
        resources = {"local": local, "card": card} if within else {"card": card}
        routes = (*within, Route(ranks, ("card",), source=_LAYOUT))
        return Network(resources, routes, pairwise=ranks > 2, buffered=True)

    def slow_down(self, samples: Sequence[Sample]) -> float:
        """What transfers take longer, beside computing ranks.  Raises ValueError if there is no such sample."""
        mine = transfers(samples, self.rate, self.host_ranks, alone=False)
        if not mine:
            raise ValueError(f"the samples hold no transfer under load at {readable('_bytes_per_s', self.rate)}")
        return max(0.0, float(trim_mean(seconds(mine) / self.line.at(features(mine, self.host_ranks)), TRIMMED)) - 1)


def fit_link(
    samples: Sequence[Sample], rate: float, host_ranks: int, rng: np.random.Generator, port: bool = False, team: int = 0
) -> LinkFit:
    """The line through transfers alone at one rate, among all ranks or the first `team`.  Raises ValueError if there is
    none."""
    mine = transfers(samples, rate, host_ranks, team=team)
    if not mine:
        among = f" among {team} ranks" if team else ""
        raise ValueError(f"the samples hold no transfer alone{among} at {readable('_bytes_per_s', rate)}")
    found = features(mine, host_ranks)
    if not any(s.queued for s in mine):  # every link had rested: nothing tells how much that saved
        found[:, 3] = 0.0
    line = fit_line(found, seconds(mine), rng)
    # In a queue a late transfer makes the next one short: noise that cancels, and is not a collective's own.  What a
    # transfer is off is a segment or so, whatever its size: of those as large as a run's it is a smaller share.
    large = np.median([s.size for s in mine])
    some = [s for s in mine if not s.queued and s.size >= large]
    rested = {form: [s for s in some if s.subject == form] or mine for form in ("dispatch", "combine")}
    noise = {
        form: scatter(line.at(features(of_form, host_ranks)), seconds(of_form)) for form, of_form in rested.items()
    }
    jitter = {"K": noise["combine"], "N": noise["dispatch"], "D": noise["dispatch"], "C": noise["combine"]}
    fit = LinkFit(line, rate, jitter, host_ranks, port=port)
    return replace(fit, local_bytes_per_s=_local(samples)) if host_ranks > 1 else fit


def transfers(
    samples: Sequence[Sample], rate: float, host_ranks: int, alone: bool = True, team: int = 0
) -> list[Sample]:
    """Those at one rate, alone or beside computing ranks, among all or fewer (`Sample.team`).  Of ranks that share a
    card, the last one's, and of an uneven transfer the last of all: what a card or the fullest link had to do was done
    then.  (Who sends is done a segment earlier than who receives.)"""
    mine = [s for s in samples if is_transfer(s, rate, alone, team)]
    if host_ranks:
        return _last(mine, lambda s: s.rank // host_ranks)
    return [*(s for s in mine if not s.uneven), *_last([s for s in mine if s.uneven], lambda _: 0)]


def _last(samples: Sequence[Sample], part: Callable[[Sample], int]) -> list[Sample]:
    """Of each transfer and part of its ranks, the sample that took longest."""
    last: dict[tuple[object, ...], Sample] = {}
    for sample in samples:
        key = sample.round, sample.queued, sample.load, sample.number, part(sample)
        if key not in last or sample.seconds > last[key].seconds:
            last[key] = sample
    return [*last.values()]


def _local(samples: Sequence[Sample]) -> float:
    """Bytes a second between two ranks of one host: the median of the larger transfers on links without a rate."""
    mine = [s for s in samples if s.what == "transfer" and s.link_bytes_per_s is None and s.alone and not s.queued]
    if not mine:
        raise ValueError("the samples hold no transfer over links without a rate")
    large = np.median([s.size for s in mine])
    return float(np.median([s.size / s.seconds for s in mine if s.size >= large]))


def is_transfer(sample: Sample, rate: float, alone: bool, team: int = 0) -> bool:
    """Whether it is one at this rate, beside nothing or beside computing ranks, among so many."""
    there = sample.what == "transfer" and sample.team == team
    return there and sample.alone == alone and sample.link_bytes_per_s == rate


def features(samples: Sequence[Sample], host_ranks: int) -> Array:
    """[sample, (1, is a dispatch, bytes, -1 where a burst passes)].

    A rested link lets a burst pass."""
    rows = []
    for s in samples:
        size, bursts = (s.across_bytes, False) if host_ranks else (s.size, not s.queued)
        rows.append((1.0, s.subject == "dispatch", size, -float(bursts)))
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def seconds(samples: Sequence[Sample]) -> Array:
    """[sample]"""
    return np.array([s.seconds for s in samples], dtype=np.float64)
