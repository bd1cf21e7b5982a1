"""Molecules with one error fail the check for it, and real molecules pass."""

import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom, rdMolTransforms

from molflow.chem import perceive, posebusters, read_structures
from molflow.chem.posebusters import ATTEMPTS, MOST_ATOMS, checks, failed_checks, passes_energy
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
GEOMETRY = {"bond_lengths", "bond_angles", "internal_steric_clash", "aromatic_ring_flatness", "double_bond_flatness"}


@pytest.fixture
def installed():
    pytest.importorskip("posebusters")


def molecule(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(mol)
    return mol


def stretched_ethane():
    mol = molecule("CC")
    rdMolTransforms.SetBondLength(mol.GetConformer(), 0, 1, 2.1)
    return mol


def bent_propane():
    mol = molecule("CCC")
    rdMolTransforms.SetAngleDeg(mol.GetConformer(), 0, 1, 2, 65)
    return mol


def puckered_benzene():
    """Benzene bent to a chair: bonds grow to 1.52 Å, and the carbons are 0.3 Å from the plane."""
    mol = molecule("c1ccccc1")
    positions = mol.GetConformer().GetPositions()
    normal = np.linalg.svd(positions - positions.mean(0))[2][2]
    mol.GetConformer().SetPositions(positions + 0.3 * np.outer([1, -1] * 6, normal))
    return mol


def curled_hexane():
    """Bring the ends about as close as bonded carbons, by setting every dihedral to 0 degrees."""
    mol = molecule("CCCCCC")
    for first in range(3):
        rdMolTransforms.SetDihedralDeg(mol.GetConformer(), *range(first, first + 4), 0)
    return mol


def twisted_butene():
    mol = molecule("CC(C)=C(C)C")
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 0, 1, 3, 4, 90)
    return mol


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("make", "fails"),
    [
        (stretched_ethane, "bond_lengths"),
        (bent_propane, "bond_angles"),
        (curled_hexane, "internal_steric_clash"),
        (puckered_benzene, "aromatic_ring_flatness"),
        (twisted_butene, "double_bond_flatness"),
    ],
)
def test_one_error_fails_the_check_for_it(make, fails):
    assert failed_checks(make()) == (fails,)


@pytest.mark.usefixtures("installed")
def test_a_strained_molecule_fails_by_its_energy_and_results_repeat():
    assert [passes_energy(stretched_ethane()) for _ in range(2)] == [False, False]
    assert checks(molecule("C")).keys() >= GEOMETRY
    assert "internal_energy" not in checks(molecule("C"))


@pytest.mark.usefixtures("installed")
def test_the_checks_are_those_of_posebusters_itself():
    """On real molecules and on the same with noise, some of which fail."""
    from posebusters import PoseBusters

    rng = np.random.default_rng(0)
    real = [mol for structure in read_structures(QM9)[::20] if (mol := perceive(*structure[:2]).mol)]
    noisy = [Chem.Mol(mol) for mol in real]
    for mol in noisy:
        positions = mol.GetConformer().GetPositions()
        mol.GetConformer().SetPositions(positions + 0.2 * rng.normal(size=positions.shape))
    charged = [molecule(smiles) for smiles in ("CC(=O)[O-]", "NC(=[NH2+])N", "C[N+](=O)[O-]", "[H][H]", "[He]")]
    molecules = real + noisy + charged
    with posebusters._silence():
        table = PoseBusters(config="mol_fast").bust(molecules)
    for mol, expected in zip(molecules, table.to_dict("records"), strict=True):
        assert checks(mol) == expected
    assert 0 < table["bond_lengths"].sum() < len(molecules)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("smiles", ["[H][H]", "O", "C", "C#N", "[C-]#[O+]", "[NH4+]", "C[N+](C)(C)CC(=O)[O-]", "OCC=O"])
def test_small_molecules_pass(smiles):
    assert failed_checks(molecule(smiles)) == ()


@pytest.mark.usefixtures("installed")
def test_the_energy_is_compared_with_the_mean_of_conformers():
    assert passes_energy(molecule("OCC=O")) is True
    assert passes_energy(molecule("C")) is False  # UFF's least energy of it is 0


@pytest.mark.usefixtures("installed")
def test_a_check_that_cannot_be_made_is_neither_passed_nor_failed(monkeypatch):
    """UFF has no parameters for helium without bonds; PoseBusters is not asked for conformers of molecules that are
    large or that RDKit does not embed within its attempts, which would take it half a minute for the cage."""
    (check,) = posebusters._configured()["energy"]
    embed, compared, attempts = rdDistGeom.EmbedMolecule, [], []

    def watched_check(mol, **parameters):
        compared.append(mol.GetNumAtoms())
        return check.function(mol, **parameters)

    def watched_embed(mol, settings):
        attempts.append(settings.maxIterations)
        return embed(mol, settings)

    monkeypatch.setitem(posebusters._configured(), "energy", [check._replace(function=watched_check)])
    monkeypatch.setattr(rdDistGeom, "EmbedMolecule", watched_embed)
    assert passes_energy(molecule("[He]")) is None
    assert passes_energy(molecule("OCC=O")) is True
    assert (compared, attempts) == ([1, 8], 2 * [ATTEMPTS])
    assert passes_energy(molecule("C" * (MOST_ATOMS // 3 + 1))) is None
    assert attempts == 2 * [ATTEMPTS]
    cage = perceive(*read_structures(QM9)[1][:2]).mol  # three- and four-membered rings
    assert cage is not None
    assert passes_energy(cage) is None
    assert (compared, attempts) == ([1, 8], 3 * [ATTEMPTS])


@pytest.mark.usefixtures("installed")
def test_real_molecules_pass(capfd):
    found = [perceive(*structure[:2]).mol for structure in read_structures(QM9)[::5]]
    failures = [failed_checks(mol) for mol in found if mol is not None]
    assert sum(map(bool, failures)) <= 0.05 * len(failures)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("installed")
def test_nothing_else_is_changed():
    mol, status = molecule("CCO"), rdBase.LogStatus()
    before = mol.ToBinary(Chem.PropertyPickleOptions.AllProps)
    failed_checks(mol)
    assert mol.ToBinary(Chem.PropertyPickleOptions.AllProps) == before
    assert rdBase.LogStatus() == status


def test_posebusters_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "posebusters", None)
    posebusters._configured.cache_clear()
    for call in (posebusters.check_installed, lambda: failed_checks(molecule("C"))):
        with pytest.raises(MolflowError, match=r"pip install 'molflow\[posebusters\]'"):
            call()
