"""The table and the picture of a page, made from committed results and traces."""

from __future__ import annotations

import re
from pathlib import Path

from calibration import results
from sim.output import whole_file
from sim.timeline import draw_timeline, save_figure
from sim.trace import Trace

_BETWEEN = re.compile(r"(<!-- results -->\n).*(<!-- end of results -->)", re.DOTALL)


def table(folder: Path) -> str:
    """What stands between the markers: the table, how far it was off, and how it was made."""
    summary = results.load(folder / "results.json")
    meta = summary.meta
    made = f"{meta['processor']}, {meta['cores']} cores, {meta['date'][:10]}, `{meta['command']}`"
    return f"{results.markdown(summary)}\n{results.verdict(summary)}.  ({made})\n"


def renew(page: Path, folder: Path) -> None:
    """Replaces what stands between the markers of `page`.  Raises ValueError if it has none."""
    text = page.read_text()
    if not _BETWEEN.search(text):
        raise ValueError(f"{page} has no lines '<!-- results -->' and '<!-- end of results -->'")
    new = _BETWEEN.sub(lambda found: found[1] + table(folder) + found[2], text)
    with whole_file(page) as part:
        part.write_text(new)


def draw(picture: Path, folder: Path) -> None:
    """One step in the middle, simulated above measured."""
    pair = [Trace.load(folder / f"{origin}.trace") for origin in ("simulated", "measured")]
    save_figure(draw_timeline(pair, step=pair[0].schedule.steps // 2), picture)
