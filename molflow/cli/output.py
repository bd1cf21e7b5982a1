"""What commands show: tables on the screen, figures in a JSON file."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from molflow.files import check_writable
from molflow.report.molecules import GROUPS, SCREENING
from molflow.report.page import number, percent

# A table that is piped or redirected need not fit a screen.
console = Console(highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 1000)

Record = dict[str, Any]


def check_json(path: Path | None) -> None:
    """Find out whether the figures can be written before any work is done."""
    if path is not None:
        check_writable(path)


def write_json(path: Path | None, content: Any) -> None:
    """Write the figures, if a file was asked for."""
    from molflow.files import write_json

    if path is not None:
        write_json(path, content)


def show(records: Sequence[Record], json: Path | None = None) -> None:
    """One line for each figure, one column for each record."""
    table = Table(box=None, show_header=False)
    for key in records[0] if records else ():
        table.add_row(key.replace("_", " "), *(_text(record.get(key)) for record in records))
    console.print(table)
    write_json(json, records[0] if len(records) == 1 else records)


def show_lines(lines: Sequence[tuple[str, ...]]) -> None:
    """Words in columns."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(*line)
    console.print(table)


_SIMILARITY = "nearest_training_similarity"
_SPEEDS = ("ms_per_molecule", "ms_per_stable_molecule")


def show_scores(records: dict[str, Record], json: Path | None, several: bool = False) -> None:
    """Scores of one or more sets of molecules beside those of the reference; several were asked for if not all did."""
    first = next(iter(records.values()))
    reference = first["reference_scores"] or {}
    sets, columns = list(records.values()), [*records.values(), *([reference] if reference else [])]
    table = _columns(records, reference.get("name"))
    table.add_row("molecules", *(f"{c['n_molecules']:,}" for c in columns))
    for status in dict.fromkeys(status for record in sets for status in record["statuses"]):
        label = "unreadable records" if status == "unreadable" else status
        table.add_row(f"  {label}", *(f"{record['statuses'].get(status, 0):,}" for record in sets))
    for group, names in GROUPS.items():
        rows = [(_label(name), *(_metric(c, name) for c in columns)) for name in names]
        if group == "Distinct and new":
            rows.append((_label(_SIMILARITY), *(_mean_and_median(c, _SIMILARITY) for c in columns)))
        _add_group(table, group, rows, len(sets))
    for group, names in SCREENING.items():
        rows = [(name, *(_quantiles(c, name) for c in columns)) for name in names]
        _add_group(table, f"{group}: median [5 %, 95 %]", rows, len(sets))
    _add_group(table, "Speed", [(_label(key), *(_figure(c, key) for c in columns)) for key in _SPEEDS], len(sets))
    console.print(table)
    perceived = "; of perceived, valence and rdkit default by RDKit" if "perceived_validity" in first["metrics"] else ""
    console.print(f"Bonds by {first['protocol']}{perceived}. In brackets the 95 % interval.")
    if first["training"]:
        console.print(f"Novelty and similarity against {first['training']}.")
    write_json(json, records if several else first)


def _add_group(table: Table, heading: str, rows: list[tuple[str, ...]], sets: int) -> None:
    """Rows under a heading, of those that tell anything of a set; nothing if none does."""
    telling = [row for row in rows if any(row[1 : 1 + sets])]
    if telling:
        table.add_row()
        table.add_row(heading)
        for label, *cells in telling:
            table.add_row(f"  {label}", *cells)


def _label(name: str) -> str:
    return name.replace("w1_", "W1 of ").replace("_x_", " x ").replace("_", " ")


def _metric(scores: Record, name: str) -> str:
    """The value of a metric with its interval or unit, or nothing; of the reference, over all of it where that is."""
    metric = (scores.get("metrics") or {}).get(name) or {"count": 0}
    value = scores.get(name, metric.get("value"))
    if value is None:
        return ""
    if metric["count"] is None:
        return f"{number(value)} {metric.get('unit', '')}".rstrip()
    return f"{100 * value:.2f} %{_interval(metric.get('interval'))}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _quantiles(scores: Record, name: str) -> str:
    found = (scores.get("distributions") or {}).get(name)
    if not found:
        return ""
    low, median, high = map(number, found["quantiles"])
    return f"{median} [{low}, {high}] {found['unit']}".rstrip()


def _figure(record: Record, key: str) -> str:
    return _text(record[key]) if record.get(key) is not None else ""


def _value(key: str) -> Callable[[Record], str]:
    """A figure of a record with its error, if it has one."""
    return lambda record: number(record.get(key), record.get(f"{key}_error"))


def _fraction(key: str) -> Callable[[Record], str]:
    return lambda record: percent(record.get(key), record.get(f"{key}_error"))


def _known(key: str) -> Callable[[Record], str]:
    """A figure of the system."""
    return lambda record: number((record["system"] or {}).get(key), (record["system"] or {}).get(f"{key}_error"))


def _always(text: str) -> Callable[[Record], str]:
    return lambda record: text


def _count(key: str) -> Callable[[Record], str]:
    """A count, or nothing where it is zero."""
    return lambda record: f"{record[key]:,}" if record.get(key) else ""


def _entropy_by_bgflow(record: Record) -> str:
    entropy = (record["system"] or {}).get("entropy")
    return number(None if entropy is None else entropy - 0.5 * record["dof"] * math.log(2 * math.pi))


# What is shown of samples, and beside it of the reference.
_BOLTZMANN: tuple[tuple[str, Callable[[Record], str], Callable[[Record], str]], ...] = (
    ("configurations", _count("n_samples"), _count("n_reference")),
    ("without a finite energy", _count("n_nonfinite_energies"), _always("")),
    ("without a finite log density", _count("n_nonfinite_log_prob"), _always("")),
    ("mean energy, kT", _value("mean_energy"), _value("reference_mean_energy")),
    ("median energy, kT", _value("median_energy"), _value("reference_median_energy")),
    ("above all reference energies", _fraction("fraction_above_reference"), _always("0 %")),
    ("W1 of energies, kT", _value("w1_energy"), _value("w1_energy_halves")),
    ("  reweighted", _value("w1_energy_reweighted"), _value("w1_energy_halves")),
    ("W1 of distances", _value("w1_distance"), _value("w1_distance_halves")),
    ("  reweighted", _value("w1_distance_reweighted"), _value("w1_distance_halves")),
    ("effective sample size", _fraction("ess_fraction"), _always("100 %")),
    ("largest weight", _fraction("largest_weight"), _always("")),
    ("log Z, reweighted", _value("reweighted_log_z"), _known("log_z")),
    ("mean energy, reweighted, kT", _value("reweighted_mean_energy"), _known("mean_energy")),
    ("KL(samples || target), nats", _value("reverse_kl"), _always("0")),
    ("test NLL by the decoder, nats", _value("nll_decoder"), _known("entropy")),
    ("  KL(target || decoder)", _value("kl_decoder"), _always("0")),
    ("  as bgflow prints it", _value("nll_decoder_bgflow"), _entropy_by_bgflow),
    ("test NLL by the encoder, nats", _value("nll_encoder"), _known("entropy")),
    ("  KL(target || encoder)", _value("kl_encoder"), _always("0")),
    ("  as bgflow prints it", _value("nll_encoder_bgflow"), _entropy_by_bgflow),
    ("reconstruction error", _value("reconstruction_error"), _always("0")),
    ("ms per sample", _value("ms_per_sample"), _always("")),
    ("ms per sample with its density", _value("ms_per_sample_with_density"), _always("")),
)


def show_boltzmann(records: dict[str, Record], json: Path | None) -> None:
    """Scores of one or more sets of configurations beside those of the reference."""
    first = next(iter(records.values()))
    table = _columns(records, first["system"]["name"])
    for label, of_samples, of_reference in _BOLTZMANN:
        texts = [of_samples(record) for record in records.values()]
        if any(texts):
            table.add_row(label, *texts, of_reference(first))
    console.print(table)
    console.print("± is one standard error of independent samples. The reference's W1 is between its halves: noise.")
    if first["n_nll_decoder"]:
        console.print(
            f"NLL of {first['n_nll_decoder']:,} test configurations; beside it the entropy, which no model goes below."
        )
    write_json(json, first if len(records) == 1 else records)


def _columns(names: Sequence[str] | Record, reference: str | None) -> Table:
    """A table of labels, one column for each name, and one for the reference."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    if reference:
        table.add_column(f"{reference} itself", justify="right")
    return table


def show_models(cards: dict[str, Record]) -> None:
    """The main figures of models by their cards, those of molecules apart from those of particles."""
    particles = {name: card for name, card in cards.items() if card.get("domain") == "particles"}
    show([_molecule_model(name, card) for name, card in cards.items() if name not in particles])
    if particles:
        console.print()
        show([_particle_model(name, card) for name, card in particles.items()])


def _molecule_model(name: str, card: Record) -> Record:
    scores = card.get("scores") or {}
    return {
        "model": name,
        **{key: card.get(key) for key in ("data", "representation")},
        "epochs": epochs(card),
        "molecules sampled": scores.get("n_molecules"),
        "atom stability": _share(scores, "atom_stability"),
        "molecule stability": _share(scores, "molecule_stability"),
        "evaluations a sample": _evaluations(scores),
        "test NLL, nats: encoder": scores.get("test_nll_encoder"),
        "decoder": scores.get("test_nll_decoder"),
    }


def _particle_model(name: str, card: Record) -> Record:
    scores = {"system": None} | (card.get("scores") or {})
    figures = {
        "effective sample size": _fraction("ess_fraction"),
        "log Z, reweighted": _value("reweighted_log_z"),
        "log Z": _known("log_z"),
        "test NLL, nats: encoder": _value("nll_encoder"),
        "decoder": _value("nll_decoder"),
        "lowest possible": _known("entropy"),
    }
    return {
        "model": name,
        "data": card.get("data"),
        "epochs": epochs(card),
        "samples": scores.get("n_samples"),
        "evaluations a sample": _evaluations(scores),
        **{label: figure(scores) or None for label, figure in figures.items()},
    }


def _evaluations(scores: Record) -> float | None:
    """Of the network; counted, where a solver decides as it goes."""
    return scores.get("evaluations_per_sample", scores.get("evaluations"))


def epochs(card: Record) -> float:
    """Of a run and of those that it started from, as far as their cards are known."""
    origin = (card.get("started_from") or {}).get("card")
    return round(float(card.get("epochs") or 0) + (epochs(origin) if origin else 0), 3)


def _share(scores: Record, key: str) -> str:
    if scores.get(key) is None:
        return "-"
    return f"{100 * scores[key]:.2f} %{_interval(scores.get(f'{key}_interval'))}"


def _mean_and_median(scores: Record, key: str) -> str:
    return "" if scores.get(key) is None else f"{scores[key]:.3f} (median {scores[f'{key}_median']:.3f})"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
