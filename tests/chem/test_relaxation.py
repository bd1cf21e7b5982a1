"""Strain of small molecules against known values, by force fields and by GFN2-xTB."""

import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow.chem import perceive, read_structures, strain
from molflow.chem.relaxation import METHODS, check_method
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
ANGLE = np.radians(104.5)
WATER = np.array([[0, 0, 0], [0.9572, 0, 0], [0.9572 * np.cos(ANGLE), 0.9572 * np.sin(ANGLE), 0]])  # experiment
AMMONIUM = np.vstack([np.zeros(3), 1.025 * TETRAHEDRON])
BOTH = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def installed(request):
    callspec = getattr(request.node, "callspec", None)
    if "gfn2" in request.node.name or (callspec and callspec.params.get("method") == "gfn2-xtb"):
        pytest.importorskip("tblite")


def molecule(smiles, positions=None):
    """A molecule with hydrogens, heavy atoms first, at the minimum of MMFF94 if no positions are given."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    if positions is None:
        AllChem.MMFFOptimizeMolecule(mol, maxIters=5000)
    else:
        mol.GetConformer().SetPositions(np.asarray(positions, dtype=np.float64))
    return mol


def stretched(positions, atom, by):
    """Move an atom away from the first one by a distance in Å."""
    moved = positions.copy()
    moved[atom] *= 1 + by / np.linalg.norm(positions[atom] - positions[0])
    return moved


def morse(force_constant, dissociation, stretch):
    """Morse energy D (1 - exp(-x sqrt(k / 2D)))^2 with k in N/m, D in kcal/mol, x in Å."""
    k = 1.4393 * force_constant  # kcal/mol/Å^2
    return dissociation * (1 - np.exp(-stretch * np.sqrt(k / (2 * dissociation)))) ** 2


def test_measured_water_has_almost_no_strain_by_gfn2():
    found = strain(molecule("O", WATER), "gfn2-xtb")
    assert (found.force_field, found.converged) == ("GFN2-xTB", True)
    assert 0 <= found.energy < 1


@pytest.mark.parametrize(
    ("smiles", "minimum", "force_constant", "dissociation"),
    [("O", WATER, 845, 125), ("[NH4+]", AMMONIUM, 635, 125)],  # of harmonic wavenumbers of O-H and N-H; bond energies
)
@pytest.mark.parametrize("by", [0.1, -0.07])
def test_strain_of_a_stretched_bond_follows_a_morse_curve_by_gfn2(smiles, minimum, force_constant, dissociation, by):
    relaxed, far = (strain(molecule(smiles, stretched(minimum, 1, x)), "gfn2-xtb") for x in (0, by))
    assert 0 <= relaxed.energy < 1
    assert far.energy - relaxed.energy == pytest.approx(morse(force_constant, dissociation, by), rel=0.3)


@pytest.mark.parametrize(("smiles", "low", "high"), [("[CH3+]", 0, 0.01), ("[CH3]", 0, 0.01), ("[CH3-]", 0.3, 0.6)])
def test_methyl_is_flat_unless_it_is_the_anion_by_gfn2(smiles, low, high):
    triangle = 1.09 * np.array([[np.cos(a), np.sin(a), 0] for a in np.radians([0, 120, 240])])
    mol = molecule(smiles, np.vstack([np.zeros(3), triangle + np.array([0, 0, 0.2])]))
    METHODS["gfn2-xtb"].relax(mol)
    carbon, *hydrogens = mol.GetConformer().GetPositions()
    normal = np.cross(hydrogens[1] - hydrogens[0], hydrogens[2] - hydrogens[0])
    assert low <= abs((carbon - hydrogens[0]) @ normal) / np.linalg.norm(normal) <= high


def test_both_atoms_of_hydrogen_move_half_the_distance_by_gfn2():
    found = strain(molecule("[H][H]", [[0, 0, 0], [1.0, 0, 0]]), "gfn2-xtb")
    assert found.energy > 0
    assert 1.0 - 2 * found.rmsd == pytest.approx(0.741, abs=0.05)  # as measured


@BOTH
def test_a_relaxed_structure_has_no_strain(method):
    mol = molecule("OCC=O")
    first = strain(mol, method)
    assert METHODS[method].relax(mol)[0] == pytest.approx(first.energy)  # moves the atoms
    again = strain(mol, method)
    assert again.converged
    assert again.energy == pytest.approx(0, abs=0.01)
    assert again.rmsd == pytest.approx(0, abs=0.02)


@BOTH
def test_rotation_and_translation_change_nothing(method, capfd):
    structures = read_structures(QM9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for positions, numbers, _ in (structures[8], structures[40]):
        mol, turned = (perceive(x, numbers).mol for x in (positions, positions @ turn + [5, -3, 2]))
        before = mol.GetConformer().GetPositions()
        first, second = strain(mol, method), strain(turned, method)
        assert first.converged
        assert second.energy == pytest.approx(first.energy, abs=0.02)
        assert second.rmsd == pytest.approx(first.rmsd, abs=0.02)
        np.testing.assert_array_equal(mol.GetConformer().GetPositions(), before)
    assert capfd.readouterr() == ("", "")


def test_a_molecule_that_gfn2_cannot_compute_is_an_error():
    on_one_spot = molecule("O", stretched(WATER, 1, -0.9572))
    for mol in (molecule("[Fm]", [[0, 0, 0]]), on_one_spot):
        with pytest.raises(MolflowError, match="GFN2-xTB cannot compute this molecule: "):
            strain(mol, "gfn2-xtb")


def test_electrons_that_do_not_become_self_consistent_are_an_error_by_gfn2(monkeypatch):
    from tblite import interface

    class Hasty(interface.Calculator):
        def set(self, attribute, value):
            super().set(attribute, value)
            super().set("max-iter", 1)

    monkeypatch.setattr(interface, "Calculator", Hasty)
    with pytest.raises(MolflowError, match="GFN2-xTB cannot compute this molecule"):
        strain(molecule("O", WATER), "gfn2-xtb")


def test_tblite_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite", None)
    check_method("mmff94")
    for call in (lambda: check_method("gfn2-xtb"), lambda: strain(molecule("O"), "gfn2-xtb")):
        with pytest.raises(MolflowError, match=r"pip install 'molflow\[xtb\]'"):
            call()


def test_an_unknown_method_is_an_error():
    with pytest.raises(MolflowError, match="no method 'am1' for strain; expected one of mmff94, gfn2-xtb"):
        strain(molecule("O"), "am1")
