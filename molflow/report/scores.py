"""Tables of the page of molecules: every score, the statuses, and the quantities that molecules are screened by."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from molflow.evaluation.metrics import grouped, label
from molflow.report.tables import Cell, Row, number, percent, points, table

SCREENING = {
    "Descriptors": ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings"),
    "Strain": ("strain energy", "strain RMSD", "GFN2-xTB strain energy", "GFN2-xTB strain RMSD"),
}
"""Quantities that molecules are screened by, by the heading of their group."""

Record = Mapping[str, Any]

_NONE = "–"


def protocols(records: Mapping[str, Record]) -> list[str]:
    """The protocols of all scores, each once: the footnotes of `scores`."""
    groups = grouped(name for record in records.values() for name in record["metrics"])
    names = [name for names in groups.values() for name in names]
    return list(
        dict.fromkeys(_protocol([r["metrics"][n] for r in records.values() if n in r["metrics"]]) for n in names)
    )


def scores(records: Mapping[str, Record], known: Record, columns: Sequence[str]) -> str:
    """The table of all scores with the numbers of their protocols."""
    groups = grouped(name for record in records.values() for name in record["metrics"])
    notes = protocols(records)
    rows = {
        group: [_score(name, [r["metrics"].get(name) for r in records.values()], bool(known), notes) for name in names]
        for group, names in groups.items()
    }
    return table("In brackets the 95 % interval. Small numbers name the protocols below.", ("Score", *columns), rows)


def figure_of(metric: Record, value: float | None) -> str:
    """A value of a metric, in percent if the metric is a fraction, else with its unit."""
    if value is None:
        return _NONE
    return percent(value) if metric["count"] is not None else f"{number(value)} {metric['unit']}".rstrip()


def _protocol(metrics: Sequence[Record]) -> str:
    return joined(metric["protocol"] for metric in metrics)


def _score(name: str, found: Sequence[Record | None], with_reference: bool, notes: Sequence[str]) -> Row:
    """The row of a metric, which is None for sets without it. With several sets, counts are printed under values."""
    metrics = [metric for metric in found if metric is not None]
    what = joined(metric["what"] for metric in metrics)
    if len(found) > 1:
        cells = [Cell(_value(metric), _count(metric)) if metric else Cell(_NONE) for metric in found]
        of = f"Of {what}"
    else:
        cells = [Cell(_value(metrics[0]))]
        of = f"{_count(metrics[0])} {what}"
    if with_reference:
        reference = next((metric for metric in metrics if metric["reference"] is not None), None)
        cells.append(Cell(figure_of(reference, reference["reference"]) if reference else ""))
    return Row(label(name), cells, f"{of}.", notes.index(_protocol(metrics)) + 1)


def _value(metric: Record) -> str:
    """The value with its unit, and its interval in percent in brackets."""
    ends = ", ".join(map(points, metric["interval"] or ())) if metric["value"] is not None else ""
    return figure_of(metric, metric["value"]) + (f" [{ends}]" if ends else "")


def _count(metric: Record) -> str:
    return f"{metric['of']:,}" if metric["count"] is None else f"{metric['count']:,} of {metric['of']:,}"


def statuses_table(records: Mapping[str, Record], meanings: Mapping[str, str]) -> str:
    """The table of statuses that occur: counts and shares in two columns, or in one cell if there are several sets."""
    several, rows = len(records) > 1, []
    for status, meaning in meanings.items():
        counts = [(record["statuses"].get(status, 0), _all_of(record, status)) for record in records.values()]
        if not any(count for count, _ in counts):
            continue
        if several:
            cells = [Cell(percent(count / of), f"{count:,} of {of:,}") for count, of in counts]
        else:
            cells = [Cell(text) for count, of in counts for text in (f"{count:,}", percent(count / of))]
        rows.append(Row(status, cells, meaning))
    columns = tuple(records) if several else ("Molecules", "Share")
    return table("A molecule has one status.", ("Status", *columns), {"Statuses": rows})


def _all_of(record: Record, status: str) -> int:
    """The denominator of a status: molecules, or all records for those that could not be read."""
    unreadable = record.get("n_unreadable", 0) if status == "unreadable" else 0
    return int(record["n_molecules"] + unreadable)


def screening(records: Mapping[str, Record], known: Record, columns: Sequence[str]) -> str:
    """The table of quantities that molecules are screened by; empty if no set has them."""
    found = by_quantity(records, "quantiles")
    measured = known.get("distributions") or {}
    if not any(name in measured for name in found):
        columns = columns[: len(records)]
    groups = {
        group: [_quantity(name, found[name], records, measured, len(columns)) for name in names if name in found]
        for group, names in SCREENING.items()
    }
    caption = "Median, with the 5 % and the 95 % quantile in brackets."
    return table(caption, ("Quantity", *columns), groups) if any(groups.values()) else ""


def _quantity(name: str, found: Mapping[str, Record], sets: Iterable[str], measured: Record, n_columns: int) -> Row:
    cells = [_quantiles(found.get(each)) for each in sets]
    if len(cells) < n_columns:
        cells.append(_quantiles(measured.get(name)))
    return Row(with_unit(name, found), cells)


def _quantiles(quantity: Record | None) -> Cell:
    if quantity is None or not quantity.get("quantiles"):
        return Cell(_NONE)
    low, median, high = quantity["quantiles"]
    count = quantity.get("count")
    return Cell(f"{number(median)} [{number(low)}, {number(high)}]", "" if count is None else f"{count:,} values")


def by_quantity(records: Mapping[str, Record], key: str) -> dict[str, dict[str, Record]]:
    """Distributions that have this key, by quantity and set."""
    found: dict[str, dict[str, Record]] = {}
    for each, record in records.items():
        for name, quantity in record["distributions"].items():
            if quantity.get(key):
                found.setdefault(name, {})[each] = quantity
    return found


def with_unit(name: str, found: Mapping[str, Record]) -> str:
    unit = next(iter(found.values()))["unit"]
    return name if not unit or name.endswith(unit) else f"{name} ({unit})"


def joined(texts: Iterable[str]) -> str:
    """Different texts joined as "a, b and c"."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} and {last}" if first else last
