"""The tables of shipped models."""

from collections.abc import Sequence

from rich.table import Table

from molflow.cli.output import Record, console, show, text
from molflow.cli.output.molecules import interval
from molflow.cli.output.particles import of_system, share, value
from molflow.evaluation.reference import REFERENCES, recorded_scores

_CARD_WIDTH = 100


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


def show_card(name: str, card: Record) -> None:
    """Print what a model is for, how it was made, what it scores, how it can mislead and what to cite."""
    about = card.get("about") or {}
    hours = f"{about['core_hours']:g} core hours on {about['machine']}" if about else ""
    figures = _ROWS.get(card.get("task", ""), _model)(name, card) | _further_scores(card)
    scores = {key: value for key, value in figures.items() if key not in ("model", "data") and value is not None}
    parts: dict[str, Sequence[str]] = {
        "model": [name],
        "for": [about.get("purpose", "")],
        "trained on": [about.get("data") or card.get("data") or "", hours],
        "how": [card.get("how") or ""],
        "scores": [f"{label}: {text(value)}{_reference(card, label)}" for label, value in scores.items()],
        "beware": about.get("caveats", ()),
        "cite": about.get("cite", ()),
        "use": [f"molflow sample --model {name}"],
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=_CARD_WIDTH)
    for title, lines in parts.items():
        for place, line in enumerate(filter(None, lines)):
            table.add_row("" if place else title, line)
    console.print(table)


def _reference(card: Record, label: str) -> str:
    """The score of the data themselves, where it is recorded."""
    data = card.get("data")
    value = recorded_scores(data).get(label.replace(" ", "_")) if data in REFERENCES else None
    return "" if value is None else f"; {data} itself: {100 * value:.2f} %"


def _further_scores(card: Record) -> Record:
    """Scores of molecules that the list of models has no room for."""
    scores = card.get("scores") or {}
    names = ("connected_validity", "validity_x_uniqueness", "novelty")
    return {name.replace("_", " "): _fraction(scores, name) for name in names if scores.get(name) is not None}


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
        "atom stability": _fraction(scores, "atom_stability"),
        "molecule stability": _fraction(scores, "molecule_stability"),
        "evaluations a sample": _evaluations(scores),
        "test NLL, nats: encoder": scores.get("test_nll_encoder"),
        "test NLL, nats: decoder": scores.get("test_nll_decoder"),
        "NLL at noise, model units": scores.get("test_noise", 0.0 if "test_nll_encoder" in scores else None),
    }


def _particle_model(name: str, card: Record) -> Record:
    scores = {"system": None} | (card.get("scores") or {})
    figures = {
        "effective sample size": share("ess_fraction"),
        "log Z, reweighted": value("reweighted_log_z"),
        "log Z": of_system("log_z"),
        "test NLL, nats: encoder": value("nll_encoder"),
        "test NLL, nats: decoder": value("nll_decoder"),
        "lowest possible NLL": of_system("entropy"),
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


def _fraction(scores: Record, key: str) -> str:
    if scores.get(key) is None:
        return "-"
    return f"{100 * scores[key]:.2f} %{interval(scores.get(f'{key}_interval'))}"
