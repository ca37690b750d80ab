"""A page about a bundle: fits with their intervals, what they leave over, and how well they predict what they did not
see: other sizes (each left out in turn) and, of a bundle with runs, those.

The file knows what is shown; it refuses to know how it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from calibration import results
from calibration.bundle import Bundle
from calibration.fit import Fit, op_features
from calibration.fit_links import features, seconds, transfers
from calibration.lines import Array, robust
from calibration.plan import Plan
from calibration.predict import cells, fit_of, whole_rounds
from calibration.samples import Sample
from sim.cluster import COMPUTE_KINDS
from sim.html import Page
from sim.pictures.errors import FitPoints, draw_errors, draw_fits
from sim.tables import numbers as flat
from sim.units import readable

_CORRELATED = 0.9


def write(bundle: Bundle, path: Path) -> None:
    """Writes the page of `bundle`, with a section for each link rate."""
    plan, samples = Plan.of(bundle.meta()["plan"]), bundle.samples()
    page = Page(f"Calibration of {bundle.machine['processor']}", made=bundle.machine)
    page.text(plan.about or "no plan says why", told(samples))
    fits = [fit_of(samples, plan, rate, bundle.machine) for rate in plan.rates]
    page.heading("Compute").picture(
        draw_fits([*op_points(samples, fits[0])], x_label="FLOPs"), "Compute ops alone, and what the lines leave over."
    )
    for fit in fits:
        _add_fit(page, samples, fit)
    if whole_rounds(bundle, plan):
        summary = results.summarise(cells(bundle, plan), bundle.machine)
        page.heading("Predicted and measured").text(results.verdict(summary))
        page.table([" ".join(h).strip() for h in results.HEADINGS], [cell.row() for cell in summary.cells])
        errors = {level: [cell.levels[level].median for cell in summary.cells] for level in results.LEVELS}
        page.picture(draw_errors(errors), "Median errors of cells, level by level.")
    page.save(path)


def _add_fit(page: Page, samples: Sequence[Sample], fit: Fit) -> None:
    """Numbers, warnings, correlations and leave-one-out errors of one link rate."""
    page.heading(fit.cluster.name)
    page.table(["number", "fitted", "90 % from", "to"], [[n, v, *interval] for n, v, interval in numbers(fit)])
    page.picture(
        draw_fits([transfer_points(samples, fit)], x_label="bytes"), "Transfers alone, and what the line leaves over."
    )
    page.text(*(fit.warnings or ("Everything fitted is told apart by the data.",)), *correlated(fit))
    rows = [[name, f"{error:.1%}", f"{worst:.1%}"] for name, error, worst in left_out(samples, fit)]
    page.heading("Sizes left out of the fit, and predicted", 3).table(["what", "mean error", "worst size"], rows)


def told(samples: Sequence[Sample]) -> str:
    """How many samples there are, and how disturbed they were."""
    outliers, others = sum(s.outlier for s in samples), max((s.others for s in samples), default=0.0)
    return (
        f"{len(samples)} samples, {outliers} of them outliers; other programs had up to {others:.0%} of the processors."
    )


def numbers(fit: Fit) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """(name, value, (low, high)) of every fitted number, to be read."""
    from dataclasses import asdict

    values = flat(asdict(fit.cluster))
    for name in fit.names:
        low, high = fit.interval(name)
        yield name, readable(name, values[name]), (readable(name, low), readable(name, high))


def correlated(fit: Fit) -> list[str]:
    """Pairs of numbers whose uncertainties hang together, in words."""
    table = fit.correlations()
    return [
        f"{fit.names[i]} and {fit.names[j]}: correlation {table[i, j]:+.2f}"
        for i, j in np.argwhere(np.triu(np.abs(table), 1) > _CORRELATED).tolist()
    ]


def op_points(samples: Sequence[Sample], fit: Fit) -> Iterator[FitPoints]:
    """Medians of every size of each kind of op, and its line."""
    for kind in COMPUTE_KINDS:
        mine = [s for s in samples if s.what == "op" and s.subject == kind and s.alone]
        yield _points(kind, np.array([s.size for s in mine]), seconds(mine), fit.lines[kind].at(op_features(mine)))


def transfer_points(samples: Sequence[Sample], fit: Fit) -> FitPoints:
    """Medians of transfers of every size, dispatches and combines together, and the line."""
    mine = [s for s in transfers(samples, fit.link.rate, fit.link.host_ranks) if not s.uneven]
    found = features(mine, fit.link.host_ranks)
    return _points("transfers", found[:, 2], seconds(mine), fit.link.line.at(found))


def _points(name: str, sizes: Array, measured_s: Array, fitted_s: Array) -> FitPoints:
    at = _grouped(sizes)
    places = [at == group for group in np.unique(at)]
    x, measured, fitted = ([float(np.median(a[place])) for place in places] for a in (sizes, measured_s, fitted_s))
    return FitPoints(name, x, measured, fitted)


def _grouped(sizes: Array, most: int = 8) -> Array:
    """The sizes; where there are more than `most` (of experts), their quantile."""
    if len(np.unique(sizes)) <= most:
        return sizes
    edges = np.quantile(sizes, np.linspace(0, 1, most + 1)[1:-1])
    return np.digitize(sizes, edges).astype(np.float64)


def left_out(samples: Sequence[Sample], fit: Fit) -> Iterator[tuple[str, float, float]]:
    """(what, mean, worst) error without sign of the medians of sizes, each predicted from the others."""
    for kind in COMPUTE_KINDS:
        mine = [s for s in samples if s.what == "op" and s.subject == kind and s.alone]
        yield kind, *_leave_one_out(op_features(mine), seconds(mine), _grouped(np.array([s.size for s in mine])))
    moved = transfers(samples, fit.link.rate, fit.link.host_ranks)
    found = features(moved, fit.link.host_ranks)
    yield "transfers", *_leave_one_out(found, seconds(moved), _grouped(found[:, 2]))
    for team in sorted({s.team for s in samples} - {0}):
        mine = transfers(samples, fit.link.rate, fit.link.host_ranks, team=team)
        found = features(mine, fit.link.host_ranks)
        ratios, groups = fit.link.line.at(found) / seconds(mine), _grouped(found[:, 2])
        errors = [abs(float(np.median(ratios[groups == group])) - 1) for group in np.unique(groups)]
        yield f"transfers among {team} ranks, by the line of all", float(np.mean(errors)), max(errors)


def _leave_one_out(found: Array, measured_s: Array, groups: Array) -> tuple[float, float]:
    errors = []
    for group in np.unique(groups):
        mine = groups == group
        if mine.all():
            return float("nan"), float("nan")
        fitted = found[mine] @ robust(found[~mine], measured_s[~mine])
        errors.append(abs(float(np.median(fitted / measured_s[mine])) - 1))
    return float(np.mean(errors)), max(errors)
