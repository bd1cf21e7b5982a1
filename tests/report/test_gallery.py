"""The gallery: its text, and in a browser the rotation of molecules by buttons and keys."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Tags, needs_chromium, open_in_browser

from molflow.chem import read_structures, symbol, to_rdkit
from molflow.chem.bonds import orders_of_one
from molflow.chem.build import bond_list
from molflow.chem.depict import depict
from molflow.report.gallery import STYLE, Example, gallery, script
from molflow.report.page import page

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"


def example_of(structure, name, status="stable", reason="", smiles=None):
    positions, numbers, _ = structure
    bonds = bond_list(orders_of_one(positions, numbers))
    elements = [symbol(z) for z in numbers.tolist()]
    drawing = depict(positions, numbers, bonds)
    return Example(name, status, reason, smiles, drawing, elements, positions.tolist(), bonds.tolist())


@pytest.fixture(scope="module")
def examples():
    first, second, third = read_structures(QM9)[50:53]
    return [
        example_of(first, "record 1", smiles="CC#N"),
        example_of(second, "record <2>", "unstable", "atom 7 (N) has valence 4 & more"),
        example_of(third, "record 3"),
    ]


def test_the_section_is_whole_and_escaped(examples):
    html = gallery(examples)
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", re.sub("<(script|svg).*?</(script|svg)>", "", html, flags=re.S)))
    for shown in ("record &lt;2&gt;: unstable", "atom 7 (N) has valence 4 &amp; more", "CC#N", "all (3)", "stable (2)"):
        assert shown in text
    assert html.count("<svg") == 3
    assert len([a for t, a in parser.tags if t == "button" and "aria-label" in a]) == 6
    assert gallery([]) == ""


def test_no_text_ends_the_script_that_holds_the_shapes(examples):
    evil = "</script><script>alert(1)</script><!--"
    texts = {"name": evil, "reason": evil, "smiles": evil, "status": evil, "source": evil}
    html = gallery([replace(examples[0], **texts), examples[1]])
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    assert [a for t, a in parser.tags if t == "script"] == [{"type": "application/json"}]
    inside = html.split('<script type="application/json">')[1].split("</script>")[0]
    assert "<" not in inside
    shapes = json.loads(inside)
    assert (shapes[0]["status"], shapes[0]["source"]) == (evil, evil)
    assert len(shapes) == 2


def test_a_depiction_shows_what_rdkit_accepts_and_what_it_refuses():
    methane = np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]) * 1.09 / 3**0.5
    crowded = np.vstack([methane, [[0.0, 0.0, 1.09]]])
    for positions, accepted in ((methane, True), (crowded, False)):
        numbers = np.array([6] + [1] * (len(positions) - 1))
        assert (to_rdkit(positions, numbers) is not None) == accepted
        svg = depict(positions, numbers)
        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert ("bond-0" in svg) == (not accepted)  # the hydrogens of methane are left out


ACT = """
const done = (key, value) => { document.body.dataset[key] = String(value); };
const stage = document.querySelector(".stage");
const eye = () => ({...stage._fullLayout.scene.camera.eye});
const wait = async (test) => { while (!test()) await new Promise((r) => setTimeout(r, 20)); };
(async () => {
  await wait(() => stage.dataset.molecule === "0");
  const before = eye();
  stage.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  await wait(() => stage.dataset.turned === "left");
  done("turned", Math.hypot(before.x - eye().x, before.y - eye().y) > 0.2 && Math.abs(before.z - eye().z) < 1e-6);
  document.querySelector("[data-turn=near]").click();
  await wait(() => stage.dataset.turned === "near");
  done("nearer", Math.hypot(...Object.values(eye())) < 0.9 * Math.hypot(...Object.values(before)));
  document.querySelectorAll(".card")[1].click();
  await wait(() => stage.dataset.molecule === "1");
  done("about", document.querySelector(".about .reason").textContent);
  document.querySelector("[data-status=stable]").click();
  await wait(() => stage.dataset.molecule === "0");
  done("hidden", [...document.querySelectorAll(".cards li")].map((li) => li.hidden).join());
  document.querySelector("[data-step='1']").click();
  await wait(() => stage.dataset.molecule === "2");
  done("drawn", stage.querySelectorAll("canvas").length > 0 && stage.data[0].x.length > 500);
  done("wide", document.documentElement.scrollWidth > innerWidth);
})();
"""


@needs_chromium
def test_molecules_rotate_in_a_browser(examples, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page("Molecules", gallery(examples), style=STYLE, script=script() + ACT), encoding="utf-8")
    dom, console = open_in_browser(path, tmp_path)
    assert console == []
    attributes = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search("<body[^>]*>", dom).group()))
    assert attributes == {
        "turned": "true", "nearer": "true", "about": "atom 7 (N) has valence 4 &amp; more",
        "hidden": "false,true,false", "drawn": "true", "wide": "false",
    }  # fmt: skip
