"""The gallery of molecules: one view in three dimensions, and a card for each with its depiction, SMILES and status."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

STYLE = """
.viewer { display: grid; gap: 0 1rem; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); align-items: center;
  position: sticky; top: 0; background: var(--paper); z-index: 1; border-bottom: 1px solid var(--line) }
.stage { height: 22rem; max-height: 45vh; touch-action: none }
.stage:focus-visible { outline: 2px solid #2b83d6; outline-offset: -2px }
.buttons { display: flex; flex-wrap: wrap; gap: .4rem; padding: .4rem 0 }
.viewer .buttons { grid-column: 1 / -1 }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: .4rem;
  padding: .3rem .7rem; min-width: 2.6rem; min-height: 2.6rem; cursor: pointer }
button[aria-pressed=true] { border-color: #2b83d6; box-shadow: inset 0 0 0 1px #2b83d6 }
.cards { list-style: none; margin: .5rem 0; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)) }
.card { width: 100%; height: 100%; text-align: left; vertical-align: top; padding: .5rem }
.card span, .about span { display: block; overflow-wrap: anywhere }
:is(.card, .about) :is(.source, .smiles, .reason) { color: var(--soft); font-size: .85rem; line-height: 1.35 }
.cards:not(:has(li:not([hidden])))::after { content: "none" }
.card svg, .about svg { display: block; width: 100%; height: auto; background: #fff; border-radius: .3rem }
.about svg { max-height: 13rem }
@media (max-width: 34rem) {
  .viewer { grid-template-columns: minmax(0, 1fr); position: static }
  .about svg { display: none }
  .cards { grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)) }
}
"""

_TURNS = {
    "left": ("←", "turn left"),
    "right": ("→", "turn right"),
    "up": ("↑", "turn up"),
    "down": ("↓", "turn down"),
    "near": ("+", "closer"),
    "far": ("−", "farther"),
}


@dataclass(frozen=True)
class Example:
    """A molecule of the gallery.

    Attributes:
        name: the origin of the molecule, such as "record 17".
        status: one word; readers can filter by it.
        reason: why the molecule failed, in words; empty if it did not.
        smiles: SMILES, or None.
        depiction: a drawing in two dimensions, SVG.
        elements: symbols of the n atoms.
        positions: positions of the n atoms, Å.
        bonds: pairs of atoms, counted from 0, with their orders 1 to 3.
        source: the set of molecules that it is from; readers can filter by it. Empty if there is one set.
    """

    name: str
    status: str
    reason: str
    smiles: str | None
    depiction: str
    elements: Sequence[str]
    positions: Sequence[Sequence[float]]
    bonds: Sequence[tuple[int, int, int]]
    source: str = ""


def gallery(examples: Sequence[Example]) -> str:
    """The HTML section, empty without examples. Its page needs `STYLE` and `script`."""
    if not examples:
        return ""
    sources = [example.source for example in examples]
    filters = _filters("status", "all", [example.status for example in examples])
    if len(set(sources)) > 1:
        filters = _filters("source", "all sets", sources) + filters
    turns = "".join(
        f'<button type="button" data-turn="{way}" aria-label="{label}">{sign}</button>'
        for way, (sign, label) in _TURNS.items()
    )
    data = json.dumps([_shape(example) for example in examples], separators=(",", ":")).replace("<", "\\u003c")
    return f"""<section class="gallery">
<div class="viewer">
<div class="stage" tabindex="0" role="application" aria-label="Molecule in three dimensions; arrow keys turn it"></div>
<div class="about" aria-live="polite"></div>
<div class="buttons">{turns}
<button type="button" data-step="-1">previous</button><button type="button" data-step="1">next</button></div>
</div>
{filters}<ol class="cards">
{"".join(map(_card, examples))}</ol>
<script type="application/json">{data}</script>
</section>
"""


def script() -> str:
    """The JavaScript of galleries, which runs after plotly.js."""
    return resources.files("molflow.report").joinpath("gallery.js").read_text(encoding="utf-8")


def _filters(kind: str, every: str, values: Sequence[str]) -> str:
    """Buttons that show the molecules with one of these values, and one that shows all."""
    choices = [("", every, len(values)), *((value, value, n) for value, n in Counter(values).items())]
    buttons = "".join(
        f'<button type="button" data-{kind}="{escape(value)}" aria-pressed="{str(not value).lower()}">'
        f"{escape(text)} ({n})</button>"
        for value, text, n in choices
    )
    return f'<div class="buttons" role="group" aria-label="Molecules by {kind}">{buttons}</div>\n'


def _shape(example: Example) -> dict[str, object]:
    centre = [sum(axis) / max(1, len(example.positions)) for axis in zip(*example.positions, strict=True)]
    positions = [[round(x - c, 3) for x, c in zip(row, centre, strict=True)] for row in example.positions]
    return {
        "status": example.status,
        "source": example.source,
        "elements": list(example.elements),
        "positions": positions,
        "bonds": [list(bond) for bond in example.bonds],
    }


def _card(example: Example) -> str:
    lines = [
        ("source", example.source),
        ("name", f"{example.name}: {example.status}"),
        ("reason", example.reason),
        ("smiles", example.smiles or ""),
    ]
    texts = "".join(f'<span class="{kind}">{escape(text)}</span>' for kind, text in lines if text)
    return f'<li><button type="button" class="card" aria-pressed="false">{example.depiction}{texts}</button></li>\n'
