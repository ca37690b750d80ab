"""Puts the tables between the markers of the pages here, from benchmarks/results; draws the rooms.

python docs/make.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from calibration.results import rows_to_markdown
from sim.pictures.rooms import draw_rooms
from sim.pictures.style import save_figure
from sim.reference import modules

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"


def load(name: str) -> Any:
    """What a benchmark has left."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def measured(name: str) -> str:
    """Where, when and how a benchmark's results came about."""
    meta = load(name)["meta"]
    return (
        f"{meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, commit {meta['commit']}, `{meta['command']}`"
    )


def speed() -> str:
    """Of benchmarks/pictures.py."""
    rows = [
        [f"{r['what']}, {r['case']}", str(r["spans"] or ""), f"{r['best_s']:.2g}", f"{r['limit_s']:g}"]
        for r in load("pictures")["rows"]
    ]
    heads = ["what", "spans", "processor time, best of five / s", "at most / s"]
    return f"{rows_to_markdown([heads, *rows])}\n({measured('pictures')})\n"


def network() -> str:
    """Of benchmarks/network.py."""
    rows = []
    for machine, errors in load("network")["errors in percent"].items():
        for gpus in (2, 4, 8):
            none = errors.get(f"{gpus} GPUs, of which none was used", {})
            cells = [errors[f"{gpus} GPUs, from 1 MiB, by parameters"], errors[f"{gpus} GPUs, from 1 MiB"],
                     errors["left out"] if gpus == 4 else {}, errors.get(f"{gpus} GPUs, left out between"),
                     none]  # fmt: skip
            told = [f"{c['mean']:.1f} %, {c['worst']:.1f} %" if c else "" for c in cells]
            rows.append([machine if gpus == 2 else "", str(gpus), *told])
    heads = ["machine", "GPUs", "parameters", "with factors", "left out, 16 times apart, 4 and 8 GPUs",
             "left out, 4 times apart", "none of so many used"]  # fmt: skip
    return rows_to_markdown([heads, *rows])


def million() -> str:
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
    table = [[what, *numbers] for what, numbers in rows.items()]
    head = ["", "first-in first-out", "with interference"]
    return f"{rows_to_markdown([head, *table])}\n({measured('sweep_million')})\n"


def engines() -> str:
    """Of benchmarks/engines.py."""
    speed: dict[str, dict[str, float]] = {}
    for row in load("engines")["speed"]:
        speed.setdefault(row["configurations"], {})[row["schedule"]] = row["per_s"]
    schedules = [*next(iter(speed.values()))]
    rows = [[what, *(f"{mine[s]:,.0f}" for s in schedules)] for what, mine in speed.items()]
    table = rows_to_markdown([["configurations a second, one core", *schedules], *rows])
    return f"{table}\n({measured('engines')})\n"


def survived() -> str:
    """Of benchmarks/sweep_kills.py and benchmarks/sweep_fuzz.py."""
    kills, fuzz = load("sweep_kills"), load("sweep_fuzz")
    refused = fuzz["refused"] + fuzz["refused before it ran"]
    struck = f"{kills['of which workers']} of workers, {kills['of which drivers']} of the driver"
    differ = kills["rows that differ from a sweep left in peace"]
    killed = (
        f"{kills['points']:,} points survived {kills['kills']} SIGKILLs at random ({struck}): every point there once"
    )
    drawn = f"{fuzz['finished']:,} finished, {refused:,} were refused in words, {fuzz['failed']} ended in any other way"
    longest = f"{fuzz['longest draw in s']:.2f} s"
    return (
        f"{killed}, and {differ} rows that differ from a sweep left in peace ({measured('sweep_kills')}).\n\n"
        f"Of {fuzz['draws']:,} points drawn by a fuzzer (settings out of range or of other types, stirred schedules,\n"
        f"keys that lead nowhere), {drawn}; the longest took {longest} ({measured('sweep_fuzz')}).\n"
    )


TABLES = {
    "pictures.md": {"speed": speed},
    "machine.md": {"network": network},
    "sweeps.md": {"engines": engines, "million": million, "survived": survived},
}


def filled(page: str) -> str:
    """The page's text with its tables as the results are."""
    text = (DOCS / page).read_text()
    for marker, table in TABLES[page].items():
        between = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end -->)", re.DOTALL)
        lines = table()
        text = between.sub(lambda found: f"{found[1]}\n{lines}\n{found[2]}", text)  # noqa: B023
    return text


if __name__ == "__main__":
    for name in TABLES:
        (DOCS / name).write_text(filled(name))
    save_figure(draw_rooms(modules()), DOCS / "architecture.svg")
