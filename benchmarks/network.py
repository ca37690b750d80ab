"""How well the network model tells what all-to-alls take on real machines, and the presets' parameters.

    python benchmarks/network.py nccl_collectives.csv

The file has rows system, nccl_version, collective, num_gpus, bytes, latency_us: medians of nccl-tests in half precision
(ai-dynamo/aiconfigurator at 095f58a, Apache-2.0); `bytes` is the send buffer of a rank, what it keeps included, and of
an all-gather what a rank has at the end.  Fits, on each machine, one set of parameters for 2, 4 and 8 GPUs; evaluates
it on sizes that were left out (all 4- and 8-GPU rows of a size at once, so that their neighbours are 16 times apart;
and 2-GPU rows between sizes that are 4 times apart); adds factors where measurements differ from what the parameters
say; writes benchmarks/results/network.json and the links of sim/clusters/*.yaml."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from calibration.samples import machine
from sim.tables import read_table, table_text
from sim.transfers.fabric import Fabric
from sim.transfers.network import Network, Resource, Route

Array = npt.NDArray[np.float64]
MIB = 2**20
FITTED_FROM = 2**19  # bytes; what is smaller is mostly noise (rows of one machine differ by up to 1.4 times)
KEPT, ALIKE = 0.75, 0.5  # shares of misses that are believed (`factors`), the best on sizes left out
SOURCE = "fitted by benchmarks/network.py to nccl-tests medians in ai-dynamo/aiconfigurator 095f58a (Apache-2.0), "
PRESETS = Path(__file__).parents[1] / "sim" / "clusters"


class Row(NamedTuple):
    """One measurement: `bytes` [src, dst] of each pair, itself included."""

    gpus: int
    pair_bytes: float
    size_bytes: int
    seconds: float


class Shape(NamedTuple):
    """A structure and its parameters: build(exp(p)) is the network; the starts are those of a search."""

    build: Callable[[Sequence[float], str], Network]
    names: tuple[str, ...]
    start: tuple[float, ...]
    outlier: float = 0.05  # errors above it count less than by their square


def nvswitch(p: Sequence[float], source: str = "") -> Network:
    """Ports on a switch that is never full; collectives copy what a rank keeps, too."""
    latency_s, bytes_per_s, weight, ramp_s, ramp_bytes, least_s = map(float, p)
    port = Resource(bytes_per_s, latency_s=latency_s, source=source)
    routes = Route(1, ("port",), weight, source), Route(8, ("port",))
    return Network({"port": port}, routes, ramp_s, ramp_bytes, least_s, source=source)


def shared_host(p: Sequence[float], source: str = "") -> Network:
    """Two GPUs under a bridge reach each other; everything else goes through the host of their socket, or of both."""
    latency_s, port, bridge, host, far_s, sockets = map(float, p)
    resources = {
        "port": Resource(port, latency_s=latency_s, source=source),
        "bridge": Resource(bridge, of_ranks=2, source=source),
        "host": Resource(host, of_ranks=4, latency_s=far_s, duplex=False, source=source),
        "sockets": Resource(sockets, of_ranks=4, source=source),
    }
    near = Route(2, ("port",)), Route(4, ("port", "bridge", "host"))
    return Network(resources, (*near, Route(8, ("port", "bridge", "host", "sockets"))), source=source)


NVSWITCH = Shape(nvswitch, ("latency_s", "bytes_per_s", "kept_weight", "ramp_s", "ramp_bytes", "least_s"),
                 (1e-5, 3e11, 0.2, 3e-5, 1e7, 1.4e-5))  # fmt: skip
SHARED_HOST = Shape(shared_host, ("latency_s", "port", "bridge", "host", "far_s", "sockets"),
                    (1e-5, 2.5e10, 2.5e10, 3e10, 1e-5, 1e10), 0.3)  # fmt: skip
MACHINES = {  # system in the file -> structure, presets
    "a100_sxm": (NVSWITCH, ["8x-a100"]),
    "h100_sxm": (NVSWITCH, ["8x-h100", "2x8-h100", "4x8-h100"]),
    "h200_sxm": (NVSWITCH, ["8x-h200"]),
    "b200_sxm": (NVSWITCH, ["8x-b200"]),
    "l40s": (SHARED_HOST, ["8x-l40s"]),
    "rtx_pro_6000_server": (SHARED_HOST, ["8x-rtx-pro-6000"]),
}


def measured(path: Path, collective: str) -> dict[str, list[Row]]:
    """system -> its rows of `collective`."""
    rows: dict[str, list[Row]] = {}
    for row in csv.DictReader(path.open()):
        if row["collective"] == collective:
            gpus, size = int(row["num_gpus"]), int(row["bytes"])
            found = Row(gpus, size / gpus, size, float(row["latency_us"]) * 1e-6)
            rows.setdefault(row["system"], []).append(found)
    return rows


def predicted(network: Network, rows: Sequence[Row], gather: bool = False) -> Array:
    """Seconds [row]."""
    fabrics = {gpus: Fabric.of(network, gpus) for gpus in {row.gpus for row in rows}}
    found = []
    for row in rows:
        fabric = fabrics[row.gpus]
        even = np.full((row.gpus, row.gpus), row.pair_bytes)
        found.append((fabric.all_gather_s(row.pair_bytes) if gather else fabric.all_to_all_s(even)).max())
    return np.array(found)


def errors(network: Network, rows: Sequence[Row], gather: bool = False) -> Array:
    """Predicted over measured, less 1 [row]."""
    return predicted(network, rows, gather) / [row.seconds for row in rows] - 1


def fit(shape: Shape, rows: Sequence[Row], starts: Sequence[npt.ArrayLike]) -> Array:
    """Parameters with the least robust sum of log errors, from the best of `starts`; outliers count linearly."""

    def misses(log_p: Array) -> Array:
        weak = 1e-4 * (log_p - np.log(shape.start))  # holds on to what the data do not decide
        return np.append(np.log1p(errors(shape.build(np.exp(log_p), ""), rows)), weak)

    tries = [least_squares(misses, np.log(s), loss="soft_l1", f_scale=shape.outlier) for s in starts]
    return np.exp(min(tries, key=lambda found: float(found.cost)).x)


def starts(shape: Shape) -> list[Array]:
    """A few places to search from: valleys are several."""
    first = np.array(shape.start)
    if shape is SHARED_HOST:
        return [first * f for f in ([1, 1, 1, 0.4, 1, 0.4], [1, 1, 1, 4, 1, 4])]
    return [first * [1, 1, 1, a, b, 1] for a, b in ((1, 1), (0.5, 0.1), (2, 6))]


def factors(network: Network, rows: Sequence[Row]) -> dict[int, dict[float, float]]:
    """ranks -> bytes -> what was measured over what the parameters say, as far as it is believed (`factor_curve`).

    Where only 2 GPUs were measured, more of them borrow half of the kink that 2 have there."""
    misses = {n: misses_of(network, [row for row in rows if row.gpus == n]) for n in (2, 4, 8)}
    return {gpus: factor_curve(own, misses[2] if gpus > 2 else {}) for gpus, own in misses.items()}


def misses_of(network: Network, rows: Sequence[Row]) -> dict[int, float]:
    """Bytes -> logarithm of measured over predicted."""
    return dict(zip([row.size_bytes for row in rows], (-np.log1p(errors(network, rows))).tolist(), strict=True))


def factor_curve(own: Mapping[int, float], lent: Mapping[int, float]) -> dict[float, float]:
    """Bytes -> factor, of the misses of those rows themselves and of others that have more sizes.

    A share KEPT of each miss, in logarithms, straight lines between; and a share ALIKE of how far the others are off
    their own line between the sizes that these have: kinks of a protocol are common."""
    sizes, curve = sorted(own), {}
    for size in sorted({*own, *lent}):
        if sizes[0] <= size <= sizes[-1]:
            line = [np.interp(np.log(size), np.log(sizes), [of[s] for s in sizes]) for of in (own, lent or own)]
            kink = lent[size] - line[1] if lent else 0.0
            curve[float(size)] = round(float(np.exp(KEPT * line[0] + ALIKE * kink)), 4)
    return curve


def completed(shape: Shape, p: Array, rows: Sequence[Row]) -> Network:
    """The network of parameters `p`, with the factors that `rows` have beside it."""
    network = shape.build(p, "")
    return replace(network, factors=factors(network, rows))


def left_out(shape: Shape, rows: Sequence[Row], best: Array) -> tuple[list[Row], Array]:
    """Rows of 4 and 8 GPUs from 1 MiB up that have larger and smaller sizes beside them, and their errors when
    every such row of the same size was left out of the fit."""
    sizes = sorted({row.size_bytes for row in rows if row.gpus > 2 and row.size_bytes >= FITTED_FROM})
    tested, found = [], []
    for size in sizes[1:-1]:
        out = [row for row in rows if row.gpus > 2 and row.size_bytes == size]
        rest = [row for row in rows if row not in out]
        tested += out
        found.append(errors(completed(shape, fit(shape, rest, [best]), rest), out))
    return tested, np.concatenate(found)


def left_out_between(system: str, rows: Mapping[str, Sequence[Row]], kinks: bool) -> Array:
    """Errors of 2 GPUs at the sizes that only they have, between others 4 times apart, when all of these were left out
    of the fit: what 4 and 8 GPUs at these sizes, which are not known here, can be expected to be off.

    kinks: lent by 2 GPUs of the other machines of that structure, as 2 GPUs lend theirs to 4 and 8."""
    shape = MACHINES[system][0]
    shared = {row.size_bytes for row in rows[system] if row.gpus > 2}

    def told(name: str) -> tuple[Network, list[Row]]:
        fitted = fit(shape, [row for row in rows[name] if row.size_bytes in shared], starts(shape))
        return shape.build(fitted, ""), [row for row in rows[name] if row.gpus == 2]

    network, two = told(system)
    lent = [misses_of(*told(name)) for name in rows if kinks and name != system and MACHINES[name][0] is shape]
    mean = {row.size_bytes: float(np.mean([each[row.size_bytes] for each in lent])) for row in two if lent}
    own = misses_of(network, [row for row in two if row.size_bytes in shared])
    tested = [row for row in two if row.size_bytes not in shared]
    return errors(replace(network, factors={2: factor_curve(own, mean)}), tested)


def summary(error: Array) -> dict[str, float]:
    """In percent."""
    size = 100 * np.abs(error)
    numbers = {"mean": size.mean(), "median": np.median(size), "worst": size.max()}
    return {name: round(float(number), 2) for name, number in numbers.items()}


def evaluate(system: str, every: Mapping[str, Sequence[Row]], gathers: Sequence[Row]) -> dict[str, object]:
    """Parameters, and errors of all kinds, of one of the machines."""
    shape, rows = MACHINES[system][0], every[system]
    larges = {name: [row for row in every[name] if row.size_bytes >= FITTED_FROM] for name in MACHINES}
    large = larges[system]
    best = fit(shape, large, starts(shape))
    network = shape.build(best, "")
    from_mib = [row for row in rows if row.size_bytes >= MIB]
    report: dict[str, object] = {"parameters": dict(zip(shape.names, best.tolist(), strict=True))}
    report["factors"] = factors(network, large)
    for gpus in (2, 4, 8):
        mine = [row for row in from_mib if row.gpus == gpus]
        report[f"{gpus} GPUs, from 1 MiB, by parameters"] = summary(errors(network, mine))
        report[f"{gpus} GPUs, from 1 MiB"] = summary(errors(completed(shape, best, large), mine))
    report["left out"] = summary(left_out(shape, large, best)[1])
    report["2 GPUs, left out between"] = summary(left_out_between(system, larges, kinks=True))
    report["2 GPUs, left out between, no kinks lent"] = summary(left_out_between(system, larges, kinks=False))
    if shape is SHARED_HOST:
        others = {g: [row for row in large if row.gpus != g] for g in (2, 4, 8)}
        for gpus, rest in others.items():
            alone = shape.build(fit(shape, rest, [best]), "")
            report[f"{gpus} GPUs, of which none was used"] = summary(
                errors(alone, [row for row in from_mib if row.gpus == gpus])
            )
    large_gathers = [r for r in gathers if r.size_bytes >= MIB]
    report["all-gather, never used"] = summary(errors(completed(shape, best, large), large_gathers, True))
    report["all-gather, by parameters"] = summary(errors(network, large_gathers, True))
    return report


def write_links(system: str, report: dict[str, object]) -> None:
    """Puts the fitted link into every preset of that machine; whatever else a preset says stays."""
    shape, presets = MACHINES[system]
    parameters = report["parameters"]
    assert isinstance(parameters, dict)
    link = _plain(asdict(shape.build([float(f"{value:.4g}") for value in parameters.values()], SOURCE + system)))
    link["factors"] = report["factors"]
    for key in np.flatnonzero(np.isclose(list(parameters.values()), shape.start, rtol=1e-3)):
        if (name := shape.names[key]) in link["resources"]:
            link["resources"][name]["source"] = "assumed: it decides no measured time, so that the data do not tell it"
    for preset in presets:
        path = PRESETS / f"{preset}.yaml"
        cluster = read_table(path)
        old, fitted = cluster["link"], len(link["routes"])
        routes = [{**before, **new} for before, new in zip(old["routes"], link["routes"], strict=False)]
        routes += old["routes"][fitted:]  # one node is fitted: what is between nodes stays
        resources = {**old["resources"], **link["resources"]}
        cluster["link"] = {**old, **link, "resources": resources, "routes": routes}
        path.write_text(table_text(cluster))


def _plain(link: dict[str, Any]) -> dict[str, Any]:
    """`link` without what is as usual."""
    usual: dict[str, Any] = {"of_ranks": 1, "latency_s": 0.0, "duplex": True, "weight": 1.0, "source": ""}
    usual |= {"ramp_s": 0.0, "ramp_bytes": 0.0, "least_s": 0.0, "factors": {}}
    usual |= {"all_to_all": "direct", "pairwise": False, "buffered": False}

    def short(table: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in table.items() if key not in usual or value != usual[key]}

    routes = [{**short(route), "via": [*route["via"]]} for route in link["routes"]]
    resources = {name: short(resource) for name, resource in link["resources"].items()}
    return {**short(link), "resources": resources, "routes": routes}


def main(path: Path) -> None:
    """Everything."""
    rows, gathers = measured(path, "alltoall"), measured(path, "all_gather")
    reports: dict[str, dict[str, object]] = {}
    for system in MACHINES:
        reports[system] = evaluate(system, rows, gathers[system])
        print(system, json.dumps(reports[system], indent=1))
        write_links(system, reports[system])
    target = Path(__file__).parent / "results" / "network.json"
    command = f"python benchmarks/network.py {path.name}"
    meta = {
        **machine(),
        "command": command,
        "data": "ai-dynamo/aiconfigurator 095f58a (Apache-2.0), some all-to-all rows left out",
    }
    target.write_text(json.dumps({"meta": meta, "errors in percent": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
