"""Tables of report pages: figures with their errors, meanings in small text, and footnotes."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from molflow.report.page import running


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a figure, and a note in small text under it."""

    text: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its label, its figures, their meaning in words, and the number of a footnote, from 1."""

    label: str
    cells: Sequence[str | Cell]
    meaning: str = ""
    footnote: int | None = None


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
    inner = f"<caption>{running(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n{''.join(bodies)}</table>\n"
    if not wide:
        return f"<table>\n{inner}"
    box = f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
    return f'{box}\n<table class="wide">\n{inner}</div>\n'


def footnotes(texts: Sequence[str]) -> str:
    """Plain texts in the order of their numbers, which rows of tables name."""
    items = "".join(f'<li id="note-{n}">{running(text)}</li>\n' for n, text in enumerate(texts, start=1))
    return f'<ol class="notes">\n{items}</ol>\n'


def number(value: float | None, error: float | None = None) -> str:
    """Format a number with the digits that its error allows, "29.664 ± 0.012"; 4 digits without one; "" for None."""
    if value is None:
        return ""
    if not error or abs(value) >= 1e6 or error >= 1e6:
        return f"{value:.4g}" + (f" ± {error:.2g}" if error else "")
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}" if decimals < 8 else f"{value:.4g} ± {error:.1g}"


def percent(fraction: float | None, error: float | None = None) -> str:
    """Format a fraction as a percentage, "85.3 ± 0.4 %"; "" for None.

    Without an error it has 3 digits, or as many as keep it apart from 100 %: "99.98 %".
    """
    if fraction is None:
        return ""
    return (number(100 * fraction, 100 * error) if error else points(fraction)) + " %"


def points(fraction: float) -> str:
    """The number of `percent` without its sign."""
    value = 100 * fraction
    if value < 1 or value >= 100:
        return f"{value:.3g}"
    return f"{value:.{2 if value < 10 else max(1, -math.floor(math.log10(100 - value)))}f}"


def _row(row: Row, columns: Sequence[str], wide: bool) -> str:
    mark = "" if row.footnote is None else f'<sup><a href="#note-{row.footnote}">{row.footnote}</a></sup>'
    meaning = f"<small>{escape(row.meaning)}</small>" if row.meaning else ""
    cells = "".join(
        _cell(Cell(cell) if isinstance(cell, str) else cell, column if wide else "")
        for cell, column in zip(row.cells, columns, strict=True)
    )
    return f'<tr><th scope="row">{escape(row.label)}{mark}{meaning}</th>{cells}</tr>\n'


def _cell(cell: Cell, column: str) -> str:
    """A cell of a table. With the name of its column, for phones, its content is one block."""
    content = _figure(cell.text) + (f"<small>{escape(cell.note)}</small>" if cell.note else "")
    if not column:
        return f"<td>{content}</td>"
    return f'<td data-column="{escape(column)}">{content and f"<div>{content}</div>"}</td>'


def _figure(text: str) -> str:
    """Mark the error or interval, which has a softer colour and may move to a line of its own."""
    return re.sub(r" ((±|\[).*)$", r" <i>\1</i>", escape(text))
