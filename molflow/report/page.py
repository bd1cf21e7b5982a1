"""Parts that all report pages share: the HTML frame with its style, tables, and plots.

A page contains everything that it shows; a content security policy blocks all network requests.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from molflow.errors import MolflowError
from molflow.files import atomic_path, check_writable

# Plotly writes colours into each element; only !important lets a page follow the light or dark setting of the reader.
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de; --warn: #fff4d6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #a3acb6; --paper: #14171a; --line: #3a424b; --warn: #3d3217 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
small, figcaption { color: var(--soft) }
small { display: block; font-weight: normal; font-size: .85rem; line-height: 1.35 }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; color: var(--soft); padding-bottom: .5rem }
th, td { text-align: left; vertical-align: top; padding: .45rem .5rem; border-bottom: 1px solid var(--line) }
th[scope=rowgroup] { padding-top: 1.2rem; color: var(--soft) }
th:first-child { padding-left: 0 }
td, th[scope=col]:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums }
td { white-space: nowrap }
td i { font-style: normal; color: var(--soft); display: inline-block; white-space: nowrap }
th[scope=col] { vertical-align: bottom }
.scroll { overflow-x: auto }
.wide th[scope=col] { overflow-wrap: anywhere; min-width: 6.5rem; max-width: 10rem }
.wide th[scope=row] { position: sticky; left: 0; min-width: 13rem; background: var(--paper) }
.wide td { white-space: nowrap }
.wide td i { display: block }
figure { margin: 0 }
.plot { height: 24rem; max-height: 75vh }
.notice { background: var(--warn); padding: .6rem .8rem; border-radius: .3rem }
.js-plotly-plot :is(.xtick, .ytick) text, .js-plotly-plot :is(.xtitle, .ytitle, .legendtext) {
  fill: var(--ink) !important }
.js-plotly-plot .gridlayer path, .js-plotly-plot :is(.xlines-above, .ylines-above) { stroke: var(--line) !important }
@media (max-width: 34rem) {
  th, td { padding: .45rem .25rem; font-size: .9rem }
  td { white-space: normal }
}
@media (max-width: 44rem) {
  .wide, .wide :is(caption, tbody, tr, th[scope=row], th[scope=rowgroup]) { display: block }
  .wide thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  .wide tr { padding: .45rem 0; border-bottom: 1px solid var(--line) }
  .wide :is(td, th) { padding: .1rem 0; border: 0 }
  .wide td { display: flex; flex-wrap: wrap; gap: 0 1rem }
  .wide td:empty { display: none }
  .wide td::before { content: attr(data-column); color: var(--soft); text-align: left; white-space: normal;
    overflow-wrap: anywhere }
  .wide td div { margin-left: auto; white-space: normal }
  .wide td i { display: inline }
  .wide td small { display: inline-block; min-width: 4.5rem; margin-left: .5rem }
}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"

_DRAW = """
for (const plot of document.querySelectorAll(".plot")) {
  const spec = JSON.parse(plot.querySelector("script").textContent);
  plot.replaceChildren();
  Plotly.newPlot(plot, spec.data, spec.layout, {responsive: true, displayModeBar: false});
}
"""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a figure, and a note in small text under it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its label, its figures, and their meaning in words."""

    label: str
    cells: Sequence[str | Cell]
    meaning: str = ""


def page(title: str, *sections: str, plots: bool = True, style: str = "", script: str = "") -> str:
    """A complete HTML page with this title as its heading.

    Args:
        title: plain text.
        sections: HTML, as from `paragraph`, `table` and `plot`.
        plots: include plotly.js (4.8 MB), once for all plots.
        style: further CSS.
        script: JavaScript that runs after the plots are drawn.

    Raises:
        MolflowError: plots are wanted and plotly is not installed.
    """
    scripts = "\n".join(
        f"<script>{code}</script>" for code in (*((_plotly_js(), _DRAW) if plots else ()), script) if code
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{"".join(sections)}</main>
{scripts}
</body>
</html>
"""


def write_page(path: str | Path, html: str) -> None:
    """Write a page completely or not at all.

    Raises:
        MolflowError: the path cannot be written.
    """
    check_writable(path)
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


def paragraph(text: str, *, notice: bool = False) -> str:
    """Plain text as a paragraph; a notice is highlighted."""
    attributes = ' class="notice" role="note"' if notice else ""
    return f"<p{attributes}>{_running(text)}</p>\n"


def heading(text: str) -> str:
    """Plain text as the heading of a section."""
    return f"<h2>{escape(text)}</h2>\n"


def table(caption: str, columns: Sequence[str], groups: Mapping[str, Sequence[Row]]) -> str:
    """A table of rows in named groups. The first column has the labels.

    The meaning of a row is printed under its label, so that a phone has room for the figures. A table with more than
    two cells in a row scrolls inside a box, and on a phone its cells are stacked. Groups without rows are left out.
    """
    wide = len(columns) > 3
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    bodies = [
        f'<tbody>\n<tr><th scope="rowgroup" colspan="{len(columns)}">{escape(name)}</th></tr>\n'
        f"{''.join(_row(row, columns[1:], wide) for row in rows)}</tbody>\n"
        for name, rows in groups.items()
        if rows
    ]
    inner = f"<caption>{_running(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n{''.join(bodies)}</table>\n"
    if not wide:
        return f"<table>\n{inner}"
    box = f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
    return f'{box}\n<table class="wide">\n{inner}</div>\n'


def plot(data: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], *, label: str, caption: str) -> str:
    """A plot that plotly.js draws when the page is opened, with colours for light and dark settings.

    Args:
        data: traces of plotly.js.
        layout: layout of plotly.js, which replaces the defaults.
        label: text for screen readers.
        caption: text below the plot.
    """
    axis = {"automargin": True, "fixedrange": True, "zeroline": False}
    defaults = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        "dragmode": False,  # a finger on the plot scrolls the page
        "hovermode": "x unified",
    }
    merged: dict[str, Any] = defaults | dict(layout)
    merged |= {name: axis | dict(layout.get(name, {})) for name in ("xaxis", "yaxis")}
    spec = json.dumps({"data": list(data), "layout": merged}, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure>\n<div class="plot" role="img" aria-label="{escape(label)}">'
        f'<script type="application/json">{spec}</script></div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def number(value: float | None, error: float | None = None) -> str:
    """Format a number with the digits that its error allows, "29.664 ± 0.012"; 4 digits without one; "" for None."""
    if value is None:
        return ""
    if not error or abs(value) >= 1e6 or error >= 1e6:
        return f"{value:.4g}" + (f" ± {error:.2g}" if error else "")
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}" if decimals < 8 else f"{value:.4g} ± {error:.1g}"


def percent(fraction: float | None, error: float | None = None) -> str:
    """Format a fraction as a percentage, "85.3 ± 0.4 %"; 3 digits without an error; "" for None."""
    if fraction is None:
        return ""
    return (number(100 * fraction, 100 * error) if error else f"{100 * fraction:.3g}") + " %"


def _running(text: str) -> str:
    """Escaped text in which no line breaks before a percent sign."""
    return escape(text).replace(" %", "\u00a0%")


def _row(row: Row, columns: Sequence[str], wide: bool) -> str:
    meaning = f"<small>{escape(row.meaning)}</small>" if row.meaning else ""
    cells = "".join(
        _cell(Cell(cell) if isinstance(cell, str) else cell, column if wide else "")
        for cell, column in zip(row.cells, columns, strict=True)
    )
    return f'<tr><th scope="row">{escape(row.label)}{meaning}</th>{cells}</tr>\n'


def _cell(cell: Cell, column: str) -> str:
    """A cell of a table. With the name of its column, for phones, its content is one block."""
    content = _figure(cell.text) + (f"<small>{escape(cell.note)}</small>" if cell.note else "")
    if not column:
        return f"<td>{content}</td>"
    return f'<td data-column="{escape(column)}">{content and f"<div>{content}</div>"}</td>'


def _figure(text: str) -> str:
    """Mark the error or interval, which has a softer colour and may move to a line of its own."""
    return re.sub(r" ((±|\[).*)$", r" <i>\1</i>", escape(text))


def _plotly_js() -> str:
    try:
        source: str = import_module("plotly.offline").get_plotlyjs()
    except ModuleNotFoundError as error:
        raise MolflowError("a report with plots needs plotly: pip install 'molflow[report]'") from error
    return source
