"""What people see of an object: one line in a terminal, a small table in a notebook."""

from pathlib import Path

import pytest
import torch

import molflow
from molflow.chem import read_structures

QM9 = list(read_structures(Path(__file__).parent / "fixtures" / "qm9_200.npz"))


@pytest.fixture(scope="module")
def shown():
    batch = molflow.MoleculeBatch.from_structures(QM9[:20])
    x, log_q = molflow.load_pretrained("dw4").sample_and_log_prob(20, seed=0)
    system = molflow.energies.get_system("dw4")
    return {
        "batch": batch,
        "united atoms": batch.united_atom(),
        "no molecules": batch[:0],
        "flow": molflow.load_pretrained("dw4"),
        "flow of vectors": molflow.FreeFormFlow(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), features=2),
        "scores": molflow.evaluate(batch, scope="lookup", reference="qm9", workers=0),
        "boltzmann scores": molflow.evaluation.evaluate_boltzmann(x, system.energy, log_prob=log_q, system=system),
        "card": molflow.pretrained.model_cards()["lj13"],
        "set": molflow.data.MoleculeSet(QM9[0].positions, QM9[0].atomic_numbers, [len(QM9[0].atomic_numbers)]),
        "view": batch.view(),
    }


NAMES = [
    "batch", "united atoms", "no molecules", "flow", "flow of vectors", "scores", "boltzmann scores", "card", "set",
    "view",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_one_line_and_a_small_table(shown, name):
    thing = shown[name]
    assert len(repr(thing)) < 250
    assert "\n" not in repr(thing)
    assert repr(thing).startswith(f"{type(thing).__name__}(")
    html = getattr(thing, "_repr_html_", lambda: None)()
    assert html is None or (html.startswith("<table>") and html.count("<tr>") < 40)


def test_what_they_say(shown):
    assert repr(shown["batch"]) == "MoleculeBatch(20 molecules, 12 to 22 atoms, H C N O)"
    assert "united atoms" in repr(shown["united atoms"])
    assert repr(shown["flow"]) == "FreeFormFlow(4 particles in 2D, 293,262 parameters, 1 evaluation per sample)"
    assert "<td style='text-align:left'>CH4</td>" not in shown["no molecules"]._repr_html_()
    assert shown["united atoms"]._formula(0) == shown["batch"]._formula(0)


def test_summaries(shown):
    lines = shown["scores"].summary().splitlines()
    assert lines[0].startswith("molecule stability")
    assert " of 20 molecules; qm9: 95.28 %" in lines[0]
    assert "exact: 29.66" in shown["boltzmann scores"].summary()
    assert len({line.index("%") for line in lines}) == 1


def test_scores_are_plotted(shown):
    axes = shown["scores"].plot()
    values = {word.get_text(): bar.get_width() for word, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)}
    assert values["molecule stability"] == pytest.approx(100 * shown["scores"].molecule_stability)
