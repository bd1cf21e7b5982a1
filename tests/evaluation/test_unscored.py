"""Drawings, other units and missing hydrogens are recognised record by record, counted apart, and can be mended."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow.chem import Structure, StructureWriter, read_structures
from molflow.chem.plausibility import geometry_problem, missing_hydrogens
from molflow.evaluation import evaluate

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
SMILES = ["CC(C)CCO", "c1ccncc1", "CCCC(=O)[O-]", "CCCCC[NH3+]", "CCS(C)(=O)=O"]


def mols(hydrogens=True, flat=False):
    found = []
    for smiles in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mol = mol if hydrogens else Chem.RemoveHs(mol)
        if flat:
            AllChem.Compute2DCoords(mol)
        found.append(mol)
    return found


def write(path, molecules):
    with Chem.SDWriter(str(path)) as writer:
        for mol in molecules:
            writer.write(mol)
    return path


def test_real_molecules_are_scored():
    structures = read_structures(QM9)
    assert [s for s in structures if geometry_problem(*s[:2]) or missing_hydrogens(s, None)] == []
    assert evaluate(structures, scope="lookup").n_unscored == 0


def test_molecules_that_fell_apart_are_scored():
    random = np.random.default_rng(0)
    structures = [Structure(s.positions * random.uniform(0.05, 4), s.atomic_numbers) for s in read_structures(QM9)]
    blown_up = [Structure(s.positions + random.normal(0, 1, s.positions.shape), s.atomic_numbers) for s in structures]
    assert evaluate(blown_up, scope="lookup").n_unscored <= 2


@pytest.mark.parametrize(("unit", "size"), [("nm", 10.0), ("bohr", 0.529177210903)])
def test_another_unit_is_recognised_and_mended(unit, size):
    structures = read_structures(QM9)[:100]
    scaled = [Structure(s.positions.astype(float) / size, s.atomic_numbers) for s in structures]
    assert evaluate(scaled, scope="lookup").n_unscored > 80  # not those of few atoms, or with three-membered rings
    mended = evaluate(scaled, scope="lookup", unit=unit)
    assert mended.n_unscored == 0
    assert mended.molecule_stability == evaluate(structures, scope="lookup").molecule_stability


def test_missing_hydrogens_are_recognised_and_added(tmp_path):
    bare = write(tmp_path / "bare.sdf", mols(hydrogens=False))
    found = evaluate(bare, workers=0)
    assert (found.n_molecules, found.n_unscored, found.molecule_stability) == (0, 5, None)
    assert found.unscored == {"hydrogens are missing, and there are none; --add-hydrogens adds them": 5}
    whole = evaluate(bare, workers=0, add_hydrogens=True, bonds="file")
    reference = evaluate(write(tmp_path / "whole.sdf", mols()), workers=0, bonds="file")
    assert whole.statuses == {"stable": 5}
    assert whole.metrics["valence_molecule_stability"].value == 1  # the hydrogens are where bonds are perceived
    assert whole.molecule_stability == reference.molecule_stability == 1


def test_drawings_are_recognised(tmp_path, molflow):
    flat = write(tmp_path / "flat.sdf", mols(hydrogens=False, flat=True))
    code, text, err = molflow("evaluate", flat, "--workers", 1, "--scope", "lookup", "--json", tmp_path / "a.json")
    assert code == 0, err
    assert "5 molecules are in no score: the coordinates are two-dimensional." in text
    assert evaluate(flat, workers=0).to_dict()["statuses"] == {"unscored": 5}


def test_planar_molecules_are_no_drawings(tmp_path):
    benzene = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1"))
    AllChem.EmbedMolecule(benzene, randomSeed=1)
    positions = benzene.GetConformer().GetPositions()
    centred = positions - positions.mean(0)
    axes = np.linalg.svd(centred)[2]
    planar = centred @ axes.T
    planar[:, 2] = 0
    numbers = np.array([atom.GetAtomicNum() for atom in benzene.GetAtoms()])
    assert geometry_problem(planar, numbers) == ""
    with StructureWriter(tmp_path / "a.xyz") as writer:
        writer.write(Structure(planar, numbers))
    assert evaluate(tmp_path / "a.xyz", scope="lookup").n_unscored == 0


def test_the_scope_stability_recognises_them_too(tmp_path):
    path = write(tmp_path / "a.sdf", mols(hydrogens=False) + mols())
    scores = evaluate(path, scope="stability")
    assert (scores.n_molecules, scores.n_unscored) == (len(SMILES), len(SMILES))
