"""The tables of samples of each task."""

from collections.abc import Callable
from pathlib import Path

from molflow.cli.output import Record, show, show_boltzmann, show_scores, write_json


def show_samples(task: str, records: dict[str, Record], json: Path | None) -> None:
    """Show the scores of samples, a record for each model, and write them to a JSON file."""
    _TABLES.get(task, _show_figures)(records, json)


def _show_particles(records: dict[str, Record], json: Path | None) -> None:
    known = all("system" in record for record in records.values())
    (show_boltzmann if known else _show_figures)(records, json)


def _show_figures(records: dict[str, Record], json: Path | None) -> None:
    show([{key: value for key, value in record.items() if key in _FIGURES} for record in records.values()])
    write_json(json, next(iter(records.values())) if len(records) == 1 else records)


_TABLES: dict[str, Callable[[dict[str, Record], Path | None], None]] = {
    "molecules": show_scores,
    "particles": _show_particles,
}
_FIGURES = (
    "n_samples", "n_particles", "dim", "n_features", "mean", "std", "ms_per_sample", "ms_per_sample_with_density",
)  # fmt: skip
