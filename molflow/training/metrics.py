"""Figures of training and validation."""

import logging
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from molflow.errors import NumericalError

log = logging.getLogger("molflow")


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it: a batch of one molecule lacks some."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}


def attempt(names: Sequence[str], figures: Callable[[], Iterable[Any]]) -> dict[str, Any]:
    """Figures by name; NaN for all of them and a warning where one of them cannot be computed."""
    try:
        return dict(zip(names, figures(), strict=True))
    except NumericalError as error:
        log.warning("no %s: %s", ", ".join(names), error)
        return dict.fromkeys(names, math.nan)
