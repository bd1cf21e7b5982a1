"""Novelty against training molecules: fingerprints and formulas by hand, and the cache of QM9's training split."""

import os
from dataclasses import asdict, replace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from molflow.chem import Structure
from molflow.chem.build import canonical_smiles
from molflow.data import qm9_split
from molflow.errors import MolflowError
from molflow.evaluation import TrainingReference, evaluate, novelty, qm9_training_reference

WATER = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
HCN = Structure(np.array([[-1.06, 0, 0], [0, 0, 0], [1.15, 0, 0]]), np.array([1, 6, 7]))
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))


@pytest.fixture
def small(qm9, monkeypatch, tmp_path):
    """A QM9 of 50 training molecules in an empty folder; gives the folder, and a list that grows with each build."""
    builds = []
    (tmp_path / "qm9.npz").touch()
    monkeypatch.setattr(novelty, "prepare_qm9", lambda cache_dir, progress: cache_dir / "qm9.npz")
    monkeypatch.setattr(novelty, "load_qm9", lambda split, cache_dir: builds.append(split) or qm9.subset(range(50)))
    return tmp_path, builds


def same(a, b):
    a, b = (asdict(x) | {"fingerprints": x.fingerprints.tolist()} for x in (a, b))
    return a == b


# contents of a reference


def test_a_reference_counted_by_hand():
    reference = TrainingReference.from_structures([WATER, WATER, HCN, CROWDED], ["OCC", "[H]O[H]"], name="mine")
    assert (reference.name, reference.n_molecules, reference.n_refused) == ("mine", 4, 1)
    assert reference.smiles == {"O", "C#N", "CCO"}  # the crowded hydrogens are refused
    assert reference.formulas == {"H2O", "CHN", "H3"}
    assert reference.fingerprints.shape == (3, 256)


def test_a_training_molecule_outside_the_tables_is_known_by_its_smiles_and_formula():
    selenide = Structure(np.array([[0, 0, 0], [1.46, 0, 0], [-0.05, 1.46, 0]]), np.array([34, 1, 1]))
    reference = TrainingReference.from_structures([WATER, selenide], ["[SeH2]"], name="mine")
    assert (reference.n_molecules, reference.n_refused) == (2, 1)
    assert (reference.smiles, reference.formulas) == ({"O", "[SeH2]"}, {"H2O", "H2Se"})


def test_a_reference_needs_a_molecule():
    with pytest.raises(MolflowError, match="expected at least one training molecule"):
        TrainingReference.from_structures([CROWDED], name="mine")
    with pytest.raises(MolflowError, match=r"training SMILES 'C\(C': RDKit cannot read it"):
        TrainingReference.from_structures([WATER], ["C(C"], name="mine")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([8, 1, 1], "H2O"), ([1, 7, 6], "CHN"), ([6] * 2 + [1] * 6 + [8], "C2H6O"), ([9, 1], "HF"), ([8], "O"), ([], "")],
)
def test_formula(numbers, text):
    assert novelty.formula(np.array(numbers, dtype=np.uint8)) == text


def test_fingerprints_are_rdkits(qm9):
    smiles = [canonical_smiles(Chem.MolFromSmiles(text)) for text in qm9.smiles[::2000].tolist()]
    smiles += ["C[CH]C([O])=N", "c1nc2c([nH]1)[N][N]N2", "[H][H]", "C.[O]"]  # radicals and fragments, as samples have
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    expected = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles]
    np.testing.assert_array_equal(np.unpackbits(novelty.fingerprints(smiles), axis=1), expected)


# similarity


def test_similarity_of_ethanol_to_methanol_by_hand():
    """Methanol: CH3, OH, both bonded. Ethanol: CH3, CH2, OH and the surroundings of each. They share CH3 and OH."""
    reference = TrainingReference.from_structures([], ["CO"], name="methanol")
    assert reference.nearest_similarity(["CO", "CCO"]).tolist() == [1, 2 / (3 + 6 - 2)]
    assert reference.nearest_similarity([]).shape == (0,)


def test_similarity_equals_rdkits(qm9, monkeypatch):
    smiles = [canonical_smiles(Chem.MolFromSmiles(text)) for text in qm9.smiles[::500].tolist()]
    known, queries = smiles[::2], smiles[1::2]
    reference = TrainingReference.from_structures([], known, name="some")
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    prints = {text: generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in smiles}
    table = [prints[text] for text in known]
    expected = [max(DataStructs.BulkTanimotoSimilarity(prints[text], table)) for text in queries]
    np.testing.assert_allclose(reference.nearest_similarity(queries), expected, atol=1e-12)
    monkeypatch.setattr(novelty, "_TRAINING_AT_ONCE", 7)
    np.testing.assert_allclose(reference.nearest_similarity(queries), expected, atol=1e-12)


# the cache of QM9's training split


def test_the_training_reference_is_built_once_and_loads_equal(small):
    folder, builds = small
    built = qm9_training_reference(folder)
    assert builds == ["train"]
    assert sorted(os.listdir(folder)) == ["qm9.npz", "qm9_training.npz"]
    assert (built.name, built.n_molecules) == ("the training split of qm9", 50)
    assert same(qm9_training_reference(folder), built)
    assert builds == ["train"]


@pytest.mark.parametrize("change", [("molflow.evaluation.novelty._FORMAT", 0), ("rdkit.__version__", "1999.1")])
def test_another_version_is_built_again(small, monkeypatch, change):
    folder, builds = small
    built = qm9_training_reference(folder)
    monkeypatch.setattr(*change)
    assert same(qm9_training_reference(folder), built)
    assert same(qm9_training_reference(folder), built)
    assert builds == ["train"] * 2


def test_the_training_reference_is_built_again_after_qm9(small):
    folder, builds = small
    qm9_training_reference(folder)
    later = (folder / "qm9_training.npz").stat().st_mtime + 5
    os.utime(folder / "qm9.npz", (later, later))
    qm9_training_reference(folder)
    assert builds == ["train"] * 2


def test_a_damaged_cache_is_named(small):
    folder, _ = small
    path = folder / "qm9_training.npz"
    built = qm9_training_reference(folder)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MolflowError, match=r"qm9_training\.npz: damaged: .*delete it, and it is made anew"):
        qm9_training_reference(folder)
    novelty._save(replace(built, fingerprints=built.fingerprints[1:]), path)
    with pytest.raises(MolflowError, match=r"damaged: fingerprints are uint8 \(\d+, 256\)"):
        qm9_training_reference(folder)
    np.savez(path, version=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(MolflowError, match="damaged: Object arrays cannot be loaded"):
        qm9_training_reference(folder)


def test_an_unwritable_place_is_found_before_the_work(small):
    folder, builds = small
    (folder / "qm9_training.npz").mkdir()
    os.utime(folder / "qm9_training.npz", (0, 0))
    with pytest.raises(MolflowError, match="is a directory"):
        qm9_training_reference(folder)
    assert builds == []


def test_the_real_training_split(qm9):
    """Hardly a molecule stands twice in QM9, so test molecules are new, but of known composition."""
    reference, split = qm9_training_reference(), qm9_split()
    assert (reference.n_molecules, reference.n_refused) == (100_000, 2_333)
    assert (len(reference.smiles), len(reference.formulas)) == (102_277, 590)
    train, test = (list(qm9.subset(split[name][:200]).structures()) for name in ("train", "test"))
    assert evaluate(train, training=reference).novelty == 0
    scores = evaluate(test, training=reference)
    assert (scores.novelty, scores.novel_compositions) == (1, 0)
    assert 0.55 < scores.nearest_training_similarity < 0.7
