"""The table of scores of molecules, whose rows come from the registry of metrics."""

from collections.abc import Sequence

from rich.table import Table

from molflow.cli.output import Record, columns, console, text
from molflow.evaluation.metrics import grouped, label
from molflow.report.molecules import notes_on
from molflow.report.scores import SCREENING
from molflow.report.tables import number

_SPEEDS = ("ms_per_molecule", "ms_per_stable_molecule")


def show_scores(records: dict[str, Record]) -> None:
    """Print the scores of one or more sets of molecules, by the name of the set, beside those of the reference."""
    sets = list(records.values())
    reference = sets[0]["reference_scores"] or {}
    shown = [*sets, *([reference] if reference else [])]
    table = columns(records, reference.get("name"))
    table.add_row("molecules", *(f"{c['n_molecules']:,}" for c in shown))
    for status in dict.fromkeys(status for record in sets for status in record["statuses"]):
        words = "unreadable records" if status == "unreadable" else status
        table.add_row(f"  {words}", *(f"{record['statuses'].get(status, 0):,}" for record in sets))
    for group, names in grouped(name for record in sets for name in record["metrics"]).items():
        _add_group(table, group, [(label(name), *(_metric(c, name) for c in shown)) for name in names], len(sets))
    for group, quantities in SCREENING.items():
        rows = [(name, *(_quantiles(c, name) for c in shown)) for name in quantities]
        _add_group(table, f"{group}: median [5 %, 95 %]", rows, len(sets))
    _add_group(table, "Speed", [(label(key), *(_figure(c, key) for c in shown)) for key in _SPEEDS], len(sets))
    for name, record in records.items():
        for note in notes_on(record):
            console.print(f"{name}: {note}")
    console.print(table)
    _show_protocols(next(iter(records.values())))


def _show_protocols(first: Record) -> None:
    perceived = "; of perceived, valence and rdkit default by RDKit" if "perceived_validity" in first["metrics"] else ""
    console.print(f"Bonds: {first['protocol']}{perceived}. In brackets the 95 % interval.")
    if first["training"]:
        console.print(f"Novelty and similarity against {first['training']}.")


def _add_group(table: Table, heading: str, rows: Sequence[tuple[str, ...]], n_sets: int) -> None:
    """Add rows under a heading. Rows that are empty for all sets are left out, and so is a heading without rows."""
    filled = [row for row in rows if any(row[1 : 1 + n_sets])]
    if filled:
        table.add_row()
        table.add_row(heading)
        for words, *cells in filled:
            table.add_row(f"  {words}", *cells)


def _metric(scores: Record, name: str) -> str:
    """The value of a metric with its interval or unit; empty if there is none.

    A reference may have a value over the whole data set beside that in its metrics, which is over a part.
    """
    metric = (scores.get("metrics") or {}).get(name) or {"count": 0}
    value = scores.get(name, metric.get("value"))
    if value is None:
        return ""
    if metric["count"] is None:
        return f"{number(value)} {metric.get('unit', '')}".rstrip()
    return f"{100 * value:.2f} %{interval(metric.get('interval'))}"


def interval(ends: Sequence[float] | None) -> str:
    """An interval of a fraction in percent, in brackets after a space; empty for None."""
    return "" if ends is None else f" [{100 * ends[0]:.2f}, {100 * ends[1]:.2f}]"


def _quantiles(scores: Record, name: str) -> str:
    found = (scores.get("distributions") or {}).get(name)
    if not found:
        return ""
    low, median, high = map(number, found["quantiles"])
    return f"{median} [{low}, {high}] {found['unit']}".rstrip()


def _figure(record: Record, key: str) -> str:
    return text(record[key]) if record.get(key) is not None else ""
