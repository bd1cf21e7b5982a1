"""Tables that notebooks show for objects of molflow."""

from collections.abc import Iterable, Sequence
from html import escape

_LEFT = " style='text-align:left'"


def html_table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), caption: str = "") -> str:
    """An HTML table of plain values; the first cell of each row is its label, and None is an empty cell.

    Texts are on the left of their cells, and what begins with a digit on the right.

    Example:
        >>> html_table([("atoms", 19)]).count("<td")
        1
    """
    above = "".join(f"<th{_LEFT}>{escape(word)}</th>" for word in head)
    lines = "".join(f"<tr><th{_LEFT}>{_shown(first)}</th>{''.join(map(_cell, cells))}</tr>" for first, *cells in rows)
    title = f"<caption style='text-align:left;white-space:nowrap'>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{f'<thead><tr>{above}</tr></thead>' if head else ''}<tbody>{lines}</tbody></table>"


def _cell(value: object) -> str:
    text = _shown(value)
    return f"<td{'' if text[:1].isdigit() else _LEFT}>{text}</td>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value))
