"""Scores of sets that are small enough to count by hand, and None for scores that cannot be computed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from molflow.chem import Structure, iter_records, read_structures
from molflow.chem.bonds import PROTOCOL
from molflow.errors import MolflowError
from molflow.evaluation import TrainingReference, chunks, evaluate, wilson_interval

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
WATER = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
HCN = Structure(np.array([[-1.06, 0, 0], [0, 0, 0], [1.15, 0, 0]]), np.array([1, 6, 7]))
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))
TWO_WATERS = Structure(np.vstack([WATER.positions, WATER.positions + 9]), np.array([8, 1, 1] * 2))
OXYGEN = Structure(np.zeros((1, 3)), np.array([8]))
NOTHING = Structure(np.zeros((0, 3)), np.zeros(0, dtype=int))

TRAINED_ON_HCN = TrainingReference.from_structures([HCN], name="hydrogen cyanide")

OF_RDKIT = {
    "validity", "validity_interval", "connected_validity", "connected_validity_interval", "uniqueness", "n_distinct",
    "validity_x_uniqueness", "validity_x_uniqueness_interval",
}  # fmt: skip
OF_TRAINING = {
    "training", "novelty", "novelty_interval", "n_novel", "novel_compositions", "novel_compositions_interval",
    "nearest_training_similarity", "nearest_training_similarity_median",
}  # fmt: skip
FIXED_KEYS = {
    "n_molecules", "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness", "novelty",
    "protocol", "reference_scores",
}  # fmt: skip


def test_a_set_counted_by_hand():
    scores = evaluate([WATER, WATER, HCN, CROWDED, TWO_WATERS, OXYGEN, NOTHING], training=TRAINED_ON_HCN)
    assert (scores.n_molecules, scores.n_atoms) == (7, 19)
    assert scores.atom_stability == 17 / 19  # not the middle hydrogen of three, not the lone oxygen
    assert scores.molecule_stability == 4 / 7
    assert scores.validity == 5 / 7  # not the crowded one, not the one without atoms
    assert scores.connected_validity == 4 / 7
    assert (scores.n_distinct, scores.uniqueness) == (3, 3 / 4)  # O twice, C#N, [O]
    assert scores.validity_x_uniqueness == 3 / 7
    assert scores.validity_x_uniqueness_interval == wilson_interval(3, 7)
    assert (scores.n_novel, scores.novelty) == (2, 2 / 3)
    assert scores.novel_compositions == 6 / 7
    assert scores.protocol == PROTOCOL
    assert scores.training == "hydrogen cyanide"
    assert scores.reference_scores is None


def test_novelty_counted_by_hand(qm9):
    """Real molecules: methanol and hydrogen cyanide are known, ethanol and formaldehyde are new."""
    real = dict(zip(qm9.smiles[:16].tolist(), qm9.subset(range(16)).structures(), strict=True))
    known = TrainingReference.from_structures([real["CO"], real["C#N"], real["COC"]], name="three")
    assert known.smiles == {"CO", "C#N", "COC"}
    molecules = [real[smiles] for smiles in ("CO", "CO", "C#N", "CCO", "CCO", "C=O")] + [TWO_WATERS, CROWDED]
    scores = evaluate(molecules, training=known)
    assert (scores.validity, scores.connected_validity) == (7 / 8, 6 / 8)
    assert (scores.uniqueness, scores.validity_x_uniqueness) == (4 / 6, 4 / 8)
    assert (scores.n_distinct, scores.n_novel, scores.novelty) == (4, 2, 2 / 4)
    assert scores.novelty_interval == wilson_interval(2, 4)
    assert scores.novel_compositions == 3 / 8  # CH2O, H4O2, H3; ethanol has the formula of dimethyl ether
    assert scores.novel_compositions_interval == wilson_interval(3, 8)
    # Bits of ethanol 6, of methanol 3, 2 of them shared; formaldehyde has CH2=, =O and their bond, none of them known.
    nearest = [2 / 7, 0]
    assert scores.nearest_training_similarity == pytest.approx(np.mean(nearest))
    assert scores.nearest_training_similarity_median == pytest.approx(np.median(nearest))


def test_no_novel_molecule():
    scores = evaluate([HCN, HCN], training=TRAINED_ON_HCN)
    assert (scores.novelty, scores.n_novel, scores.novel_compositions) == (0, 0, 0)
    assert scores.nearest_training_similarity is None
    assert scores.nearest_training_similarity_median is None


def test_a_molecule_known_only_by_the_data_sets_smiles_is_not_new():
    assert evaluate([WATER], training=TrainingReference.from_structures([HCN], ["[H]O[H]"], name="x")).novelty == 0


def test_scores_that_are_not_computed_are_none():
    scores = evaluate([WATER], scope="stability").to_dict()
    missing = OF_RDKIT | OF_TRAINING | {"reference_scores"}
    assert missing == {key for key, value in scores.items() if value is None}
    assert scores["molecule_stability"] == 1
    stability_alone = evaluate([WATER, HCN], scope="stability", training=TRAINED_ON_HCN)
    assert (stability_alone.novel_compositions, stability_alone.novelty) == (1 / 2, None)

    without_training = evaluate([WATER]).to_dict()
    assert {key for key, value in without_training.items() if value is None} == OF_TRAINING | {"reference_scores"}

    nothing_valid = evaluate([CROWDED], training=TRAINED_ON_HCN)
    assert (nothing_valid.validity, nothing_valid.connected_validity, nothing_valid.validity_x_uniqueness) == (0, 0, 0)
    assert nothing_valid.uniqueness is None
    assert (nothing_valid.novelty, nothing_valid.n_novel, nothing_valid.novel_compositions) == (None, 0, 1)
    assert evaluate([NOTHING]).atom_stability is None


def test_the_dictionary_has_the_fixed_keys_and_is_json():
    scores = evaluate([WATER, CROWDED], reference="qm9").to_dict()
    assert scores.keys() >= FIXED_KEYS | {"n_atoms", "atom_stability_interval", "molecule_stability_interval"}
    assert json.loads(json.dumps(scores))["molecule_stability"] == 0.5


def test_the_recorded_qm9_scores_are_the_ceiling_under_this_protocol():
    recorded = evaluate([WATER], reference="qm9").reference_scores
    assert recorded["name"] == "qm9"
    assert recorded["n_molecules"] == 130831
    assert recorded["protocol"] == PROTOCOL
    assert round(100 * recorded["molecule_stability"], 2) == 95.28
    assert round(100 * recorded["atom_stability"], 2) == 99.36
    # 200 molecules of the same set must agree with it
    sample = evaluate(read_structures(QM9))
    for key in ("molecule_stability", "validity", "connected_validity"):
        low, high = getattr(sample, f"{key}_interval")
        assert low <= recorded[key] <= high


def test_metrics_carry_their_counts_and_protocols():
    scores = evaluate((s for s in [WATER, HCN, CROWDED, TWO_WATERS]), training=TRAINED_ON_HCN)
    metric = scores.metrics["molecule_stability"]
    assert (metric.value, metric.count, metric.of, metric.what) == (0.75, 3, 4, "molecules")
    assert (metric.protocol, metric.interval) == (PROTOCOL, scores.molecule_stability_interval)
    counted = {name: (m.count, m.of) for name, m in scores.metrics.items()}
    assert counted["valence_molecule_stability"] == (3, 4)
    assert counted["perceived_connected_validity"] == (2, 4)
    assert counted["edm_validity"] == (3, 4)
    assert counted["edm_validity_x_uniqueness"] == (2, 4)  # O, C#N and the larger, or first, of two waters: O
    assert counted["edm_validity_x_uniqueness_x_novelty"] == (1, 4)
    assert counted["validity_x_uniqueness_x_novelty"] == (1, 4)
    assert scores.statuses == {"disconnected": 1, "invalid": 1, "stable": 2}
    assert scores.distributions["bond H-O"]["count"] == 6
    assert all(m.protocol and m.reference is None for m in scores.metrics.values())


def test_distances_to_real_molecules():
    scores = evaluate(read_structures(QM9), reference="qm9")
    assert scores.metrics["w1_bond_lengths"].unit == "Å"
    assert 0 < scores.metrics["w1_bond_lengths"].value < 0.02
    assert 0 < scores.metrics["w1_angles"].value < 5
    assert scores.metrics["molecule_stability"].reference == scores.reference_scores["molecule_stability"]
    assert scores.distributions["QED"]["w1"] < 0.05
    assert json.loads(json.dumps(scores.to_dict()))["metrics"]["w1_angles"]["unit"] == "°"


def test_scores_as_tables(monkeypatch):
    scores = evaluate([WATER, CROWDED], reference="qm9")
    page = scores._repr_html_()
    assert "<td>50.00 %</td>" in page
    assert "95.28 %" in page
    pandas = pytest.importorskip("pandas")
    frame = scores.to_frame()
    assert frame.loc["molecule_stability", "value"] == 0.5
    assert tuple(frame.loc["molecule_stability", ["low", "high"]]) == scores.molecule_stability_interval
    assert isinstance(frame, pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MolflowError, match="needs pandas"):
        scores.to_frame()


def test_order_and_chunks_change_no_score(monkeypatch):
    structures = read_structures(QM9)
    known = TrainingReference.from_structures(structures[:50], name="some")
    whole = evaluate(structures, training=known)
    assert 0 < whole.novelty < 1
    monkeypatch.setattr(chunks, "_PAIRS_AT_ONCE", 1)
    assert evaluate(structures[::-1], training=known) == whole


def test_bad_input_is_named():
    with pytest.raises(MolflowError, match="no molecules to evaluate"):
        evaluate([])
    with pytest.raises(MolflowError, match="unknown reference 'qm7'; known are qm9"):
        evaluate([WATER], reference="qm7")
    with pytest.raises(MolflowError, match="unknown scope 'some'; expected one of stability lookup all"):
        evaluate([WATER], scope="some")
    with pytest.raises(MolflowError, match="molecule 2: expected a Structure, an RDKit Mol, or PyG Data"):
        evaluate([WATER, None])
    with pytest.raises(MolflowError, match=r"molecule 2, expected positions \(n, 3\) and atomic_numbers \(n,\)"):
        evaluate([WATER, Structure(WATER.positions, HCN.atomic_numbers[:2])])
    for options in ({"strain": "mmff94"}, {"posebusters": True}):
        with pytest.raises(MolflowError, match="strain and posebusters need the scope 'all', not 'lookup'"):
            evaluate([WATER], scope="lookup", **options)
    with pytest.raises(MolflowError, match="each needs more than the scope 'stability'"):
        evaluate([WATER], scope="stability", each=print)


HYDROGEN_SELENIDE = Structure(np.array([[0, 0, 0], [1.46, 0, 0], [-0.05, 1.46, 0]]), np.array([34, 1, 1]))


@pytest.mark.parametrize("scope", ["stability", "lookup", "all"])
def test_an_element_outside_the_tables_is_a_molecule_that_is_not_stable(scope):
    scores = evaluate([WATER, HYDROGEN_SELENIDE, NOTHING, WATER], scope=scope)
    assert (scores.n_molecules, scores.n_atoms) == (4, 9)
    assert (scores.atom_stability, scores.molecule_stability) == (6 / 9, 2 / 4)
    if scope != "stability":
        assert scores.statuses == {"invalid": 1, "stable": 2, "unsupported": 1}
        assert scores.validity == 2 / 4


def test_an_element_outside_the_tables_is_perceived():
    reports = []
    scores = evaluate([HYDROGEN_SELENIDE], strain="mmff94", each=lambda report, _: reports.append(report))
    (report,) = reports
    assert (report.perceived_smiles, report.perceived_stable, report.smiles, report.clashes) == (
        "[SeH2]",
        True,
        None,
        None,
    )
    assert report.descriptors.molecular_weight == pytest.approx(80.98, abs=0.01)
    assert scores.metrics["valence_molecule_stability"].value == 1
    without = scores.metrics["without_clashes"]
    assert (without.value, without.of, without.what) == (None, 0, "molecules with look-up bonds")


@pytest.mark.parametrize("scope", ["stability", "lookup", "all"])
def test_bonds_that_are_known_are_not_looked_up_again(monkeypatch, scope):
    from molflow.batch import MoleculeBatch
    from molflow.chem import lookup

    structures = [*read_structures(QM9)[:30], CROWDED, OXYGEN]
    expected = evaluate(MoleculeBatch.from_structures(structures), scope=scope)
    calls, count = [], lookup._orders_between
    monkeypatch.setattr(lookup, "_orders_between", lambda *tables: calls.append(1) or count(*tables))
    batch = MoleculeBatch.from_structures(structures)
    assert batch.stability()[1].sum() == expected.metrics["molecule_stability"].count
    assert evaluate(batch, scope=scope) == expected
    assert len(calls) == 1


def test_each_scope_has_the_scores_of_the_one_before():
    structures = [*read_structures(QM9)[:40], CROWDED, HYDROGEN_SELENIDE]
    known = TrainingReference.from_structures(structures[:20], name="some")
    few, more, most = (evaluate(structures, scope=scope, training=known) for scope in ("stability", "lookup", "all"))
    assert few.metrics.items() < more.metrics.items() < most.metrics.items()
    assert more.statuses == most.statuses
    for key, value in more.to_dict().items():
        if key not in ("metrics", "distributions"):
            assert json.dumps(most.to_dict()[key]) == json.dumps(value)


def test_unreadable_records_are_counted(tmp_path):
    path, seen = tmp_path / "mine.xyz", []
    path.write_text("1\n\nO 0 0 0\n1\n\nXx 0 0 0\n2\n\nH 0 0 0\nH 0 0 0.74\n")
    scores = evaluate(path, each=lambda *pair: seen.append(pair))
    assert (scores.n_molecules, scores.n_unreadable, scores.n_atoms) == (2, 1, 3)
    assert scores.statuses == {"stable": 1, "unreadable": 1, "unstable": 1}
    assert [(r.source, r.record, r.status, s is None) for r, s in seen] == [
        (str(path), 1, "unstable", False),
        (str(path), 2, "unreadable", True),
        (str(path), 3, "stable", False),
    ]
    assert seen[1][0].reason == "line 6: unknown element 'Xx'; accepted are the symbols H to Og (atom 1 of 1)"
    assert evaluate(iter_records(path)) == scores
    assert evaluate(str(path), scope="stability").n_unreadable == 1


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (3, 10), (870, 10000)])
def test_wilson_interval_equals_scipy(successes, total):
    stats = pytest.importorskip("scipy.stats")
    z = stats.norm.ppf(0.975)
    expected = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(successes, total, z), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes, total, low, high):
    """R. G. Newcombe, Stat. Med. 17 (1998) 857, table I, method 3."""
    assert wilson_interval(successes, total) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_interval_of_nothing_is_none():
    assert wilson_interval(0, 0) is None
