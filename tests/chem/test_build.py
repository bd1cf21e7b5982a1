"""RDKit molecules from look-up bonds: accepted and refused chemistry, and no added hydrogens."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molflow.chem import bond_orders, bonded_mol, canonical_smiles, is_connected, read_structures, to_rdkit
from molflow.chem.build import bond_list
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
TETRAHEDRON = 1.09 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
METHANE = np.vstack([np.zeros((1, 3)), TETRAHEDRON])
HCN = np.array([[-1.06, 0, 0], [0, 0, 0], [1.15, 0, 0]])


@pytest.mark.parametrize(
    ("positions", "numbers", "smiles"),
    [
        (METHANE, [6, 1, 1, 1, 1], "C"),
        (HCN, [1, 6, 7], "C#N"),
        (METHANE[:4], [6, 1, 1, 1], "[CH3]"),  # a radical stays one
        (np.vstack([METHANE, METHANE + 20]), [6, 1, 1, 1, 1] * 2, "C.C"),
    ],
)
def test_builds_the_molecule_as_it_stands(positions, numbers, smiles):
    mol = to_rdkit(positions, np.array(numbers))
    assert canonical_smiles(mol) == smiles
    assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == numbers
    assert sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()) == 0  # all hydrogens are atoms
    assert is_connected(mol) == ("." not in smiles)
    assert mol.GetConformer().Is3D()
    np.testing.assert_allclose(mol.GetConformer().GetPositions(), positions)


def test_refused_chemistry_gives_none_and_can_still_be_written(capfd):
    crowded = np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]])
    numbers = np.array([1, 1, 1])
    assert to_rdkit(crowded, numbers) is None
    assert bonded_mol(crowded, numbers).GetNumBonds() == 2
    assert to_rdkit(np.zeros((29, 3)), np.full(29, 6)) is None  # a complete graph must not hang ring perception
    assert to_rdkit(np.zeros((0, 3)), np.zeros(0, int)) is None
    assert capfd.readouterr().err == ""


def test_rdkit_still_logs_for_its_other_users(capfd):
    to_rdkit(HCN, np.array([1, 6, 7]))
    Chem.MolFromSmiles("C(")
    assert "SMILES Parse Error" in capfd.readouterr().err


def test_given_bonds_are_used():
    bonds = np.array([[0, 1, 1], [1, 2, 1]])
    assert canonical_smiles(to_rdkit(HCN, np.array([1, 6, 7]), bonds)) == "[CH][N]"


def test_orders_of_a_batch_give_the_same_molecules():
    with np.load(QM9) as archive:
        orders = bond_orders(archive["positions"], archive["atomic_numbers"], archive["mask"]).numpy()
    built = 0
    for (x, z, _), order in zip(read_structures(QM9), orders, strict=True):
        alone, given = to_rdkit(x, z), to_rdkit(x, z, bond_list(order[: len(z), : len(z)]))
        assert (alone is None) == (given is None)
        if alone is not None:
            assert canonical_smiles(alone) == canonical_smiles(given)
            built += 1
    assert built > 180


def test_smiles_depend_on_neither_stereo_nor_atom_order():
    x = np.array([[0, 0, 0], [1.35, 0, 0], [-0.5, 1.7, 0], [-0.5, -0.9, 1.5], [-0.36, -0.51, -0.89]])
    z, bonds = np.array([6, 9, 17, 35, 1]), np.array([[0, k, 1] for k in range(1, 5)])
    turn = [3, 0, 4, 2, 1]
    turned = np.array([[1, turn.index(k), 1] for k in range(1, 5)])
    names = {
        canonical_smiles(to_rdkit(x, z, bonds)),
        canonical_smiles(to_rdkit(-x, z, bonds)),
        canonical_smiles(to_rdkit(x[turn], z[turn], turned)),
        canonical_smiles(Chem.MolFromSmiles("F[C@H](Cl)Br")),
    }
    assert names == {"FC(Cl)Br"}


def test_smiles_of_built_molecules_are_those_of_parsed_ones():
    mols = [mol for x, z, _ in read_structures(QM9) if (mol := to_rdkit(x, z)) is not None]
    smiles = [canonical_smiles(mol) for mol in mols]
    assert [canonical_smiles(Chem.MolFromSmiles(s)) for s in smiles] == smiles


def test_an_element_outside_the_tables_gets_perceived_bonds():
    sulphide = np.array([[0, 0, 0], [1.34, 0, 0], [-0.05, 1.34, 0]])
    assert canonical_smiles(to_rdkit(sulphide, np.array([16, 1, 1]))) == "S"
    assert to_rdkit(sulphide[:2], np.array([16, 1])) is None  # perception finds no neutral molecule
    with pytest.raises(MolflowError, match="element S"):
        bonded_mol(sulphide, np.array([16, 1, 1]))


def test_importing_chem_and_scoring_stability_loads_no_rdkit():
    code = (
        "import sys, numpy as np, molflow.chem, molflow.evaluation as e;"
        "e.evaluate([molflow.chem.Structure(np.zeros((1, 3)), np.array([6]))], scope='stability');"
        "sys.exit('rdkit' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
