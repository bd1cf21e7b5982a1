"""The choice of bonds: looked up, perceived, or given by the file, with charges."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow.chem import Structure, iter_records, read_structures
from molflow.errors import MolflowError
from molflow.evaluation import evaluate, inspect_all
from molflow.evaluation.protocols import PROTOCOLS
from molflow.evaluation.reference import recorded_scores

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"

CHEMISTRIES = [
    "CS(C)=O",
    "CS(C)(=O)=O",
    "C[P+](C)(C)C",
    "COP(C)(=O)OC",
    "C[N+](=O)[O-]",
    "CC(=O)[O-]",
    "C[NH3+]",
    "[NH3+]CC(=O)[O-]",
    "CCN=[N+]=[N-]",
    "CBr",
    "CCl",
    "C[Si](C)(C)C",
    "C[Se]C",
    "c1ccncc1",
    "c1ccc[nH]1",
    "CCNC(N)=[NH2+]",
    "F[B-](F)(F)F",
    "FS(F)(F)(F)(F)F",
    "[O-][n+]1ccccc1",
]


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def sdf(path, mols):
    with Chem.SDWriter(str(path)) as writer:
        for mol in mols:
            writer.write(mol)
    return path


def changed(mol, order):
    mol = Chem.RWMol(mol)
    bond = mol.GetBondWithIdx(0)
    bond.SetBondType(order)
    return mol


def test_given_bonds_and_charges_of_many_chemistries(tmp_path):
    mols = list(map(embedded, CHEMISTRIES))
    path = sdf(tmp_path / "a.sdf", mols)
    for source in (path, mols):
        reports = []
        scores = evaluate(source, bonds="file", workers=0, each=lambda report, _, into=reports: into.append(report))
        assert [report.smiles for report in reports] == [Chem.MolToSmiles(Chem.MolFromSmiles(s)) for s in CHEMISTRIES]
        assert [report.reason for report in reports] == [""] * len(mols)
        assert (scores.molecule_stability, scores.validity, scores.uniqueness) == (1, 1, 1)
        assert "of the file" in scores.protocol
        assert scores.lookup_molecule_stability < 0.5


def test_wrong_bonds_of_a_file(tmp_path):
    ethane = changed(embedded("CC"), Chem.BondType.DOUBLE)
    path = sdf(tmp_path / "a.sdf", [ethane])
    (given,) = inspect_all(iter_records(path), bonds="file", workers=0)
    assert (given.status, given.stable, given.agree) == ("invalid", False, False)
    assert given.reason == "atom 1 (C) with charge +0 has valence 5, expected 4"
    assert (given.lookup_stable, given.perceived_stable) == (True, True)
    assert [report.status for report in inspect_all(iter_records(path), workers=0)] == ["stable"]


def test_aromatic_bonds_of_water_are_refused(tmp_path):
    block = Chem.MolToMolBlock(embedded("O"))
    (tmp_path / "a.sdf").write_text(re.sub(r"(?m)^  1  ([23])  1", r"  1  \1  4", block))
    scores = evaluate(tmp_path / "a.sdf", bonds="file", workers=1)
    assert (scores.molecule_stability, scores.validity) == (0, 0)


def test_records_without_bonds(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    scores = evaluate(path, bonds="file", workers=0)
    assert (scores.n_molecules, scores.n_unscored, scores.statuses) == (0, 1, {"unscored": 1})
    assert (scores.molecule_stability, scores.validity) == (None, None)
    assert evaluate(path, bonds="auto", workers=0).molecule_stability == 1


def test_a_charge_is_stated_or_asked_for():
    (structure,) = read_mols(["C[NH3+]"])
    (neutral,) = inspect_all([structure], workers=0)
    (charged,) = inspect_all([structure], workers=0, charge=1)
    assert (neutral.perceived_stable, charged.perceived_stable) == (False, True)
    assert charged.perceived_smiles == "C[NH3+]"


def read_mols(smiles):
    for mol in map(embedded, smiles):
        numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        yield Structure(mol.GetConformer().GetPositions(), numbers)


def test_options_are_checked():
    with pytest.raises(MolflowError, match="unknown bonds 'drawn'; expected one of lookup perceived file auto"):
        evaluate([], bonds="drawn")
    with pytest.raises(MolflowError, match="bonds and charge need the scope 'all', not 'lookup'"):
        evaluate([], bonds="file", scope="lookup")


def test_a_radical_is_named(tmp_path):
    ethyl = Chem.RWMol(embedded("CC"))
    ethyl.RemoveAtom(ethyl.GetNumAtoms() - 1)
    ethyl.GetAtomWithIdx(1).SetNumRadicalElectrons(1)
    ethyl.GetAtomWithIdx(1).SetNoImplicit(True)
    records = list(iter_records(sdf(tmp_path / "a.sdf", [ethyl])))
    (given,) = inspect_all(records, bonds="file", workers=0)
    assert (given.unpaired, given.status) == (1, "unstable")
    assert given.reason.endswith("a radical with 1 unpaired electron")
    (perceived,) = inspect_all([records[0].structure], bonds="perceived", workers=0)
    assert (perceived.unpaired, perceived.reason.endswith("a radical with 1 unpaired electron")) == (1, True)
    assert next(iter(inspect_all(read_mols(["CC"]), workers=0))).unpaired == 0


def test_bonds_of_pyg_data():
    from torch_geometric.data import Data

    for smiles in ("CC(=O)[O-]", "c1ccncc1", "CC#N"):
        mol = embedded(smiles)
        kinds = [4 if bond.GetIsAromatic() else round(bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()]
        pairs = torch.tensor([[b.GetBeginAtomIdx(), b.GetEndAtomIdx()] for b in mol.GetBonds()]).T
        orders = torch.tensor(kinds).repeat(2)
        data = Data(
            pos=torch.tensor(mol.GetConformer().GetPositions()),
            z=torch.tensor([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            edge_index=torch.cat([pairs, pairs.flip(0)], 1),
            formal_charge=torch.tensor([atom.GetFormalCharge() for atom in mol.GetAtoms()]),
        )
        for attributes in (orders, torch.nn.functional.one_hot(orders - 1, 4).float()):
            data.edge_attr = attributes
            reports = []
            scores = evaluate([data], bonds="file", workers=0, each=lambda report, _, into=reports: into.append(report))
            assert (reports[0].smiles, scores.molecule_stability) == (Chem.CanonSmiles(smiles), 1)
        data.edge_attr = torch.rand(orders.shape[0], 3)  # distances are no bonds
        assert evaluate([data], bonds="file", workers=0).n_unscored == 1


def test_the_charge_is_a_field(tmp_path):
    mol = embedded("C[NH3+]")
    places = mol.GetConformer().GetPositions().tolist()
    lines = [" ".join([a.GetSymbol(), *map(str, places[a.GetIdx()])]) for a in mol.GetAtoms()]
    path = tmp_path / "a.xyz"
    path.write_text("\n".join([str(len(lines)), "q=1.0 name=a", *lines]) + "\n")
    assert evaluate(path, charge="q", bonds="perceived", workers=0).molecule_stability == 1
    with pytest.raises(MolflowError, match=r"a\.xyz, record 1: no field Q for the charge; its fields: name, q"):
        evaluate(path, charge="Q", workers=0)
    with pytest.raises(MolflowError, match="the charge name is 'a', expected a whole number"):
        evaluate(path, charge="name", workers=0)


def test_the_reference_is_by_the_bonds_of_the_main_figures():
    structures = read_structures(QM9)[::4]
    for bonds in ("lookup", "perceived"):
        scores = evaluate(structures, reference="qm9", bonds=bonds, workers=0)
        known = scores.reference_scores
        assert known["protocol"] == PROTOCOLS[bonds]
        low, high = scores.molecule_stability_interval
        assert low <= known["molecule_stability"] == scores.metrics["molecule_stability"].reference <= high
        assert all(metric.reference is not None for metric in scores.metrics.values())
    assert known["molecule_stability"] == known["metrics"]["valence_molecule_stability"]["value"] > 0.999
    assert recorded_scores("qm9", "auto") == recorded_scores("qm9", "file")
    assert recorded_scores("qm9", "file")["metrics"]["bonds_as_perceived"]["of"] > 10_000
