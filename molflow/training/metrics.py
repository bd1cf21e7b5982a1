"""What a run writes down: lines of metrics.jsonl, and TensorBoard where it is installed."""

import json
import logging
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from molflow.files import atomic_path
from molflow.flows.solvers import IntegrationError

log = logging.getLogger("molflow")


class Metrics:
    """Lines of metrics.jsonl, and TensorBoard where it is installed."""

    def __init__(self, file: Any, folder: Path, step: int):
        self.file = file
        self.board = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, step: int, **values: Any) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                if value is not None:
                    self.board.add_scalar(name, value, step)


def forget_after(path: Path, step: int) -> None:
    """Drop the log lines of steps that a killed run did after its last checkpoint: they will be done again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except ValueError:  # the line that was being written
            break
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it: a batch of one molecule lacks some."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.fmean(row[name] for row in rows if name in row) for name in names}


def attempt(names: Sequence[str], figures: Callable[[], Iterable[Any]]) -> dict[str, Any]:
    """Figures by name; where a path they need cannot be followed, NaN for all of them, and a warning."""
    try:
        return dict(zip(names, figures(), strict=True))
    except IntegrationError as error:
        log.warning("no %s: %s", ", ".join(names), error)
        return dict.fromkeys(names, math.nan)
