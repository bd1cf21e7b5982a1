"""The page of molecules: a verdict, key figures, a gallery, distributions, and every score with its protocol."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from molflow.chem.bonds import EDM_GEOM
from molflow.errors import MolflowError
from molflow.evaluation.metrics import label
from molflow.report.distributions import distributions
from molflow.report.examples import Example
from molflow.report.gallery import gallery, script, style
from molflow.report.page import heading, jump_links, page, paragraph, running, write_page
from molflow.report.scores import Record, figure_of, protocols, scores, screening, statuses_table
from molflow.report.tables import footnotes, percent

KEY_FIGURES = (
    "molecule_stability",
    "atom_stability",
    "connected_validity",
    "uniqueness",
    "novelty",
    "valence_molecule_stability",
)
"""Metrics at the top of the page, as far as they were computed."""


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
        examples: molecules for the gallery, such as those of a `Draw`; with their `source` if there are several sets.
        title: title of the page.

    Raises:
        MolflowError: no record, records with different references, plotly is not installed, or the path cannot be
            written.

    Example:
        >>> scores = molflow.evaluate(molflow.load_pretrained("qm9").sample(3, seed=0), reference=None, workers=0)
        >>> molecules_page({"mine": scores.to_dict()}, "page.html", statuses=molflow.evaluation.STATUSES)
    """
    known = _reference(records)
    names = tuple(records) if len(records) > 1 else ("Samples",)
    columns = (*names, known["name"]) if known else names
    plots = distributions(records, known)
    sections = {
        "Molecules": gallery(examples, _DRAWN),
        "Distributions": plots,
        "Scores": scores(records, known, columns),
        "Statuses": statuses_table(records, statuses),
        "Screening": screening(records, known, columns),
        "Protocols": footnotes(protocols(records)),
    }
    filled = {name: html for name, html in sections.items() if html}
    html = page(
        title,
        *(_verdict(name, record, known, len(records) > 1) for name, record in records.items()),
        *(paragraph(text, notice=True) for text in _notices(records)),
        _key_figures(records, known),
        jump_links(list(filled)),
        *(heading(name) + html for name, html in filled.items()),
        plots=bool(plots),
        style=style(),
        script=script() if examples else "",
    )
    write_page(path, html)


_DRAWN = (
    "Molecules drawn at random; in this order the first ones are a uniform draw of all, and further ones fill up the "
    "rarer statuses. Atoms that the reason names are marked."
)


def _reference(records: Mapping[str, Record]) -> Record:
    """The recorded scores of the reference that all records share; empty if there is none."""
    if not records:
        raise MolflowError("a page of molecules needs at least one record")
    known = {found["name"]: found for record in records.values() if (found := record["reference_scores"])}
    if len(known) > 1:
        raise MolflowError(f"one page compares with one reference, not with {' and '.join(known)}")
    return next(iter(known.values()), {})


def _verdict(name: str, record: Record, known: Record, several: bool) -> str:
    """How many molecules are stable, how far that is from the reference, and what the others are."""
    value, ceiling = record["molecule_stability"], known.get("molecule_stability")
    counted = "1 molecule is" if record["n_molecules"] == 1 else f"{record['n_molecules']:,} molecules are"
    text = f"{percent(value)} of {counted} stable"
    if None not in (value, ceiling):
        gap = 100 * (value - ceiling)
        text += f", {abs(gap):.1f} points {'below' if gap < 0 else 'above'} {known['name']} itself"
    failed = [f"{n:,} {status}" for status, n in record["statuses"].items() if n and status != "stable"]
    details = f"{record['n_atoms']:,} atoms; bonds: {record['protocol']}. "
    details += f"Other statuses: {', '.join(failed)}." if failed else ""
    kind, lead = ("verdict several", f"{escape(name)}: ") if several else ("verdict", "")
    return f'<p class="{kind}">{lead}{running(text)}.<small>{running(details)}</small></p>\n'


def _key_figures(records: Mapping[str, Record], known: Record) -> str:
    """A row of figures, each above that of the reference."""
    return f'<dl class="figures">{"".join(_tile(key, records, known) for key in KEY_FIGURES)}</dl>\n'


def _tile(key: str, records: Mapping[str, Record], known: Record) -> str:
    """A key figure of each set and of the reference; empty if no set has it."""
    found = {name: record["metrics"][key] for name, record in records.items() if key in record["metrics"]}
    lines = [
        f"<dd><b>{running(figure_of(metric, metric['value']))}</b> {escape(name) if len(records) > 1 else ''}</dd>"
        for name, metric in found.items()
    ]
    lines += [
        f"<dd>{escape(known['name'])} {running(figure_of(metric, metric['reference']))}</dd>"
        for metric in list(found.values())[:1]
        if metric["reference"] is not None
    ]
    return f"<div><dt>{escape(label(key))}</dt>{''.join(lines)}</div>" if found else ""


def _notices(records: Mapping[str, Record]) -> list[str]:
    """Sentences on the molecules of each set that cannot be scored."""
    notes = [(name, note) for name, record in records.items() for note in notes_on(record)]
    return [(f"{name}: " if len(records) > 1 else "") + note for name, note in notes]


def notes_on(record: Record) -> list[str]:
    """Sentences on the molecules that the look-up tables cannot score, and on those that are not scored."""
    notes = []
    elements = record["metrics"].get("qm9_elements")
    beyond = elements["of"] - elements["count"] if elements and record["protocol"] == EDM_GEOM.protocol else 0
    unsupported = record["statuses"].get("unsupported", 0)
    poor = f"{beyond:,} with other elements than QM9, whose look-up bonds are poor"
    unknown = f"{unsupported:,} outside the look-up tables, which are failures by them"
    if found := [words for words, count in ((poor, beyond), (unknown, unsupported)) if count]:
        notes.append(
            f"Of {record['n_molecules']:,} molecules, {'; '.join(found)}: read the scores named valence or perceived, "
            "whose bonds cover all elements."
        )
    for reason, count in record["unscored"].items():
        notes.append(f"{count:,} {'molecule is' if count == 1 else 'molecules are'} in no score: {reason}.")
    return notes
