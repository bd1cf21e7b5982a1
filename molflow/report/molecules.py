"""The page that tells how good molecules are, beside real ones, and shows some of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from molflow.report.gallery import STYLE, Example, gallery, script
from molflow.report.page import Row, heading, number, page, paragraph, percent, plot, table, write_page

_GROUPS = {
    "Stability": ("molecule_stability", "atom_stability", "valence_molecule_stability", "valence_atom_stability"),
    "Validity": (
        "connected_validity", "validity", "perceived_connected_validity", "perceived_validity",
        "rdkit_default_validity", "edm_validity", "largest_fragment_validity",
    ),
    "Distinct and new": (
        "validity_x_uniqueness", "uniqueness", "novelty", "validity_x_uniqueness_x_novelty", "novel_compositions",
        "edm_validity_x_uniqueness", "edm_validity_x_uniqueness_x_novelty",
    ),
    "Shape": (
        "without_clashes", "w1_bond_lengths", "w1_angles", "w1_dihedrals", "w1_distances", "w1_atom_counts",
        "w1_compositions",
    ),
}  # fmt: skip
_LINES = {
    "reference": {"color": "#808080", "width": 0, "shape": "hv"},
    "samples": {"color": "#d55e00", "width": 2, "shape": "hv"},
}


def molecules_page(
    record: Mapping[str, Any],
    path: str | Path,
    *,
    statuses: Mapping[str, str],
    examples: Sequence[Example] = (),
    title: str = "Molecules",
) -> None:
    """Write a page with every score beside that of real data, what went wrong, distributions, and molecules that turn.

    Args:
        record: `MoleculeScores.to_dict()`.
        path: of the HTML file, which needs no network and no other file.
        statuses: what each status means.
        examples: molecules for the gallery.
        title: of the page.

    Raises:
        MolflowError: plotly is not installed, or the path cannot be written.
    """
    reference = (record["reference_scores"] or {}).get("name", "")
    drawn = {name: found for name, found in record["distributions"].items() if found.get("histogram")}
    html = page(
        title,
        paragraph(_summary(record)),
        table("In brackets the 95 % interval.", ("Score", "Samples", reference), _groups(record["metrics"])),
        heading("What became of them"),
        table("A molecule has one status.", ("Status", "Molecules", "Share"), _statuses(record, statuses)),
        *([heading("Molecules"), gallery(examples)] if examples else []),
        *([heading("Distributions"), *(_plot(*item, reference) for item in drawn.items())] if drawn else []),
        style=STYLE,
        script=script() if examples else "",
    )
    write_page(path, html)


def example(name: str, structure: Any, report: Any) -> Example:
    """A molecule for the gallery.

    Args:
        name: where it comes from, such as "record 17".
        structure: positions (n, 3) in Å and atomic_numbers (n,), finite and of elements in the look-up tables.
        report: its `MoleculeReport`.
    """
    from molflow.chem import symbol
    from molflow.chem.bonds import orders_of_one
    from molflow.chem.build import bond_list
    from molflow.chem.depict import depict

    positions, numbers = structure
    orders = orders_of_one(positions, numbers)
    return Example(
        name=name,
        status=report.status,
        reason=report.reason,
        smiles=report.smiles,
        depiction=depict(positions, numbers, orders),
        elements=[symbol(number) for number in numbers.tolist()],
        positions=positions.tolist(),
        bonds=[(i, j, order) for i, j, order in bond_list(orders).tolist()],
    )


def _summary(record: Mapping[str, Any]) -> str:
    text = (
        f"{record['n_molecules']:,} molecules, {record['n_atoms']:,} atoms. "
        f"{percent(record['molecule_stability'])} of the molecules are stable by {record['protocol']}"
    )
    if record["reference_scores"]:
        known = record["reference_scores"]
        text += f"; of {known['name']} itself {percent(known['molecule_stability'])}"
    return text + "."


def _groups(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Row]]:
    return {
        group: [_metric(name, metrics[name]) for name in names if name in metrics] for group, names in _GROUPS.items()
    }


def _metric(name: str, metric: Mapping[str, Any]) -> Row:
    label = name.replace("w1_", "Wasserstein-1 distance of ").replace("_x_", " x ").replace("_", " ")
    figure = percent if metric["count"] is not None else number
    value = figure(metric["value"]) + (f" {metric['unit']}" if metric["unit"] else "")
    if metric["interval"]:
        low, high = metric["interval"]
        value += f" [{100 * low:.3g}, {100 * high:.3g}]"
    of = f"{metric['count']:,} of {metric['of']:,}" if metric["count"] is not None else f"{metric['of']:,}"
    return Row(label, value, figure(metric["reference"]), f"{of} {metric['what']}. {metric['protocol']}.")


def _statuses(record: Mapping[str, Any], meanings: Mapping[str, str]) -> dict[str, list[Row]]:
    total, found = record["n_molecules"], record["statuses"]
    rows = [
        Row(status, f"{found[status]:,}", percent(found[status] / total), meaning)
        for status, meaning in meanings.items()
        if found.get(status)
    ]
    return {"Statuses": rows}


def _plot(name: str, found: Mapping[str, Any], reference: str) -> str:
    unit, histogram = found["unit"], found["histogram"]
    traces = []
    for key in ("reference", "samples"):
        if histogram[key] is not None:
            label = reference if key == "reference" else "samples"
            trace = {"type": "scatter", "mode": "lines", "name": label, "line": _LINES[key], "x": histogram["edges"]}
            fill = {"fill": "tozeroy"} if key == "reference" else {}
            traces.append(trace | fill | {"y": [*histogram[key], 0], "hovertemplate": "%{y:.3g}"})
    axis = f"{name} ({unit})" if unit and unit != name else name
    layout = {"xaxis": {"title": {"text": axis}}, "yaxis": {"title": {"text": "share"}, "rangemode": "tozero"}}
    names = " and ".join(trace["name"] for trace in traces)
    return plot(traces, layout, label=f"Histogram of {name}: {names}", caption=f"{name}: share of {names} in each bin.")
