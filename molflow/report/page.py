"""Parts that all report pages share: the HTML frame with its style, headings, paragraphs and plots.

A page contains everything that it shows; a content security policy blocks all network requests.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from molflow.extras import import_extra
from molflow.files import atomic_path, check_writable

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"

_DRAW = """
for (const plot of document.querySelectorAll(".plot")) {
  const spec = JSON.parse(plot.querySelector("script").textContent);
  plot.replaceChildren();
  Plotly.newPlot(plot, spec.data, spec.layout, {responsive: true, displayModeBar: false});
}
"""


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
<style>{resource("page.css")}{style}</style>
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


def resource(name: str) -> str:
    """The text of a file in this folder, such as a style sheet."""
    return resources.files("molflow.report").joinpath(name).read_text(encoding="utf-8")


def paragraph(text: str, *, notice: bool = False) -> str:
    """Plain text as a paragraph; a notice is highlighted."""
    attributes = ' class="notice" role="note"' if notice else ""
    return f"<p{attributes}>{running(text)}</p>\n"


def running(text: str) -> str:
    """Escaped text in which no line breaks before a percent sign."""
    return escape(text).replace(" %", "\u00a0%")


def heading(text: str) -> str:
    """Plain text as the heading of a section, which `jump_links` can name."""
    return f'<h2 id="{_anchor(text)}">{escape(text)}</h2>\n'


def jump_links(headings: Sequence[str]) -> str:
    """Links to the sections with these headings."""
    links = "".join(f'<a href="#{_anchor(text)}">{escape(text)}</a>' for text in headings)
    return f'<nav aria-label="Sections">{links}</nav>\n'


def _anchor(text: str) -> str:
    return text.lower().replace(" ", "-")


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


def _plotly_js() -> str:
    source: str = import_extra("plotly.offline", "report", "a report with plots").get_plotlyjs()
    return source
