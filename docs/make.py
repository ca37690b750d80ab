"""Puts the tables between the markers of the pages here, from benchmarks/results; draws the rooms.

python docs/make.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from sim.pictures.rooms import draw_rooms
from sim.pictures.style import save_figure
from sim.reference import modules

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def load(name: str) -> Any:
    """What a benchmark has left."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def speed() -> list[str]:
    """Of benchmarks/pictures.py."""
    rows = [
        f"| {r['what']}, {r['case']} | {r['spans'] or ''} | {r['best_s']:.2g} | {r['limit_s']:g} |"
        for r in load("pictures")["rows"]
    ]
    meta = load("pictures")["meta"]
    return ["| what | spans | processor time, best of five / s | at most / s |", "|---|---|---|---|", *rows, "",
            f"({meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`)"]  # fmt: skip


def network() -> list[str]:
    """Of benchmarks/network.py."""
    rows = []
    for machine, errors in load("network")["errors in percent"].items():
        for gpus in (2, 4, 8):
            none = errors.get(f"{gpus} GPUs, of which none was used", {})
            cells = [errors[f"{gpus} GPUs, from 1 MiB, by parameters"], errors[f"{gpus} GPUs, from 1 MiB"],
                     errors["left out"] if gpus == 4 else {}, none]  # fmt: skip
            told = [f"{c['mean']:.1f} %, {c['worst']:.1f} %" if c else "" for c in cells]
            rows.append(f"| {machine if gpus == 2 else ''} | {gpus} | " + " | ".join(told) + " |")
    heads = ["machine", "GPUs", "parameters", "with factors", "sizes left out, 4 and 8 GPUs", "none of so many used"]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]


def million() -> list[str]:
    """Of benchmarks/sweep_million.py."""
    found = load("sweep_million")
    cells = [found["first-in first-out"], found["with interference"]]
    rows = {
        "points": [f"{found['points']:,}"] * 2,
        "seconds of the command, from start to the last part": [f"{c['s']:.0f}" for c in cells],
        "processor seconds of all its processes": [f"{c['processor s of all processes']:.0f}" for c in cells],
        "most memory at once, all processes": [f"{c['most GiB at once']:.2f} GiB" for c in cells],
        "results": [f"{c['MB of results']:.0f} MB" for c in cells],
        "processor time a point, once caches are warm": [f"{c['us of processor time a point']:.0f} us" for c in cells],
        "of that, not the engine, over the engine": [f"{100 * c['overhead over the engine']:.1f} %" for c in cells],
    }
    table = [f"| {what} | {' | '.join(numbers)} |" for what, numbers in rows.items()]
    return ["| | first-in first-out | with interference |", "|---|---|---|", *table]


def engines() -> list[str]:
    """Of benchmarks/engines.py."""
    speed: dict[str, dict[str, float]] = {}
    for row in load("engines")["speed"]:
        speed.setdefault(row["configurations"], {})[row["schedule"]] = row["per_s"]
    schedules = [*next(iter(speed.values()))]
    rows = [f"| {what} | " + " | ".join(f"{mine[s]:,.0f}" for s in schedules) + " |" for what, mine in speed.items()]
    heads = ["configurations a second, one core", *schedules]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]


TABLES = {
    "pictures.md": {"speed": speed},
    "machine.md": {"network": network},
    "sweeps.md": {"engines": engines, "million": million},
}


def filled(page: str) -> str:
    """The page's text with its tables as the results are."""
    text = (DOCS / page).read_text()
    for marker, table in TABLES[page].items():
        between = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end -->)", re.DOTALL)
        lines = "\n".join(table())
        text = between.sub(lambda found: f"{found[1]}\n{lines}\n\n{found[2]}", text)  # noqa: B023
    return text


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / name).write_text(filled(name))
    save_figure(draw_rooms(modules()), DOCS / "architecture.svg")
