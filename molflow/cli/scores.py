"""The tables of samples of each task."""

from collections.abc import Callable

from molflow.cli.output import Record, show, show_boltzmann, show_scores


def show_samples(task: str, records: dict[str, Record]) -> None:
    """Show the scores of samples, a record for each model."""
    _TABLES.get(task, _show_figures)(records)


def _show_particles(records: dict[str, Record]) -> None:
    known = all("system" in record for record in records.values())
    (show_boltzmann if known else _show_figures)(records)


def _show_figures(records: dict[str, Record]) -> None:
    show([{key: value for key, value in record.items() if key in _FIGURES} for record in records.values()])


_TABLES: dict[str, Callable[[dict[str, Record]], None]] = {
    "molecules": show_scores,
    "particles": _show_particles,
}
_FIGURES = (
    "n_samples", "n_particles", "dim", "n_features", "mean", "std", "ms_per_sample", "ms_per_sample_with_density",
)  # fmt: skip
