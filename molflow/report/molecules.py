"""The page that tells how good molecules are, beside real ones, and shows some of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

from molflow.errors import MolflowError
from molflow.report.gallery import STYLE, Example, gallery, script
from molflow.report.page import Cell, Row, heading, number, page, paragraph, percent, plot, table, write_page

GROUPS = {
    "Stability": ("molecule_stability", "atom_stability", "valence_molecule_stability", "valence_atom_stability"),
    "Validity": (
        "connected_validity", "validity", "fragments", "perceived_connected_validity", "perceived_validity",
        "rdkit_default_validity", "edm_validity", "largest_fragment_validity",
    ),
    "Distinct and new": (
        "validity_x_uniqueness", "uniqueness", "novelty", "validity_x_uniqueness_x_novelty", "novel_compositions",
        "edm_validity_x_uniqueness", "edm_validity_x_uniqueness_x_novelty",
    ),
    "Shape": (
        "without_clashes", "posebusters", "w1_bond_lengths", "w1_angles", "w1_dihedrals", "w1_distances",
        "w1_atom_counts", "w1_compositions",
    ),
}  # fmt: skip
SCREENING = {
    "Descriptors": ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings"),
    "Strain": ("strain energy", "strain RMSD", "GFN2-xTB strain energy", "GFN2-xTB strain RMSD"),
}
_REFERENCE_LINE = {"color": "#808080", "width": 0, "shape": "hv"}
# Told apart also by colour-blind readers, on white and on black; further sets repeat them with other dashes.
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
    """Write a page with every score beside that of real data, what went wrong, distributions, and molecules that turn.

    Several sets of molecules stand side by side: a column of each table and a line of each plot for each.

    Args:
        records: `MoleculeScores.to_dict()` by the name of the set. They have one reference, or none.
        path: of the HTML file, which needs no network and no other file.
        statuses: what each status means.
        examples: molecules for the gallery; of several sets, with their `source`.
        title: of the page.

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
        table("In brackets the 95 % interval.", ("Score", *columns), _scores(records, known)),
        heading("What became of them"),
        _statuses(records, statuses),
        *_screening(records, known, columns),
        *([heading("Molecules"), gallery(examples)] if examples else []),
        *_distributions(records, known),
        style=STYLE,
        script=script() if examples else "",
    )
    write_page(path, html)


def example(name: str, structure: Any, report: Any, source: str = "") -> Example:
    """A molecule for the gallery.

    Args:
        name: where it comes from, such as "record 17".
        structure: positions (n, 3) in Å and atomic_numbers (n,), finite. Of elements outside the look-up tables the
            bonds are drawn as single.
        report: its `MoleculeReport`.
        source: name of the set that it is from, where there are several.
    """
    from molflow.chem import symbol
    from molflow.chem.depict import depict, drawn_bonds

    positions, numbers, *_ = structure
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
    """The scores of the reference that all records are compared with; empty where there is none."""
    if not records:
        raise MolflowError("a page of molecules needs at least one record")
    known = {found["name"]: found for record in records.values() if (found := record["reference_scores"])}
    if len(known) > 1:
        raise MolflowError(f"one page compares with one reference, not with {' and '.join(known)}")
    return next(iter(known.values()), {})


def _summary(records: Mapping[str, Record], known: Record) -> list[str]:
    """A sentence for each set; with several, a last one of the reference."""
    several = len(records) > 1
    protocol = _joined(record["protocol"] for record in records.values())
    texts = []
    for name, record in records.items():
        lost = f" ({record['n_unreadable']:,} more could not be read)" if record.get("n_unreadable") else ""
        texts.append(
            f"{name + ': ' if several else ''}{record['n_molecules']:,} molecules{lost}, {record['n_atoms']:,} atoms. "
            f"{percent(record['molecule_stability'])} of the molecules are stable"
        )
    of = f"of {known['name']} itself {percent(known['molecule_stability'])}" if known else ""
    if several:
        return [f"{text}." for text in texts] + [f"Stable by {protocol}{of and '; ' + of}."]
    return [f"{texts[0]} by {protocol}{of and '; ' + of}."]


def _scores(records: Mapping[str, Record], known: Record) -> dict[str, list[Row]]:
    names = list(dict.fromkeys(name for record in records.values() for name in record["metrics"]))
    grouped = {name for group in GROUPS.values() for name in group}
    groups = GROUPS | {"Further": tuple(name for name in names if name not in grouped)}
    return {
        group: [
            _score(name, [record["metrics"].get(name) for record in records.values()], bool(known))
            for name in members
            if name in names
        ]
        for group, members in groups.items()
    }


def _score(name: str, found: Sequence[Record | None], with_reference: bool) -> Row:
    """A metric of each set, None where a set lacks it. The count stands with the value where there are several."""
    metrics = [metric for metric in found if metric is not None]
    label = name.replace("w1_", "Wasserstein-1 distance of ").replace("_x_", " x ").replace("_", " ")
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
    return Row(label, cells, f"{of}. {protocol}.")


def _figure(metric: Record) -> Callable[[float | None], str]:
    return number if metric["count"] is None else percent


def _value(metric: Record) -> str:
    """The value in its unit, in brackets its interval in percent."""
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
    """The table of statuses that occur: counts and shares in columns, or in one cell where there are several sets."""
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
    """What a status is a share of: molecules, or records, of which some could not be read."""
    unreadable = record.get("n_unreadable", 0) if status == "unreadable" else 0
    return int(record["n_molecules"] + unreadable)


def _screening(records: Mapping[str, Record], known: Record, columns: Sequence[str]) -> list[str]:
    """A section of the quantities that molecules are screened by; nothing where no set has them."""
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
    caption = "Median, and in brackets where the middle 90 % lie, from the 5 to the 95 % quantile."
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
    """A section of plots; nothing where no set has histograms."""
    drawn = _by_quantity(records, "histogram")
    plots = [_plot(name, found, tuple(records), known) for name, found in drawn.items()]
    return [heading("Distributions"), *plots] if plots else []


def _plot(name: str, found: Mapping[str, Record], sets: Sequence[str], known: Record) -> str:
    """A line for each set that has the quantity, over the reference as an area.

    Sets come in bins of their own. Where these differ in width, densities are drawn, since shares would not compare.
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
    """A label as plotly.js takes it, in lines that fit the legend on a phone."""
    return "<br>".join(escape(line, quote=False) for line in wrap(label, 36))


def _by_quantity(records: Mapping[str, Record], key: str) -> dict[str, dict[str, Record]]:
    """By quantity, the distributions by set of those sets that have this of it."""
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
    """Different texts in a row, "a, b and c"."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} and {last}" if first else last
