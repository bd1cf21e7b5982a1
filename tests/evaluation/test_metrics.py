"""Laws that every registered metric obeys, and metrics of other packages, which one file adds everywhere."""

import json
import re
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from molflow.chem import Structure, read_structures
from molflow.errors import MolflowError
from molflow.evaluation import (
    METRICS,
    STATUSES,
    EvaluationOptions,
    Figure,
    MoleculeMetric,
    MoleculeScores,
    Ratio,
    Score,
    SetMetric,
    Tally,
    TrainingReference,
    evaluate,
    inspect_all,
)
from molflow.evaluation.metrics import grouped, label
from molflow.evaluation.options import SCOPES
from molflow.report import molecules_page

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
STRUCTURES = read_structures(QM9)[:40]
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))
SULPHIDE = Structure(np.array([[0, 0, 0], [1.34, 0, 0], [-0.05, 1.34, 0]]), np.array([16, 1, 1]))

# What the JSON of version 0.1 has. Keys may be added, never renamed or dropped.
KEYS = {
    "n_molecules", "n_unreadable", "n_unscored", "n_atoms", "atom_stability", "molecule_stability", "validity",
    "connected_validity",
    "uniqueness", "validity_x_uniqueness", "novelty", "n_distinct", "n_novel", "nearest_training_similarity",
    "nearest_training_similarity_median", "novel_compositions", "protocol", "training", "reference_scores",
    "atom_stability_interval", "molecule_stability_interval", "validity_interval", "connected_validity_interval",
    "validity_x_uniqueness_interval", "novelty_interval", "novel_compositions_interval", "metrics", "distributions",
    "statuses", "unscored",
}  # fmt: skip
METRIC_KEYS = {
    "atom_stability", "molecule_stability", "validity", "connected_validity", "valence_atom_stability",
    "valence_molecule_stability", "perceived_validity", "perceived_connected_validity", "rdkit_default_validity",
    "edm_validity", "edm_validity_x_uniqueness", "largest_fragment_validity", "uniqueness", "validity_x_uniqueness",
    "without_clashes", "fragments", "novel_compositions", "novelty", "validity_x_uniqueness_x_novelty",
    "edm_validity_x_uniqueness_x_novelty", "w1_bond_lengths", "w1_angles", "w1_dihedrals", "w1_distances",
    "w1_atom_counts", "w1_compositions",
}  # fmt: skip


@pytest.fixture(scope="module")
def options():
    training = TrainingReference.from_structures(STRUCTURES[:20], name="the first twenty")
    return EvaluationOptions(training=training, reference="qm9", workers=0)


@pytest.fixture(scope="module")
def reports(options):
    return list(inspect_all([*STRUCTURES, CROWDED, SULPHIDE, STRUCTURES[0]], options=options))


def test_the_json_has_the_keys_of_the_first_version(options):
    for scope in SCOPES:
        record = evaluate(STRUCTURES, options=options, scope=scope).to_dict()
        assert set(record) == KEYS
        assert set(next(iter(record["metrics"].values()))) == {
            "value", "count", "of", "what", "protocol", "unit", "interval", "reference",
        }  # fmt: skip
    assert set(record["metrics"]) >= METRIC_KEYS
    assert set(METRICS) >= METRIC_KEYS | {"posebusters"}


def test_names_of_metrics_load_no_library():
    script = (
        "import sys; from molflow.evaluation.metrics import METRICS; assert 'validity' in METRICS.names();"
        "print(sorted({'numpy', 'torch', 'rdkit', 'scipy', 'molflow.evaluation.metrics.base'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_metric_is_named_with_the_nearest_one():
    with pytest.raises(MolflowError, match=r"unknown metric 'validty'; did you mean validity\?"):
        METRICS["validty"]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_its_count_denominator_and_protocol(name, options):
    metric = METRICS[name]
    assert metric.kind == name
    assert metric.scope in SCOPES
    assert metric.__doc__
    assert metric(options).protocol
    assert metric.denominator
    assert metric.group in grouped(METRICS)
    assert label(name)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_does_not_depend_on_order_or_on_how_a_set_is_split(name, options, reports):
    metric = METRICS[name](options)
    if isinstance(metric, MoleculeMetric):
        assert all(0 <= int(metric.counts(report)) <= int(metric.of(report)) for report in reports)
        return
    parts = [reports[:15], reports[15:16], [], reports[16:]]
    values = []
    for order in [(0, 1, 2, 3), *list(permutations(range(4)))[5::7]]:
        total = metric.empty()
        for part in order:
            state = metric.empty()
            for report in reversed(parts[part]):
                state = metric.add(state, report)
            total = metric.merge(total, state)
        values.append(metric.value(total))
    whole = metric.empty()
    for report in reports:
        whole = metric.add(whole, report)
    assert set(values) == {metric.value(whole)}
    assert metric.value(metric.empty()).value in (None, 0)


def test_equal_reports_count_as_often_as_they_are_given(options, reports):
    one_by_one, at_once = Tally(options), Tally(options)
    for report in reports:
        for _ in range(3):
            one_by_one.add(report)
        at_once.add(report, 3)
    assert one_by_one.scores() == at_once.scores()


def test_scores_keep_each_value_once(options):
    scores = evaluate(STRUCTURES, options=options)
    stability = scores.metrics["molecule_stability"]
    assert scores.molecule_stability == stability.value == scores.to_dict()["molecule_stability"]
    assert scores.molecule_stability_interval == stability.interval
    assert scores.n_distinct == scores.metrics["uniqueness"].count
    assert scores.n_novel == scores.metrics["novelty"].count
    assert scores.posebusters is None  # known, and not computed
    for name in ("molecule_stabilty", "n_molecule", "interval", "_interval", "__wrapped__"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'"):
            getattr(scores, name)
    changed = MoleculeScores(
        n_molecules=2, n_atoms=6, protocol="", reference_scores=None,
        metrics={"validity": Score(0.5, 1, 2, "molecules", "by hand")},
    )  # fmt: skip
    assert (changed.validity, changed.novelty, changed.to_dict()["validity"]) == (0.5, None, 0.5)
    assert repr(changed) == "MoleculeScores(n_molecules=2)"


def test_a_score_says_by_which_bonds_and_against_which_training_molecules(options):
    metrics = evaluate(STRUCTURES, options=options).metrics
    assert "EDM look-up bonds (arXiv 2203.17003)" in metrics["validity"].protocol
    assert metrics["novelty"].protocol == "canonical SMILES not in the first twenty"
    assert not any("{" in score.protocol for score in metrics.values())


def test_options_are_checked_when_they_are_made(monkeypatch):
    for wrong, message in (
        ({"scope": "some"}, "unknown scope 'some'; expected one of stability lookup all"),
        ({"reference": "qm7"}, "unknown reference 'qm7'; known are qm9"),
        ({"strain": "mmff95"}, "no method 'mmff95' for strain"),
        ({"strain": "mmff94", "scope": "lookup"}, "strain and posebusters need the scope 'all'"),
    ):
        with pytest.raises(MolflowError, match=message):
            EvaluationOptions(**wrong)
    monkeypatch.setitem(sys.modules, "posebusters", None)
    with pytest.raises(MolflowError, match="posebusters"):
        EvaluationOptions(posebusters=True)
    with pytest.raises(TypeError, match="refrence"):
        evaluate(STRUCTURES, refrence="qm9")


# ---- metrics of another package --------------------------------------------------------------------------------------


@pytest.fixture
def own_metrics():
    """A metric of each kind, defined and registered as another package would."""

    @METRICS.register("own_small_molecules")
    class SmallMolecules(MoleculeMetric):
        group, scope, protocol = "Validity", "stability", "at most 15 atoms"

        def counts(self, report):
            return report.n_atoms <= 15

    @METRICS.register("own_oxygen_atoms")
    class LargestMolecule(SetMetric[int]):
        group, protocol, label, unit = "Own figures", "atoms of the largest molecule", "largest molecule", "atoms"

        def empty(self):
            return 0

        def add(self, state, report):
            return max(state, report.n_atoms)

        def merge(self, a, b):
            return max(a, b)

        def value(self, state):
            return Figure(state, 1)

    yield
    for name in ("own_small_molecules", "own_oxygen_atoms"):
        del METRICS._objects[name]


def test_a_registered_metric_is_in_the_scores(own_metrics):
    sizes = [len(structure.atomic_numbers) for structure in STRUCTURES]
    small = sum(size <= 15 for size in sizes)
    assert 0 < small < len(sizes)
    for scope in SCOPES:
        scores = evaluate(STRUCTURES, scope=scope, workers=0)
        found = scores.to_dict()["metrics"]["own_small_molecules"]
        assert (found["count"], found["of"], found["protocol"]) == (small, 40, "at most 15 atoms")
        assert scores.own_small_molecules == small / 40
        assert scores.own_oxygen_atoms == (None if scope == "stability" else max(sizes))
    assert json.loads(json.dumps(scores.to_dict()))["metrics"]["own_oxygen_atoms"]["value"] == max(sizes)
    assert "at most 15 atoms" in scores._repr_html_()


def test_a_registered_metric_is_in_the_tables_and_on_the_page(own_metrics, molflow, tmp_path):
    pytest.importorskip("plotly")
    code, text, _ = molflow("evaluate", QM9, "--scope", "lookup", "--report", tmp_path / "a.html")
    assert code == 0
    validity, own = text.index("Validity"), text.index("Own figures")
    assert validity < text.index("own small molecules") < text.index("Distinct and new") < own
    assert re.search(r"largest molecule +\d\d atoms", text[own:])
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "own small molecules<sup>" in page
    assert ">at most 15 atoms<" in page
    assert "largest molecule<sup>" in page


def test_an_unregistered_metric_comes_last(tmp_path):
    pytest.importorskip("plotly")
    record = evaluate(STRUCTURES, scope="stability").to_dict()
    record["metrics"] = {"unheard_of": record["metrics"]["atom_stability"], **record["metrics"]}
    molecules_page({"a": record}, tmp_path / "a.html", statuses=STATUSES)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.index("molecule stability<sup>") < page.index(">Further<") < page.index("unheard of<sup>")
    assert grouped(["unheard_of", "validity"]) == {"Validity": ["validity"], "Further": ["unheard_of"]}


def test_ratios():
    assert (Ratio(1, 4).value, Ratio(0, 0).value) == (0.25, None)
