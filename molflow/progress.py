"""Progress of long work on stderr: a bar on a terminal, elsewhere, as in a log file, a line every minute."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

INTERVAL = 60.0
"""Seconds between lines."""

_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"
_ENDLESS = "{desc}: {n_fmt}, {elapsed} gone{postfix}"
_UP = "\x1b[A"

_hidden = False


def hide_progress(hidden: bool) -> None:
    """Show no progress of anything from now on, or show it again."""
    global _hidden
    _hidden = hidden


def progress_bar(
    items: Iterable[Any] | None = None, *, desc: str, disable: bool = False, **options: Any
) -> "tqdm[Any]":
    """A bar or lines that show how far work has come.

    Args:
        items: what is worked on one by one, if it is iterated over.
        desc: the work in a word.
        disable: show nothing.
        options: as tqdm takes them: `total`, `initial`, `unit`.

    Example:
        >>> sum(progress_bar([1, 2, 3], desc="adding"))
        6
    """
    disable = disable or _hidden
    if sys.stderr.isatty():
        return tqdm(items, desc=desc, disable=disable, dynamic_ncols=True, **options)
    has_end = options.get("total") is not None or hasattr(items, "__len__")
    form = _LINE if has_end else _ENDLESS
    # the mean rate of the whole work: the last minute may have been a checkpoint
    return tqdm(items, desc=desc, disable=disable, bar_format=form, file=_Lines(), smoothing=0, **options)


class _Lines:
    """A file on which tqdm's bar is a line from time to time."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def write(self, text: str) -> None:
        line = text.replace(_UP, "").strip()
        if line and time.monotonic() - self.last >= INTERVAL:
            self.last = time.monotonic()
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
