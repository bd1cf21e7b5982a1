"""The gallery of molecules: one view in three dimensions, and a card for each with its depiction, SMILES and status."""

import json
from collections import Counter
from collections.abc import Sequence
from html import escape

from molflow.plot.view import library
from molflow.report.examples import Example
from molflow.report.page import resource, running

_ACTIONS = {
    "previous": "previous",
    "next": "next",
    "numbers": "numbers",
    "copy": "copy SMILES",
    "save": "SDF",
    "close": "close",
}
_OF_MOLECULES = ("copy", "save")
_STAGE = "{} in three dimensions; arrow keys turn it, + and - zoom"
_NO_WEBGL = "The view in three dimensions needs WebGL, which this browser does not offer."
_SORTS = {"drawn": "as drawn", "record": "by record", "reason": "by reason", "atoms": "by size"}


def gallery(examples: Sequence[Example], caption: str = "", *, noun: str = "molecule") -> str:
    """The HTML section, empty without examples. Its page needs `style` and `script`.

    Args:
        noun: the kind of the examples; those that are no molecules have neither SMILES nor SDF files.
    """
    if not examples:
        return ""
    data = json.dumps([_shape(example) for example in examples], separators=(",", ":")).replace("<", "\\u003c")
    molecules = noun == "molecule"
    offered = {do: label for do, label in _ACTIONS.items() if molecules or do not in _OF_MOLECULES}
    actions = "".join(f'<button type="button" data-do="{do}">{label}</button>' for do, label in offered.items())
    stage = _STAGE.format(noun.capitalize())
    return f"""<figure class="gallery">
<div class="choices">{_choices(examples, molecules)}</div>
<div class="viewer">
<div class="stage" tabindex="0" role="application" aria-label="{stage}" data-missing="{_NO_WEBGL}"></div>
<div class="about" aria-live="polite"></div>
<div class="actions">{actions}</div>
</div>
<ol class="cards">
{"".join(map(_card, examples))}</ol>
<p class="more"><button type="button" data-do="more" hidden></button></p>
<figcaption>{running(caption)}</figcaption>
<script type="application/json">{data}</script>
</figure>
"""


def style() -> str:
    """The CSS of galleries."""
    return resource("gallery.css")


def script() -> str:
    """The JavaScript of galleries: 3Dmol.js, and our own."""
    return f"{library()}\n{resource('gallery.js')}"


def _choices(examples: Sequence[Example], molecules: bool) -> str:
    """Buttons for each status, and for molecules menus of sources, reasons and orders."""
    statuses = Counter(example.status for example in examples)
    buttons = "".join(
        f'<button type="button" data-status="{escape(status)}" aria-pressed="{str(not status).lower()}">'
        f'<span class="{_status_class(status)}">{escape(status or "all")} ({n})</span></button>'
        for status, n in [("", len(examples)), *statuses.most_common()]
    )
    if not molecules:
        return buttons
    menus = [_menu("source", "all sets", [example.source for example in examples])]
    menus.append(_menu("kind", "any reason", [example.kind for example in examples if example.reason]))
    orders = "".join(f'<option value="{order}">{words}</option>' for order, words in _SORTS.items())
    return (
        f'{buttons}{"".join(menus)}<select name="sort" aria-label="Order">{orders}</select>'
        '<button type="button" data-do="save-all">SDF of all shown</button>'
    )


def _menu(kind: str, every: str, values: Sequence[str]) -> str:
    """A menu of the values that occur, the most frequent first; empty if there is nothing to choose."""
    counts = Counter(values)
    if len(counts) < 2:
        return ""
    options = "".join(f'<option value="{escape(v)}">{escape(v)} ({n})</option>' for v, n in counts.most_common())
    return f'<select name="{kind}" aria-label="Molecules by {kind}"><option value="">{every}</option>{options}</select>'


def _shape(example: Example) -> dict[str, object]:
    centre = [sum(axis) / max(1, len(example.positions)) for axis in zip(*example.positions, strict=True)]
    positions = [[round(x - c, 3) for x, c in zip(row, centre, strict=True)] for row in example.positions]
    return {
        "name": example.name,
        "status": example.status,
        "source": example.source,
        "kind": example.kind,
        "smiles": example.smiles or "",
        "elements": list(example.elements),
        "positions": positions,
        "bonds": [list(bond) for bond in example.bonds],
        "charges": list(example.charges),
        "marked": list(example.marked),
    }


def _card(example: Example) -> str:
    lines = [
        (f"name {_status_class(example.status)}", f"{example.name}: {example.status}"),
        ("source", example.source),
        ("reason", example.reason),
        ("smiles", example.smiles or ""),
    ]
    texts = "".join(f'<span class="{kind}">{escape(text)}</span>' for kind, text in lines if text)
    return f'<li><button type="button" class="card" aria-pressed="false">{example.depiction}{texts}</button></li>\n'


def _status_class(status: str) -> str:
    return f"status {escape(status.replace(' ', '-'))}" if status else ""
