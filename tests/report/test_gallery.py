"""The gallery: the draw, its text, and in a browser the view, the choices and the files that it offers."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import Tags, needs_chromium, open_in_browser
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow.chem import Structure, read_structures, to_rdkit
from molflow.chem.depict import Drawn, depict
from molflow.evaluation import evaluate, inspect_all
from molflow.report import Draw, example
from molflow.report.gallery import gallery, script, style
from molflow.report.page import page

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
METHANE = np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]) * 1.09 / 3**0.5
CROWDED = Structure(np.vstack([METHANE, [[0.0, 0.0, 1.09]]]), np.array([6] + [1] * 5))


@pytest.fixture(scope="module")
def inspected():
    """Real molecules and one with too many bonds, with their reports."""
    structures = [*read_structures(QM9)[50:53], CROWDED]
    return list(zip(structures, inspect_all(structures, scope="lookup", workers=0), strict=True))


@pytest.fixture(scope="module")
def examples(inspected):
    return [example(f"record <{k}>", *pair) for k, pair in enumerate(inspected, start=1)]


def test_the_section_is_whole_and_escaped(examples):
    html = gallery(examples, "caption & more")
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", re.sub("<(script|svg).*?</(script|svg)>", "", html, flags=re.S)))
    for shown in (
        "record &lt;4&gt;: invalid",
        "atom 1 (C) has valence 5",
        "all (4)",
        "stable (3)",
        "caption &amp; more",
    ):
        assert shown in text
    assert html.count("<svg") == 4
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


def test_the_atoms_of_a_reason_are_marked(examples):
    assert [shown.marked for shown in examples] == [[], [], [], [0]]
    assert examples[3].kind == "RDKit refuses the look-up bonds: C has valence 5, expected 4"
    two = Structure(np.vstack([METHANE, [[9.0, 0, 0]]]), np.array([6, 1, 1, 1, 1, 8]))
    (report,) = inspect_all([two], scope="lookup", workers=0)
    assert example("two fragments", two, report).marked == [5]
    svg = depict(*two, marked=[5])
    assert svg.count("<ellipse") == depict(*two).count("<ellipse") + 1


def test_a_depiction_shows_what_rdkit_accepts_and_what_it_refuses():
    for positions, accepted in ((METHANE, True), (CROWDED.positions, False)):
        numbers = np.array([6] + [1] * (len(positions) - 1))
        assert (to_rdkit(positions, numbers) is not None) == accepted
        svg = depict(positions, numbers)
        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert ("bond-0" in svg) == (not accepted)  # the hydrogens of methane are left out
        assert svg.count("<text") == (1 if accepted else 6)  # a number for each atom that is drawn


def test_a_depiction_shows_charges():
    ammonium = np.array([7, 1, 1, 1, 1])
    bonds = np.array([[0, k, 1] for k in range(1, 5)])
    neutral, charged = (depict(METHANE, ammonium, Drawn(bonds, np.array([charge, 0, 0, 0, 0]))) for charge in (0, 1))
    assert "bond-0" in neutral
    assert "bond-0" not in charged  # RDKit accepts the cation, so its hydrogens are left out


@pytest.mark.parametrize(
    ("smiles", "charged"), [("c1cc[se]c1", 0), ("O=[N+]([O-])c1ccc[se]1", 2), ("CB(O)C1=CCC=C1", 0)]
)
def test_elements_outside_the_tables_are_drawn_by_perceived_bonds_and_charges(smiles, charged):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    AllChem.UFFOptimizeMolecule(mol)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    structure = Structure(mol.GetConformer().GetPositions(), numbers)
    (report,) = inspect_all([structure], workers=0)
    shown = example("selenium", structure, report)
    assert (report.status, shown.smiles) == ("unsupported", Chem.CanonSmiles(smiles))
    assert sum(charge != 0 for charge in shown.charges) == charged
    assert sorted(order for _, _, order in shown.bonds).count(2) == 2 + charged // 2


def test_the_draw_is_the_same_each_time_and_uniform(inspected):
    """The first molecules are a uniform draw: over many records each part of the file has its share."""
    stable, invalid = inspected[0], inspected[3]

    def drawn():
        draw = Draw()
        for k in range(4000):
            draw.add("file", str(k), *(invalid if k % 100 == 0 else stable))
        return draw._kept, draw

    kept, draw = drawn()
    assert {key: len(heap) for key, heap in kept.items()} == {("file", "invalid"): 40, ("file", "stable"): 48}
    records = [int(item[0]) for item in draw.items()]
    assert records == [int(item[0]) for item in drawn()[1].items()]
    counts = Counter(record // 1000 for record in records[:48])
    assert min(counts[part] for part in range(4)) > 4
    assert sum(record % 100 == 0 for record in records[:48]) < 5
    assert sum(record % 100 == 0 for record in records) == 40


ACT = """
const done = (key, value) => { document.body.dataset[key] = String(value); };
const find = (selector) => document.querySelector(selector);
const stage = find(".stage");
const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", {key}));
const pixels = () => stage.querySelector("canvas").toDataURL();
const frame = () => new Promise((r) => setTimeout(r, 100));
const names = () => [...document.querySelectorAll(".cards li:not([hidden]) .name")];
const seen = () => names().map((span) => span.textContent[8]).join("");
let saved = null;
URL.createObjectURL = (blob) => { saved = blob; return "data:,"; };
HTMLAnchorElement.prototype.click = () => {};
(async () => {
  find(".card").click();
  await frame();
  done("molecule", stage.dataset.molecule);
  const before = pixels();
  press("ArrowLeft");
  await frame();
  const turned = pixels();
  done("turned", turned !== before);
  press("+");
  await frame();
  done("nearer", pixels() !== turned);
  find("[data-status=invalid]").click();
  done("chosen", seen());
  done("about", find(".about .reason").textContent);
  find("[data-do=numbers]").click();
  done("numbers", getComputedStyle(find("svg .numbers")).display);
  find("[data-status='']").click();
  const sort = find("[name=sort]");
  sort.value = "atoms";
  sort.dispatchEvent(new Event("change"));
  done("sorted", seen());
  find("[data-do=save-all]").click();
  done("sdf", await saved.text());
  done("wide", document.documentElement.scrollWidth > innerWidth);
})();
"""


@needs_chromium
def test_a_browser_shows_sorts_filters_and_saves_molecules(examples, tmp_path):
    path = tmp_path / "page.html"
    html = page("Molecules", gallery(examples), plots=False, style=style(), script=script() + ACT)
    path.write_text(html, encoding="utf-8")
    dom, console = open_in_browser(path, tmp_path)
    assert console == []
    attributes = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search("<body[^>]*>", dom, re.S).group()))
    saved = attributes.pop("sdf")
    by_size = sorted(range(4), key=lambda k: len(examples[k].elements))
    assert attributes == {
        "molecule": "0", "turned": "true", "nearer": "true", "chosen": "4", "about": examples[3].reason,
        "numbers": "block", "sorted": "".join(str(k + 1) for k in by_size), "wide": "false",
    }  # fmt: skip
    (tmp_path / "saved.sdf").write_text(saved.replace("&lt;", "<").replace("&gt;", ">"), encoding="utf-8")
    found = {mol.GetProp("_Name"): mol for mol in Chem.SDMolSupplier(str(tmp_path / "saved.sdf"), False, False)}
    assert len(found) == 4
    assert saved.count(" " * 11 + "3D\n") == 4  # columns 21 and 22 of the second line
    for shown in examples:
        assert found[shown.name].GetNumAtoms() == len(shown.elements)
        assert found[shown.name].GetNumBonds() == len(shown.bonds)


def test_the_licence_of_the_viewer_is_on_the_page():
    assert "University of Pittsburgh" in script()
    assert "Redistributions in binary form" in script()


def test_the_bonds_behind_the_figures_are_drawn():
    mol = Chem.AddHs(Chem.MolFromSmiles("[O-][n+]1ccccc1"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    structure = Structure(mol.GetConformer().GetPositions(), numbers)
    for bonds in ("file", "perceived"):
        reports = []
        evaluate([mol], bonds=bonds, workers=0, each=lambda report, _, into=reports: into.append(report))
        shown = example("a", structure, reports[0])
        assert shown.smiles == "[O-][n+]1ccccc1"
        assert sorted(shown.charges)[0 :: len(numbers) - 1] == [-1, 1]
        assert sorted(order for _, _, order in shown.bonds).count(2) == 3
