"""Samples in, Cluster out, with the uncertainty of every number.

Each kind of compute op is a line through its samples, fixed_s + FLOPs / flops_per_s (calibration/lines.py), and so is
a transfer (calibration/fit_links.py).  A factor of interference is the mean, its tails trimmed, of what loaded samples
took longer than the line, over the share of the time in which they were loaded; jitter is the scatter around the line,
by kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import trim_mean

from calibration.fit_links import LinkFit, fit_link
from calibration.lines import RESAMPLES, TRIMMED, Array, Line, fit_line
from calibration.samples import Sample
from sim.cluster import COMPUTE_KINDS, Cluster, Host, Interference, Rate
from sim.transfers.network import Network
from sim.units import readable

NO_SLOPE = 1e18  # FLOP/s of a kind whose time does not grow with its FLOPs in the samples
_SOURCES = {
    "ranks": "those that ran",
    "compute": "measured: a line through samples of each kind of op alone (calibration/fit.py)",
    "host": "measured: mean gaps between ops (calibration/fit.py)",
    "interference": "measured: what ops and transfers took longer beside each other (calibration/fit.py)",
    "jitter": "measured: scatter of samples around their lines (calibration/fit.py)",
    "errors": "standard deviation of each number over resamples (calibration/fit.py)",
}  # field of the cluster -> where its numbers come from
_LOADED = 0.3  # share of the time from which on a load tells something


@dataclass(frozen=True, eq=False)
class Fit:
    """A Cluster, and what else the samples allow: `draws` [resample, name] of its numbers, bootstrapped.

    lines, link: what was fitted, for pages.  warnings: what the data cannot identify."""

    cluster: Cluster
    names: tuple[str, ...]  # dotted keys of numbers of the cluster: "compute.A.fixed_s"
    draws: Array
    lines: Mapping[str, Line]
    link: LinkFit
    warnings: tuple[str, ...]

    def drawn(self, resample: int) -> Cluster:
        """The cluster of one resample: as likely as the fitted one, as far as the samples tell."""
        rates = {kind: _rate(line.draws[resample]) for kind, line in self.lines.items()}
        link = self.link.link(self.link.line.draws[resample], self.cluster.ranks)
        return replace(self.cluster, compute=rates, link=link)

    def interval(self, name: str, share: float = 0.9) -> tuple[float, float]:
        """Confidence interval of one number."""
        low, high = np.quantile(self.draws[:, self.names.index(name)], [(1 - share) / 2, (1 + share) / 2])
        return float(low), float(high)

    def correlations(self) -> Array:
        """[name, name]; 0 where a number does not vary."""
        spread = self.draws.std(axis=0)
        away = np.divide(self.draws - self.draws.mean(axis=0), spread, out=np.zeros_like(self.draws), where=spread > 0)
        return np.asarray(away.T @ away / len(away))


def fit(
    samples: Sequence[Sample], ranks: int, link_bytes_per_s: float, meta: Mapping[str, str], seed: int = 0
) -> Cluster:
    """The Cluster that the samples describe, with links of the given rate; `errors` holds standard errors.

    Raises ValueError that says which measurement is missing."""
    return fitted(samples, ranks, link_bytes_per_s, meta, seed).cluster


def fitted(
    samples: Sequence[Sample],
    ranks: int,
    link_bytes_per_s: float,
    meta: Mapping[str, str],
    seed: int = 0,
    host_ranks: int = 0,
    resamples: int = RESAMPLES,
    port: bool = False,
    team: int = 0,
) -> Fit:
    """The same with its uncertainty.  host_ranks: how many ranks share a card; 0: each pair has a link of its own, or
    each rank a port.  team: the first so many of the ranks that were measured are the machine; 0: all."""
    rng = np.random.default_rng(seed)
    lines = {kind: _op_line(samples, kind, rng, resamples) for kind in COMPUTE_KINDS}
    link = fit_link(samples, link_bytes_per_s, host_ranks, rng, port)
    drag, ranks = link.slow_down(samples), team or ranks  # loads are among all
    if team:
        link = fit_link(samples, link_bytes_per_s, host_ranks, rng, port, team)
    slow = {kind: _slow_down(samples, kind, line, link_bytes_per_s) for kind, line in lines.items()}
    gaps = {subject: _gap(samples, subject) for subject in ("launch", "collective", "wake")}
    draws = _draws(lines, link, ranks)
    link_name = f"{readable('_bytes_per_s', link_bytes_per_s)} a {_owner(host_ranks, port)}"
    cluster = Cluster(
        name=f"{meta.get('gpu') or meta['processor']}, {ranks} ranks, {link_name}",
        ranks=ranks,
        compute={kind: _rate(line.coefficients) for kind, line in lines.items()},
        link=link.link(link.line.coefficients, ranks),
        host=Host(gaps["launch"], gaps["collective"], gaps["wake"], synchronous=True, source=_SOURCES["host"]),
        interference=Interference(slow, drag, source=_SOURCES["interference"]),
        jitter={**{kind: line.scatter for kind, line in lines.items()}, **link.jitter},
        errors={name: float(values.std()) for name, values in draws.items()},
        sources={field: _SOURCES[field] for field in ("ranks", "compute", "jitter", "errors")},
        source="measured on the machine itself; " + "; ".join(f"{key} {value}" for key, value in meta.items()),
    )
    return Fit(cluster, tuple(draws), np.array([*draws.values()]).T, lines, link, tuple(_warnings(lines, link)))


def _owner(host_ranks: int, port: bool) -> str:
    return f"host of {host_ranks}" if host_ranks else "port" if port else "pair"


def _op_line(samples: Sequence[Sample], kind: str, rng: np.random.Generator, resamples: int) -> Line:
    mine = [s for s in samples if s.what == "op" and s.subject == kind and s.alone]
    if not mine:
        raise ValueError(f"the samples hold no {kind} alone")
    features = op_features(mine)
    if np.ptp(features[:, 1]) < 0.1 * features[:, 1].max():  # one size: its time is all that is known
        features[:, 1] = 0.0
    return fit_line(features, np.array([s.seconds for s in mine]), rng, resamples)


def op_features(samples: Sequence[Sample]) -> Array:
    """[sample, (1, FLOPs)]"""
    return np.array([[1.0, s.size] for s in samples])


def _rate(coefficients: Array) -> Rate:
    return Rate(max(0.0, float(coefficients[0])), _inverse(coefficients[1]))


def _inverse(s_per_flop: float) -> float:
    return 1 / float(s_per_flop) if s_per_flop > 1 / NO_SLOPE else NO_SLOPE


def _slow_down(samples: Sequence[Sample], kind: str, line: Line, rate: float) -> float:
    mine = [
        s for s in samples if s.what == "op" and s.subject == kind and s.load > _LOADED and s.link_bytes_per_s == rate
    ]
    if not mine:
        raise ValueError(f"the samples hold no {kind} under load at {readable('_bytes_per_s', rate)}")
    longer = np.array([s.seconds for s in mine]) / line.at(op_features(mine)) - 1
    return max(0.0, float(trim_mean(longer / np.array([s.load for s in mine]), TRIMMED)))


def _gap(samples: Sequence[Sample], subject: str) -> float:
    """The mean without the 5 % at either end: gaps are many and add up, so their tail counts."""
    mine = [s.seconds for s in samples if s.what == "gap" and s.subject == subject]
    if not mine:
        raise ValueError(f"the samples hold no gap called {subject}")
    return float(trim_mean(mine, TRIMMED))


def _draws(lines: Mapping[str, Line], link: LinkFit, ranks: int) -> dict[str, Array]:
    """Name -> [resample], of every number that was fitted by a line."""
    found: dict[str, Array] = {}
    for kind, line in lines.items():
        rates = [_rate(draw) for draw in line.draws]
        found[f"compute.{kind}.fixed_s"] = np.array([rate.fixed_s for rate in rates])
        if _inverse(line.coefficients[1]) < NO_SLOPE:
            found[f"compute.{kind}.flops_per_s"] = np.array([rate.flops_per_s for rate in rates])
    links = [link.link(draw, ranks) for draw in link.line.draws]
    for key in ("latency_s", "counts_s", "bytes_per_s", "burst_bytes"):
        if isinstance(links[0], Network):
            cards = [each.resources["card"] for each in links if isinstance(each, Network)]
            if hasattr(cards[0], key):
                found[f"link.resources.card.{key}"] = np.array([getattr(card, key) for card in cards])
        else:
            found[f"link.{key}"] = np.array([getattr(each, key) for each in links])
    return found


def _warnings(lines: Mapping[str, Line], link: LinkFit) -> list[str]:
    """What the data cannot identify, in words."""
    told = []
    for kind, line in lines.items():
        if _inverse(line.coefficients[1]) == NO_SLOPE:
            told.append(f"compute.{kind}.flops_per_s: one size was measured, or times do not grow with FLOPs")
        elif not line.tellable:
            told.append(f"compute.{kind}: fixed_s and flops_per_s are not told apart (condition {line.condition:.0f})")
    if not link.line.tellable:
        told.append(f"link: latency, counts, rate and burst are not told apart (condition {link.line.condition:.0f})")
    return told
