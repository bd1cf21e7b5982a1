"""The page of molecules: every score beside that of real molecules, and a gallery."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from molflow.errors import MolflowError
from molflow.evaluation.metrics import grouped, label
from molflow.report.gallery import STYLE, Example, gallery, script
from molflow.report.page import Cell, Row, heading, number, page, paragraph, percent, plot, table, write_page

SCREENING = {
    "Descriptors": ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings"),
    "Strain": ("strain energy", "strain RMSD", "GFN2-xTB strain energy", "GFN2-xTB strain RMSD"),
}
"""Quantities that molecules are screened by, by the heading of their group."""

_REFERENCE_LINE = {"color": "#808080", "width": 0, "shape": "hv"}
# Colour-blind readers can distinguish them, on white and on black; further sets repeat them with other dashes.
_COLOURS = ("#d55e00", "#2b83d6", "#009e73", "#cc79a7")
_DASHES = ("solid", "dash", "dot", "dashdot")
_NONE = "–"

Record = Mapping[str, Any]


def molecules_page(
    records: Mapping[str, Record],
    path: str | Path,
    *,
    statuses: Mapping[str, str],
    examples: Sequence[Example] = (),
    title: str = "Molecules",
) -> None:
    """Write a page with every score beside that of real data, the statuses, the distributions, and a gallery in 3D.

    Several sets of molecules are compared: each has a column in every table and a line in every plot.

    Args:
        records: `MoleculeScores.to_dict()` by the name of the set. They have one reference, or none.
        path: the HTML file, which needs no network and no other file.
        statuses: the meaning of each status.
        examples: molecules for the gallery; with their `source` if there are several sets.
        title: title of the page.

    Raises:
        MolflowError: no record, records with different references, plotly is not installed, or the path cannot be
            written.
    """
    known = _reference(records)
    names = tuple(records) if len(records) > 1 else ("Samples",)
    columns = (*names, known["name"]) if known else names
    html = page(
        title,
        *map(paragraph, _summary(records, known)),
        *(paragraph(text, notice=True) for text in _notices(records)),
        table("In brackets the 95 % interval.", ("Score", *columns), _scores(records, known)),
        heading("Statuses"),
        _statuses(records, statuses),
        *_screening(records, known, columns),
        *([heading("Molecules"), gallery(examples)] if examples else []),
        *_distributions(records, known),
        style=STYLE,
        script=script() if examples else "",
    )
    write_page(path, html)


def example(name: str, structure: Any, report: Any, source: str = "") -> Example:
    """Make a molecule of the gallery.

    Args:
        name: the origin of the molecule, such as "record 17".
        structure: a `Structure` with finite positions; bonds are looked up unless it has them. A molecule with an
            element outside the look-up tables is drawn with single bonds.
        report: its `MoleculeReport`.
        source: name of the set that it is from, if there are several.
    """
    from molflow.chem import symbol
    from molflow.chem.depict import depict, drawn_bonds

    positions, numbers, _ = structure
    bonds = drawn_bonds(*structure)
    return Example(
        name=name,
        status=report.status,
        reason=report.reason,
        smiles=report.smiles or report.perceived_smiles,
        depiction=depict(positions, numbers, bonds),
        elements=[symbol(number) for number in numbers.tolist()],
        positions=positions.tolist(),
        bonds=[(i, j, order) for i, j, order in bonds.tolist()],
        source=source,
    )


def _reference(records: Mapping[str, Record]) -> Record:
    """The recorded scores of the reference that all records share; empty if there is none."""
    if not records:
        raise MolflowError("a page of molecules needs at least one record")
    known = {found["name"]: found for record in records.values() if (found := record["reference_scores"])}
    if len(known) > 1:
        raise MolflowError(f"one page compares with one reference, not with {' and '.join(known)}")
    return next(iter(known.values()), {})


def _summary(records: Mapping[str, Record], known: Record) -> list[str]:
    """A sentence for each set; if there are several, a last one on the reference."""
    several = len(records) > 1
    protocol = _joined(record["protocol"] for record in records.values())
    texts = []
    for name, record in records.items():
        more = f" ({record['n_unreadable']:,} more could not be read)" if record.get("n_unreadable") else ""
        texts.append(
            f"{name + ': ' if several else ''}{record['n_molecules']:,} molecules{more}, {record['n_atoms']:,} atoms. "
            f"{percent(record['molecule_stability'])} of the molecules are stable"
        )
    of = f"of {known['name']} itself {percent(known['molecule_stability'])}" if known else ""
    if several:
        return [f"{text}." for text in texts] + [f"Stable by {protocol}{of and '; ' + of}."]
    return [f"{texts[0]} by {protocol}{of and '; ' + of}."]


def _notices(records: Mapping[str, Record]) -> list[str]:
    """A sentence for each set with molecules that the look-up tables cannot score."""
    notes = {name: unsupported_note(record) for name, record in records.items()}
    return [(f"{name}: " if len(records) > 1 else "") + note for name, note in notes.items() if note]


def unsupported_note(record: Record) -> str:
    """A sentence on the molecules that the look-up tables cannot score; empty if there are none."""
    count = record["statuses"].get("unsupported", 0)
    if not count:
        return ""
    return (
        f"{count:,} of {record['n_molecules']:,} molecules are outside the look-up tables. Scores by look-up bonds "
        "count them as failures; scores named valence or perceived use perceived bonds, which cover all elements."
    )


def _scores(records: Mapping[str, Record], known: Record) -> dict[str, list[Row]]:
    groups = grouped(name for record in records.values() for name in record["metrics"])
    return {
        group: [
            _score(name, [record["metrics"].get(name) for record in records.values()], bool(known)) for name in names
        ]
        for group, names in groups.items()
    }


def _score(name: str, found: Sequence[Record | None], with_reference: bool) -> Row:
    """The row of a metric, which is None for sets without it. With several sets, counts are printed under values."""
    metrics = [metric for metric in found if metric is not None]
    what, protocol = (_joined(metric[key] for metric in metrics) for key in ("what", "protocol"))
    if len(found) > 1:
        cells = [Cell(_value(metric), _count(metric)) if metric else Cell(_NONE) for metric in found]
        of = f"Of {what}"
    else:
        cells = [Cell(_value(metrics[0]))]
        of = f"{_count(metrics[0])} {what}"
    if with_reference:
        reference = next((metric for metric in metrics if metric["reference"] is not None), None)
        cells.append(Cell(_figure(reference)(reference["reference"]) if reference else ""))
    return Row(label(name), cells, f"{of}. {protocol}.")


def _figure(metric: Record) -> Callable[[float | None], str]:
    return number if metric["count"] is None else percent


def _value(metric: Record) -> str:
    """The value with its unit, and its interval in percent in brackets."""
    if metric["value"] is None:
        return _NONE
    text = _figure(metric)(metric["value"]) + (f" {metric['unit']}" if metric["unit"] else "")
    if metric["interval"]:
        low, high = metric["interval"]
        text += f" [{100 * low:.3g}, {100 * high:.3g}]"
    return text


def _count(metric: Record) -> str:
    return f"{metric['of']:,}" if metric["count"] is None else f"{metric['count']:,} of {metric['of']:,}"


def _statuses(records: Mapping[str, Record], meanings: Mapping[str, str]) -> str:
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


def _screening(records: Mapping[str, Record], known: Record, columns: Sequence[str]) -> list[str]:
    """The section of quantities that molecules are screened by; empty if no set has them."""
    found = _by_quantity(records, "quantiles")
    measured = known.get("distributions") or {}
    if not any(name in measured for name in found):
        columns = columns[: len(records)]
    groups = {
        group: [_quantity(name, found[name], records, measured, len(columns)) for name in names if name in found]
        for group, names in SCREENING.items()
    }
    if not any(groups.values()):
        return []
    caption = "Median, with the 5 % and the 95 % quantile in brackets."
    return [heading("Screening"), table(caption, ("Quantity", *columns), groups)]


def _quantity(name: str, found: Mapping[str, Record], sets: Iterable[str], measured: Record, n_columns: int) -> Row:
    cells = [_quantiles(found.get(each)) for each in sets]
    if len(cells) < n_columns:
        cells.append(_quantiles(measured.get(name)))
    return Row(_with_unit(name, found), cells)


def _quantiles(quantity: Record | None) -> Cell:
    if quantity is None or not quantity.get("quantiles"):
        return Cell(_NONE)
    low, median, high = quantity["quantiles"]
    count = quantity.get("count")
    return Cell(f"{number(median)} [{number(low)}, {number(high)}]", "" if count is None else f"{count:,} values")


def _distributions(records: Mapping[str, Record], known: Record) -> list[str]:
    """The section of plots; empty if no set has histograms."""
    drawn = _by_quantity(records, "histogram")
    plots = [_plot(name, found, tuple(records), known) for name, found in drawn.items()]
    return [heading("Distributions"), *plots] if plots else []


def _plot(name: str, found: Mapping[str, Record], sets: Sequence[str], known: Record) -> str:
    """Plot a line for each set that has the quantity, and the reference as an area.

    Each set has its own bins. If their widths differ, densities are plotted, because shares could not be compared.
    """
    histograms = {each: quantity["histogram"] for each, quantity in found.items()}
    widths = {each: histogram["edges"][1] - histogram["edges"][0] for each, histogram in histograms.items()}
    kind = "density" if len({round(width, 5) for width in widths.values()}) > 1 else "share"

    def trace(label: str, each: str, key: str, line: dict[str, Any]) -> dict[str, Any]:
        scale = 1 if kind == "share" else widths[each]
        heights = [share / scale for share in histograms[each][key]]
        return {
            "type": "scatter", "mode": "lines", "name": _in_plot(label), "line": line,
            "x": histograms[each]["edges"], "y": [*heights, 0], "hovertemplate": "%{y:.3g}",
        }  # fmt: skip

    compared = [each for each in histograms if histograms[each]["reference"] is not None]
    labels = [known["name"]] if compared else []
    traces = []
    if compared:
        finest = min(compared, key=widths.__getitem__)
        traces.append(trace(known["name"], finest, "reference", _REFERENCE_LINE) | {"fill": "tozeroy"})
    for each in histograms:
        labels.append(each if len(sets) > 1 else "samples")
        traces.append(trace(labels[-1], each, "samples", _line(sets.index(each))))
    axis = _with_unit(name, found)
    layout = {"xaxis": {"title": {"text": axis}}, "yaxis": {"title": {"text": kind}, "rangemode": "tozero"}}
    listed = _joined(labels)
    caption = f"{name}: {kind} of {listed} in each bin."
    return plot(traces, layout, label=f"Histogram of {name}: {listed}", caption=caption)


def _line(place: int) -> dict[str, Any]:
    dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "width": 2, "shape": "hv", "dash": dash}


def _in_plot(label: str) -> str:
    """A label for plotly.js, in lines that fit the legend on a phone."""
    return "<br>".join(escape(line, quote=False) for line in wrap(label, 36))


def _by_quantity(records: Mapping[str, Record], key: str) -> dict[str, dict[str, Record]]:
    """Distributions that have this key, by quantity and set."""
    found: dict[str, dict[str, Record]] = {}
    for each, record in records.items():
        for name, quantity in record["distributions"].items():
            if quantity.get(key):
                found.setdefault(name, {})[each] = quantity
    return found


def _with_unit(name: str, found: Mapping[str, Record]) -> str:
    unit = next(iter(found.values()))["unit"]
    return name if not unit or name.endswith(unit) else f"{name} ({unit})"


def _joined(texts: Iterable[str]) -> str:
    """Different texts joined as "a, b and c"."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} and {last}" if first else last
