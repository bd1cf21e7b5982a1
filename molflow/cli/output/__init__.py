"""Output of commands: tables on the screen, figures in a JSON file.

The tables are in the modules of this package, which are loaded when a command shows them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from molflow import files
from molflow.errors import printable
from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.cli.output.models import epochs, show_card, show_models
    from molflow.cli.output.molecules import show_scores
    from molflow.cli.output.particles import show_boltzmann

__all__ = [
    "Record", "check_json", "columns", "console", "epochs", "show", "show_boltzmann", "show_card", "show_lines",
    "show_models", "show_scores", "text", "write_json",
]  # fmt: skip

# A table that is piped or redirected need not fit a screen.
_on_screen = sys.stdout is not None and sys.stdout.isatty()
console = Console(highlight=False, soft_wrap=True, markup=False, width=None if _on_screen else 1000)

Record = dict[str, Any]

__getattr__, __dir__ = lazy_names(
    __name__,
    {"models": ("epochs", "show_card", "show_models"), "molecules": ("show_scores",), "particles": ("show_boltzmann",)},
)


def check_json(path: Path | None) -> None:
    """Fail early if the JSON file cannot be written; if it is standard output, tables go to standard error."""
    console.stderr = str(path) == files.STANDARD_STREAM
    if path is not None:
        files.check_writable(path)


def write_json(path: Path | None, content: Any) -> None:
    """Write the JSON file, if one was asked for."""
    if path is not None:
        files.write_json(path, content)


def show(records: Sequence[Record], json: Path | None = None) -> None:
    """Print one line for each figure, with one column for each record; those that do not fit go to a further table.

    As in all commands files are written first, since the reader of standard output may close it.
    """
    write_json(json, records[0] if len(records) == 1 else records)
    left = list(records)
    while left:
        n = next((n for n in range(len(left), 1, -1) if _width(_table(left[:n])) <= console.width), 1)
        console.print(_table(left[:n]))
        left = left[n:]


def _table(records: Sequence[Record]) -> Table:
    table = Table(box=None, show_header=False)
    for key in records[0]:
        table.add_row(key.replace("_", " "), *(text(record.get(key)) for record in records))
    return table


def _width(table: Table) -> int:
    """Characters that a table takes if nothing in it is cut."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def show_lines(lines: Sequence[tuple[str, ...]]) -> None:
    """Print words in columns."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(*line)
    console.print(table)


def columns(names: Sequence[str] | Record, reference: str | None) -> Table:
    """An empty table with a column of labels, one for each name, and one for the reference."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(printable(name), justify="right")
    if reference:
        table.add_column(f"{reference} itself", justify="right")
    return table


def text(value: Any) -> str:
    """A value of a JSON record as it is printed; "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return printable(str(value))
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(text, value))}]"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
