"""Commands on saved traces, and what any command writes of traces: files of theirs, pictures, reports."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.units import quantity

if TYPE_CHECKING:
    from sim.report import Around
    from sim.trace import Trace
    from sim.workload import Workload

Traces = Annotated[list[Path], typer.Argument(metavar="TRACE", help="Files that --save wrote.")]
Step = Annotated[int | None, typer.Option(help="Draw this step only; without it the whole run.")]
Ranks = Annotated[list[int] | None, typer.Option("--rank", metavar="<int>", help="Draw this rank; repeat for more.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write reports as JSON; sim/report.py says the keys.")]
StartUp = Annotated[str | None, typer.Option(help='Until the first op, as "40 s"; else left out of reports.')]
Decode = Annotated[
    str | None,
    typer.Option(help='Of one image by the VAE, as "30 ms"; or, where a GPU is simulated, vae: SD\'s, computed.'),
]
Faster = Annotated[float, typer.Option(help="Percent of time that ops are thought to lose.")]


def convert(traces: Traces, output: Annotated[Path, typer.Option("--output", "-o", help="A .json file.")]) -> None:
    """Put saved traces side by side into one file for ui.perfetto.dev."""
    _convert(traces, Outputs(trace=output))


def draw(
    traces: Traces,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png, .svg or .pdf file.")],
    step: Step = None,
    rank: Ranks = None,
) -> None:
    """Draw saved traces above one another, on one time axis."""
    _convert(traces, Outputs(picture=output, step=step, ranks=rank or None))


def report_saved(
    traces: Traces,
    start_up: StartUp = None,
    decode: Decode = None,
    json: Json = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write one page with tables and pictures.")] = None,
) -> None:
    """Say what saved traces come to: images a second, shares, and times and ages by step and layer."""
    outputs, surroundings = Outputs(json=json, html=html), around(start_up, decode)
    loaded = _loaded(traces, outputs)
    outputs.write_reports(loaded, [None] * len(loaded), surroundings)
    outputs.write_page(loaded, surroundings)
    print(*titled(traces, [report_lines(trace, None, surroundings) for trace in loaded]), sep="\n")


def critical_saved(traces: Traces, faster: Faster = 10.0) -> None:
    """Say what makes saved traces as long as they are, and what it would bring if that were faster."""
    loaded = _loaded(traces, Outputs())
    print(*titled(traces, [critical_lines(trace, faster / 100) for trace in loaded]), sep="\n")


def _loaded(paths: list[Path], outputs: Outputs) -> list[Trace]:
    from sim.trace import Trace

    outputs.check(inputs=paths)
    return [Trace.load(path) for path in paths]


def _convert(paths: list[Path], outputs: Outputs) -> None:
    outputs.write(_loaded(paths, outputs))


# -------------------------------------------------------------------------------------- what any command says


def around(start_up: str | None, decode: str | None, used: bool = True) -> Around:
    """What was said of start-up and decoding.  Raises ValueError for what is no time, or if no report is `used`."""
    from sim.report import Around

    if not used and (start_up or decode):
        raise ValueError("--start-up and --decode have no effect without --report or --json")
    said = {"start_up_s": start_up, "decode_s": decode}
    return Around(**{name: quantity(name, text) for name, text in said.items() if text is not None})


def report_lines(trace: Trace, workload: Workload | None, surroundings: Around) -> list[str]:
    """A report as a table, with bytes where the workload is at hand."""
    from sim.report import sent_bytes
    from sim.tell import report_lines

    sent = None if workload is None else sent_bytes(trace.schedule, workload)
    return report_lines(trace, sent, surroundings)


def critical_lines(trace: Trace, share: float = 0.1) -> list[str]:
    """The critical path as a table."""
    from sim.critical import critical_path
    from sim.tell import critical_lines

    return critical_lines(critical_path(trace), share)


def titled(names: Sequence[object], tables: Sequence[list[str]]) -> list[str]:
    """Tables below one another, each after a blank line and its name."""
    return [line for name, table in zip(names, tables, strict=False) for line in ("", f"{name}:", *table)]


@dataclass(frozen=True)
class Outputs:
    """What is to be written of some traces."""

    saved: Sequence[Path] = ()  # a file a trace, or none
    trace: Path | None = None
    picture: Path | None = None
    step: int | None = None  # drawn in the picture
    ranks: list[int] | None = None  # drawn in the picture
    json: Path | None = None  # reports
    html: Path | None = None  # a page of all traces

    def check(self, inputs: Sequence[Path] = ()) -> None:
        """Raises ValueError or OSError for what cannot be written or has no effect, before the work for it begins."""
        from sim.output import refuse_unwritable

        if self.picture is None and (self.step is not None or self.ranks):
            raise ValueError("--step and --rank have no effect without --picture")
        if self.picture is not None:
            _timeline().picture_format(self.picture)
        if self.html is not None:
            _timeline()
        outputs = [path for path in (*self.saved, self.trace, self.picture, self.json, self.html) if path is not None]
        for path in outputs:
            refuse_unwritable(path)
        taken = [path.resolve() for path in (*inputs, *outputs)]
        for path in outputs:
            if taken.count(path.resolve()) > 1:
                raise ValueError(f"{path} is named twice: nothing is written over another output or an input")

    def write(
        self, traces: list[Trace], labels: list[str] | None = None, workloads: list[Workload] | None = None
    ) -> None:
        """Writes it all; the picture is drawn first, since it may refuse its step or a rank."""
        from sim.output import whole_file
        from sim.perfetto import write_perfetto

        figure = None
        if self.picture is not None:
            figure = _timeline().draw_timeline(traces, step=self.step, ranks=self.ranks, labels=labels)
        for path, trace in zip(self.saved, traces, strict=bool(self.saved)):
            with whole_file(path) as temporary:
                trace.save(temporary)
        if self.trace is not None:
            write_perfetto(traces, self.trace, labels, workloads)
        if self.picture is not None:
            _timeline().save_figure(figure, self.picture)

    def write_reports(
        self, traces: Sequence[Trace], workloads: Sequence[Workload | None], surroundings: Around
    ) -> None:
        """Writes the reports of all traces, if that was asked for."""
        from sim.output import whole_file
        from sim.report import report

        if self.json is not None:
            made: list[dict[str, Any]] = [
                report(trace, workload, surroundings) for trace, workload in zip(traces, workloads, strict=True)
            ]
            with whole_file(self.json) as temporary:
                temporary.write_text(json.dumps(made, indent=1) + "\n")

    def write_page(self, traces: Sequence[Trace], surroundings: Around) -> None:
        """Writes the page of all traces, if that was asked for."""
        from sim.report_page import report_page
        from sim.show import trace_labels

        if self.html is not None:
            made = {"command": shlex.join(["python", "-m", "sim", *sys.argv[1:]]), "dice-sim": version("dice-sim")}
            report_page(traces, trace_labels(traces), made, around=surroundings).save(self.html)


def _timeline() -> ModuleType:
    """sim.timeline; raises ValueError that says how to install what it needs."""
    try:
        return import_module("sim.timeline")
    except ModuleNotFoundError:
        raise ValueError("a picture needs matplotlib: pip install 'dice-sim[plot]'") from None
