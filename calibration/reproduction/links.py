"""The links of the preset 8x-rtx4090: what follows from the published share, with its error, written into its file.

It knows the one parameter and its spread; it refuses to know what else stands in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.reproduction.draws import DRAWS
from calibration.reproduction.machine import BASE, SHARE, SHARE_IMAGES, SHARED, Doubt, calibrated, draw, shared
from calibration.reproduction.predict import READINGS
from sim.cluster import Cluster
from sim.output import whole_file
from sim.tables import read_table, table_text
from sim.transfers.network import Network

DIGITS = 4  # of a rate
_READING = "as intended"


@dataclass(frozen=True)
class Links:
    """factor: on the shared rates of BASE, with the preset's own values; low, high: 5th and 95th percentile of it where
    all else is drawn; error: its relative standard error, from the spread of its logarithm."""

    factor: float
    low: float
    high: float
    error: float

    @property
    def source(self) -> str:
        """What stands beside each rate."""
        return (
            f"inferred, not measured: the rate of {BASE} x {self.factor:.3g}, with which all-to-alls take the "
            f"{SHARE:.1%} of synchronous XL at {SHARE_IMAGES} images a rank that arXiv 2411.16786 states (by a summary "
            f"of it); x {self.low:.2g} to {self.high:.2g} by what else is unknown (docs/reproduction.md)"
        )


def inferred() -> Links:
    """The links, from the published share alone."""
    sync = READINGS[_READING]["sync"]
    factors = np.log([calibrated(draw(seed), sync)[1] for seed in range(DRAWS)])
    low, high = np.exp(np.percentile(factors, [5, 95]))
    return Links(calibrated(Doubt(), sync)[1], float(low), float(high), float(np.expm1(factors.std(ddof=1))))


def renewed(tables: Mapping[str, Any], links: Links) -> dict[str, Any]:
    """The tables of a cluster file with these links."""
    network = Cluster.of_tables(tables, "preset").link
    assert isinstance(network, Network)
    rates = {name: _rounded(r.bytes_per_s) for name, r in shared(network, links.factor).items()}
    said = {name: {"bytes_per_s": rate, "source": links.source} for name, rate in rates.items()}
    resources = {name: {**r, **said.get(name, {})} for name, r in tables["link"]["resources"].items()}
    mine = {f"link.resources.{name}.bytes_per_s": _rounded(rates[name] * links.error) for name in SHARED}
    changed = {"link": {**tables["link"], "resources": resources}, "errors": {**tables.get("errors", {}), **mine}}
    return {**{key: value for key, value in tables.items() if key != "source"}, **changed, "source": tables["source"]}


def renew(file: Path) -> None:
    """Writes the links into the file of a preset.  Raises ValueError or OSError if it is no cluster."""
    Cluster.load(file)
    text = table_text(renewed(read_table(file), inferred()))
    with whole_file(file) as part:
        part.write_text(text)


def _rounded(rate: float) -> float:
    return float(f"{rate:.{DIGITS}g}")
