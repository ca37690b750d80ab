"""Traces as one HTML page: what they come to side by side, pictures, and what each is made of.

The same numbers as sim/report.py and sim/tell.py have; this file only says in which order they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.critical import critical_path
from sim.html import Page
from sim.pictures.ages import draw_staleness
from sim.pictures.style import PAGE_IN
from sim.report import Around, sent_bytes
from sim.show import comparison
from sim.tell import critical_told, layers_told, steps_told, summary
from sim.timeline import draw_timeline

if TYPE_CHECKING:
    from sim.trace import Trace
    from sim.workload import Workload

_FASTER = 0.1  # share of time that ops are thought to lose, in the table of the critical path
_MOST_RANKS = 4  # that are drawn


def report_page(
    traces: Sequence[Trace],
    names: Sequence[str],
    made: dict[str, str],
    workloads: Sequence[Workload | None] | None = None,
    around: Around | None = None,
) -> Page:
    """The page of some traces, of which no two have the same name; `made`: how it was made, beside what they say.

    Workloads, where they are at hand, add the bytes that ranks send.  Raises ValueError if a workload does not fit."""
    page = Page(f"Report: {', '.join(names)}", made)
    head, rows = comparison(traces, names)
    page.heading("Side by side").table([" ".join(name.split()) for name in head], rows)
    _pictures(page, traces, names)
    for trace, name, workload in zip(traces, names, workloads or [None] * len(traces), strict=True):
        _section(page, trace, name, workload, around or Around())
    return page


def _pictures(page: Page, traces: Sequence[Trace], names: Sequence[str]) -> None:
    steps = min(trace.schedule.steps for trace in traces)
    ranks = range(min(_MOST_RANKS, *(trace.ranks for trace in traces)))
    figure = draw_timeline(traces, step=steps // 2, ranks=ranks, labels=names)
    page.picture(figure, f"Step {steps // 2} of each, on one time axis; hatched ops carry an older step's tokens.")
    page.picture(draw_timeline(traces, ranks=ranks[:1], labels=names), "Whole runs, rank 0.")
    ages = {name: trace.staleness for trace, name in zip(traces, names, strict=True)}
    page.picture(draw_staleness(ages, width_in=PAGE_IN), "How old what each layer adds is, at every step.")


def _section(page: Page, trace: Trace, name: str, workload: Workload | None, around: Around) -> None:
    sent = None if workload is None else sent_bytes(trace.schedule, workload)
    page.heading(name).table(["", ""], summary(trace, sent, around))
    page.heading("What makes it as long as it is", 3).table(*critical_told(critical_path(trace), _FASTER))
    page.heading("Steps", 3).table(*steps_told(trace))
    page.heading("Layers", 3).table(*layers_told(trace))
    page.heading("What ran", 3).table(["", ""], [["trace", trace.origin], *map(list, trace.about.items())])
    lines = str(trace.schedule).splitlines()
    border = next((i for i, line in enumerate(lines) if line.startswith("P2")), len(lines))
    page.code("\n".join([*lines[:border], *(["..."] if border < len(lines) else [])]))
