"""Tables that notebooks show for objects of molflow."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), caption: str = "") -> str:
    """An HTML table of plain values; the first cell of each row is its label, and None is an empty cell.

    Example:
        >>> html_table([("atoms", 19)]).count("<td")
        1
    """
    left = " style='text-align:left'"
    above = "".join(f"<th{left}>{escape(word)}</th>" for word in head)
    lines = "".join(
        f"<tr><th{left}>{_shown(first)}</th>{''.join(f'<td{left}>{_shown(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in rows
    )
    title = f"<caption{left}>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}{f'<thead><tr>{above}</tr></thead>' if head else ''}<tbody>{lines}</tbody></table>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    return escape(f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value))
