"""One HTML page that needs nothing else: headings, text, tables, pictures inside the file, and how it was made.

    page = Page("Report", made={"command": "python -m sim report --html out.html"})
    page.heading("Runs").table(["schedule", "time"], [["sync", "2.68 s"]]).picture(figure, "One step of sync.")
    page.save("out.html")

Pictures are drawn into the page as SVG (PNG where that is less than half as large), so that no request leaves it.
The file knows markup; it refuses to know what is told."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sim.output import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LARGER = 1.35  # pictures on a screen, than on paper
_NUMBER = frozenset("0123456789+-")
_STYLE = """
body { font: 15px/1.5 "DejaVu Sans", system-ui, sans-serif; color: #111 }
body { max-width: 62em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3 { font-size: 1em }
table { border-collapse: collapse; margin: 1em 0; font-size: .87em; display: block; overflow-x: auto }
th, td { padding: .2em .8em .2em 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 1.5em 0 } figure img { max-width: 100% } figcaption { font-size: .87em; color: #444 }
pre { background: #f4f4f4; padding: .7em; overflow-x: auto; font-size: .82em }
footer { margin-top: 3em; border-top: 1px solid #ddd; font-size: .87em; color: #444 }
""".strip()


@dataclass
class Page:
    """A page as it grows: every method adds one thing at its end and returns the page.  `made`: how it was made."""

    title: str
    made: Mapping[str, str]  # shown at the end: command, versions, sources
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> Self:
        """A heading of level 2 or 3."""
        return self._add(f"<h{level}>{escape(text)}</h{level}>")

    def text(self, *paragraphs: str) -> Self:
        """Paragraphs of plain text."""
        return self._add(*(f"<p>{escape(each)}</p>" for each in paragraphs))

    def code(self, text: str) -> Self:
        """Text as it stands: a schedule, a file, the output of a command."""
        return self._add(f"<pre>{escape(text)}</pre>")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Self:
        """A table; columns in which every cell begins like a number stand right.

        Raises ValueError for a row that is not as long as the head."""
        rows = [*rows]
        if wrong := [row for row in rows if len(row) != len(head)]:
            raise ValueError(f"a row of {len(wrong[0])} cells in a table of {len(head)} columns: {wrong[0]}")
        right = [bool(rows) and all(row[i][:1] in _NUMBER for row in rows if row[i]) for i in range(len(head))]
        cells = [[_cell("th", name, right[i]) for i, name in enumerate(head)]]
        cells += [[_cell("td", cell, right[i]) for i, cell in enumerate(row)] for row in rows]
        first, *rest = (f"<tr>{''.join(row)}</tr>" for row in cells)
        return self._add("<table>", f"<thead>{first}</thead>", "<tbody>", *rest, "</tbody>", "</table>")

    def picture(self, figure: Figure, caption: str) -> Self:
        """A figure with a caption, which is also what is read out."""
        data, kind = _smaller(figure)
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        width_in = _LARGER * figure.get_figwidth()
        image = f'<img style="width: {width_in:.2f}in" src="{source}" alt="{escape(caption, quote=True)}">'
        return self._add(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")

    def __str__(self) -> str:
        made = "".join(
            f"<tr>{_cell('th', key, False)}{_cell('td', text, False)}</tr>" for key, text in self.made.items()
        )
        return "\n".join([
            "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # or a browser asks for one
            f"<title>{escape(self.title)}</title>", f"<style>\n{_STYLE}\n</style>", "</head>", "<body>",
            f"<h1>{escape(self.title)}</h1>", *self.parts,
            f"<footer><h2>How it was made</h2><table><tbody>{made}</tbody></table></footer>", "</body>", "</html>", "",
        ])  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Writes the page, whole or not at all."""
        with whole_file(path) as temporary:
            temporary.write_text(str(self))

    def _add(self, *parts: str) -> Self:
        self.parts.extend(parts)
        return self


def _cell(tag: str, text: str, right: bool) -> str:
    return f'<{tag} class="number">{escape(text)}</{tag}>' if right else f"<{tag}>{escape(text)}</{tag}>"


def _smaller(figure: Figure) -> tuple[bytes, str]:
    """The figure as SVG, or as PNG if that is less than half as large: (bytes, MIME subtype)."""
    from sim.pictures.style import figure_bytes

    vector, raster = figure_bytes(figure, "svg"), figure_bytes(figure, "png")
    return (vector, "svg+xml") if len(vector) <= 2 * len(raster) else (raster, "png")
