"""The tables of shipped models."""

from molflow.cli.output import Record, console, show
from molflow.cli.output.molecules import interval
from molflow.cli.output.particles import of_system, share, value


def show_models(cards: dict[str, Record]) -> None:
    """Print the main figures on the cards of models, in a table for each task."""
    tables: dict[str, list[Record]] = {task: [] for task in _ROWS}
    for name, card in cards.items():
        task = card.get("task", "")
        tables.setdefault(task, []).append(_ROWS.get(task, _model)(name, card))
    for place, records in enumerate(filter(None, tables.values())):
        if place:
            console.print()
        show(records)


def _model(name: str, card: Record) -> Record:
    """The row of a model of any task."""
    return {"model": name, "data": card.get("data"), "epochs": epochs(card), "steps": card.get("steps")}


def _molecule_model(name: str, card: Record) -> Record:
    scores = card.get("scores") or {}
    return {
        "model": name,
        **{key: card.get(key) for key in ("data", "representation")},
        "epochs": epochs(card),
        "molecules sampled": scores.get("n_molecules"),
        "atom stability": _stability(scores, "atom_stability"),
        "molecule stability": _stability(scores, "molecule_stability"),
        "evaluations a sample": _evaluations(scores),
        "test NLL, nats: encoder": scores.get("test_nll_encoder"),
        "decoder": scores.get("test_nll_decoder"),
        "at noise, model units": scores.get("test_noise", 0.0 if "test_nll_encoder" in scores else None),
    }


def _particle_model(name: str, card: Record) -> Record:
    scores = {"system": None} | (card.get("scores") or {})
    figures = {
        "effective sample size": share("ess_fraction"),
        "log Z, reweighted": value("reweighted_log_z"),
        "log Z": of_system("log_z"),
        "test NLL, nats: encoder": value("nll_encoder"),
        "decoder": value("nll_decoder"),
        "lowest possible": of_system("entropy"),
    }
    return {
        "model": name,
        "data": card.get("data"),
        "epochs": epochs(card),
        "samples": scores.get("n_samples"),
        "evaluations a sample": _evaluations(scores),
        **{label: figure(scores) or None for label, figure in figures.items()},
    }


_ROWS = {"molecules": _molecule_model, "particles": _particle_model}
"""Task -> row of a model with the figures of the task."""


def _evaluations(scores: Record) -> float | None:
    """Network evaluations per sample (measured for adaptive solvers)."""
    return scores.get("evaluations_per_sample", scores.get("evaluations"))


def epochs(card: Record) -> float:
    """Epochs of a run and of the runs that it started from, as far as their cards are known."""
    origin = (card.get("started_from") or {}).get("card")
    return round(float(card.get("epochs") or 0) + (epochs(origin) if origin else 0), 3)


def _stability(scores: Record, key: str) -> str:
    if scores.get(key) is None:
        return "-"
    return f"{100 * scores[key]:.2f} %{interval(scores.get(f'{key}_interval'))}"
