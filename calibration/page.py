"""The table and the picture of a page, made from committed results and traces."""

from __future__ import annotations

import re
from pathlib import Path

from calibration import results
from sim.output import whole_file
from sim.timeline import draw_timeline, save_figure
from sim.trace import Trace

_BETWEEN = re.compile(r"(<!-- results -->\n).*(<!-- end of results -->)", re.DOTALL)

_NAMED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(folder: Path) -> str:
    """What stands between the markers: the table, how far it was off, and how it was made."""
    summary = results.load(folder / "results.json")
    meta = summary.meta
    made = f"{meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`"
    made += f"; other programs had {meta['others']} of the processors meanwhile" if "others" in meta else ""
    return f"{results.markdown(summary)}\n{results.verdict(summary)}.  ({made})\n"


def renew(page: Path, folder: Path) -> None:
    """Replaces what stands between the markers of `page`.  Raises ValueError if it has none."""
    text = page.read_text()
    if not _BETWEEN.search(text):
        raise ValueError(f"{page} has no lines '<!-- results -->' and '<!-- end of results -->'")
    new = _BETWEEN.sub(lambda found: found[1] + table(folder) + found[2], text)
    with whole_file(page) as part:
        part.write_text(new)


def renew_all(page: Path, data: Path) -> None:
    """Replaces, for every folder of `data` with results, what stands between its markers in `page`:
    `<!-- table NAME -->` and `<!-- end -->`.  Raises ValueError for a marker without results."""
    text = page.read_text()

    def filled(found: re.Match[str]) -> str:
        return found[1] + section(data / found[2]) + found[3]

    with whole_file(page) as part:
        part.write_text(_NAMED.sub(filled, text))


def section(folder: Path) -> str:
    """The tables of one folder of results: cells, and errors by level."""
    summary = results.load(folder / "results.json")
    return f"{table(folder)}\n{results.levels_markdown(summary)}"


def draw(picture: Path, folder: Path) -> None:
    """One step in the middle, simulated above measured."""
    pair = [Trace.load(folder / f"{origin}.trace") for origin in ("simulated", "measured")]
    save_figure(draw_timeline(pair, step=pair[0].schedule.steps // 2), picture)
