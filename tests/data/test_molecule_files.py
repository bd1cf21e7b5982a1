"""A user's own molecules: what is read, prepared, left out, split and cached."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from molflow import workers
from molflow.chem import Structure, StructureWriter
from molflow.config import parse
from molflow.data import DATASETS, SPLITS, MoleculeFile, MoleculeSet
from molflow.data.molecule_files import dropped_path
from molflow.data.smiles import read_smiles
from molflow.data.splits import drawn_folds
from molflow.errors import MolflowError
from molflow.templates.own_data import experiment_for
from molflow.training.config import load_experiment

SMILES = ["CCO", "CC(=O)[O-]", "c1ccccc1Br", "CS(=O)(=O)C", "C[NH3+]", "CCl", "COP(=O)(OC)OC", "CC#N", "CC=C", "O"] * 2


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("molflow.data.molecule_files.default_workers", lambda: 0)


@pytest.fixture
def smiles(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{s},m{k},{k / 2},{('train', 'test', 'valid')[k % 3]}" for k, s in enumerate(SMILES)]
    path.write_text("\n".join(["SMILES,name,mu,part", *rows]) + "\n")
    return path


def all_of(data):
    return MoleculeSet.load(data.prepare(progress=False))


def reasons(data):
    with dropped_path(data.prepare(progress=False)).open() as file:
        return [(row["record"], row["name"], row["reason"]) for row in csv.DictReader(file)]


def test_conformers_of_smiles_have_all_elements_and_properties(smiles):
    data = MoleculeFile(file=smiles, properties={"mu": "debye"}, condition=("mu",), split="part")
    molecules = all_of(data)
    assert len(molecules) == 20
    assert set(np.unique(molecules.atomic_numbers)) == {1, 6, 7, 8, 15, 16, 17, 35}
    assert molecules.properties["charge"].tolist() == [0, -1, 0, 0, 1, 0, 0, 0, 0, 0] * 2
    loaded = {split: data.load(split) for split in SPLITS}
    assert [len(loaded[split].data) for split in SPLITS] == [7, 6, 7]
    assert loaded["test"].condition[:, 0].tolist() == [k / 2 for k in range(20) if k % 3 == 1]
    assert dict(data.units) == {"mu": "debye"}
    benzene = molecules.subset([2])
    heavy = benzene.atomic_numbers > 1
    assert benzene.environments[heavy].sum(0).tolist() == [2 * 4, 2 * 3, 0]  # 3 single bonds and Br, 3 double ones


def test_the_same_for_any_number_of_workers(smiles, monkeypatch):
    alone = all_of(MoleculeFile(file=smiles))
    monkeypatch.setattr("molflow.data.molecule_files.default_workers", lambda: 2)
    path = MoleculeFile(file=smiles).prepare(force=True, progress=False)
    assert np.array_equal(MoleculeSet.load(path).positions, alone.positions)


def test_an_interrupted_preparation_goes_on(smiles, monkeypatch):
    data = MoleculeFile(file=smiles)
    whole = all_of(data)
    calls = []

    def stops(*arguments, **settings):
        for result in workers.outcomes(*arguments, **settings):
            calls.append(1)
            if len(calls) == 7:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr("molflow.data.molecule_files.outcomes", stops)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(force=True, progress=False)
    partial = next(data.prepare(progress=False).parent.glob("*.partial.jsonl"))
    assert len(partial.read_text().splitlines()) == 6
    partial.write_text(partial.read_text()[:-20])  # a line that kill -9 left half-written
    path = data.prepare(force=True, progress=False)
    assert len(calls) == 7 + 15
    assert np.array_equal(MoleculeSet.load(path).positions, whole.positions)
    assert not partial.exists()


def test_two_programs_do_not_prepare_a_file_at_once(smiles, monkeypatch):
    data = MoleculeFile(file=smiles)
    refused = []

    def also_elsewhere(*arguments, **settings):
        with pytest.raises(MolflowError, match="another program prepares it; wait until it has"):
            data.prepare(progress=False)
        refused.append(True)
        yield from workers.outcomes(*arguments, **settings)

    monkeypatch.setattr("molflow.data.molecule_files.outcomes", also_elsewhere)
    assert len(all_of(data)) == len(SMILES)
    assert refused == [True]


def test_molecules_that_cannot_be_used_are_counted_with_their_reason(tmp_path):
    path = tmp_path / "a.smi.gz"
    with gzip.open(path, "wt") as file:
        file.write("CCO good\nC1CC bad\nCC.O salt\n")
    assert reasons(MoleculeFile(file=path)) == [
        ("2", "bad", "RDKit cannot read the SMILES"),
        ("3", "salt", "it has 2 fragments"),
    ]
    assert len(all_of(MoleculeFile(file=path, fragments="keep"))) == 2
    assert all_of(MoleculeFile(file=path, fragments="largest")).smiles.tolist() == ["CCO", "CC"]


def sdf(path, smiles, without=None, flat=False, **fields):
    from rdkit import Chem
    from rdkit.Chem import AllChem

    writer = Chem.SDWriter(str(path))
    for text in smiles:
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mol = mol if without is None else Chem.DeleteSubstructs(mol, Chem.MolFromSmarts(without))
        if flat:
            AllChem.Compute2DCoords(mol)
        for name, value in fields.items():
            mol.SetProp(name, value)
        writer.write(mol)
    writer.close()


def test_hydrogens_dimensions_and_units_are_checked(tmp_path):
    good, bare, flat = (tmp_path / f"{name}.sdf" for name in ("good", "bare", "flat"))
    sdf(good, ["CCO", "CC[NH3+]"], e="1.5")
    sdf(bare, ["CCO"], without="[#1]")
    sdf(flat, ["CC(C)CCO"], without="[#1]", flat=True)
    assert all_of(MoleculeFile(file=good, properties={"e": "eV"})).properties["e"].tolist() == [1.5, 1.5]
    with pytest.raises(MolflowError, match="hydrogens are missing; --add-hydrogens adds them"):
        MoleculeFile(file=bare).prepare(progress=False)
    assert all_of(MoleculeFile(file=bare, add_hydrogens=True)).n_atoms.tolist() == [9]
    polar = tmp_path / "polar.sdf"  # as programs for docking write molecules
    sdf(polar, ["CCO"], without="[$([#1][#6])]")
    with pytest.raises(MolflowError, match="hydrogens are missing; --add-hydrogens adds them"):
        MoleculeFile(file=polar).prepare(progress=False)
    assert all_of(MoleculeFile(file=polar, add_hydrogens=True)).n_atoms.tolist() == [9]
    with pytest.raises(MolflowError, match="two-dimensional"):
        MoleculeFile(file=flat).prepare(progress=False)
    assert not list(tmp_path.rglob("*.partial.jsonl"))
    ethanol = all_of(MoleculeFile(file=good)).subset([0])
    with StructureWriter(tmp_path / "nm.xyz") as writer:
        writer.write(Structure(ethanol.positions / 10, ethanol.atomic_numbers))
    with pytest.raises(MolflowError, match="fit nanometres"):
        MoleculeFile(file=tmp_path / "nm.xyz").prepare(progress=False)


def test_bonds_are_perceived_where_the_file_states_none(tmp_path):
    from molflow.chem import read_structures

    sdf(tmp_path / "a.sdf", ["c1ccccc1", "CC(=O)C", "CS(C)=O"])
    with StructureWriter(tmp_path / "a.xyz") as writer:
        for structure in read_structures(tmp_path / "a.sdf"):
            writer.write(structure)
    assert all_of(MoleculeFile(file=tmp_path / "a.xyz")).smiles.tolist()[:2] == ["c1ccccc1", "CC(C)=O"]


def test_a_property_must_be_a_number_that_is_there(smiles, tmp_path):
    with pytest.raises(MolflowError, match="no molecule has a field 'mus'; did you mean mu\\?"):
        MoleculeFile(file=smiles, properties={"mus": "debye"}).prepare(progress=False)
    path = tmp_path / "b.csv"
    path.write_text("smiles,mu\nCCO,1\nCCC,\nCCN,high\nCCF,inf\n")
    assert [r for *_, r in reasons(MoleculeFile(file=path, properties={"mu": "debye"}))] == [
        "property mu is missing",
        "property mu is no number: 'high'",
        "property mu is not finite: inf",
    ]
    with pytest.raises(MolflowError, match="has no column 'structure', only smiles, mu"):
        MoleculeFile(file=path, smiles_column="structure").prepare(progress=False)
    path.write_text("id, smiles, mu\n1, CCO, 1.5\n")
    assert all_of(MoleculeFile(file=path, properties={"mu": "debye"})).properties["mu"].tolist() == [1.5]
    path.write_text("SMILES,smiles\nCCN,CCO\n")
    assert all_of(MoleculeFile(file=path)).smiles.tolist() == ["CCO"]
    path.write_text("smiles,mu,mu\nCCN,1,2\n")
    with pytest.raises(MolflowError, match="has several columns 'mu'; expected different names"):
        MoleculeFile(file=path, properties={"mu": "debye"}).prepare(progress=False)
    with pytest.raises(MolflowError, match="properties: charge is a number that molflow finds itself"):
        parse(MoleculeFile, {"file": path, "properties": {"charge": "1"}}, "mine")


def test_fields_are_checked_before_the_work(smiles, monkeypatch):
    monkeypatch.setattr("molflow.data.molecule_files.outcomes", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(MolflowError, match="no molecule has a field 'mus'"):
        MoleculeFile(file=smiles, properties={"mus": "debye"}).prepare(progress=False)
    with pytest.raises(MolflowError, match=r"record 1: mu is '0.0'; expected train, validation or test"):
        MoleculeFile(file=smiles, split="mu").prepare(progress=False)


def test_names_of_smiles_may_have_spaces(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("CCO\tethyl alcohol\nC1CC\tno ring at all\nCCN two words\nC\n")
    assert [(name, smiles) for _, name, smiles, _ in read_smiles(path, "")] == [
        ("ethyl alcohol", "CCO"),
        ("no ring at all", "C1CC"),
        ("two words", "CCN"),
        ("", "C"),
    ]


def test_the_cache_belongs_to_content_and_options(smiles):
    first = MoleculeFile(file=smiles).prepare(progress=False)
    assert MoleculeFile(file=smiles).prepare(progress=False) == first
    assert MoleculeFile(file=smiles, split_seed=1).prepare(progress=False) != first
    smiles.write_text(smiles.read_text().replace("CCO", "CCN"))
    assert MoleculeFile(file=smiles).prepare(progress=False) != first


def test_a_file_that_changes_while_it_is_read_is_refused(smiles, monkeypatch):
    data = MoleculeFile(file=smiles)

    def changed(*arguments, **settings):
        smiles.write_text(smiles.read_text() + "C,x,1,train\n")
        yield from workers.outcomes(*arguments, **settings)

    monkeypatch.setattr("molflow.data.molecule_files.outcomes", changed)
    with pytest.raises(MolflowError, match="changed while it was read"):
        data.prepare(progress=False)


def test_groups_stay_together_and_folds_have_their_share():
    groups = [f"g{k}" for k in range(50) for _ in range(1 + k % 3)] + ["big"] * 60
    folds = drawn_folds(groups, [1, 2], 0.1, seed=0)
    assert all(len(set(folds[np.array(groups) == g])) == 1 for g in groups)
    assert [round(float((folds == f).mean()), 1) for f in (1, 2)] == [0.1, 0.1]
    assert (folds[np.array(groups) == "big"] == 0).all()
    assert np.array_equal(folds, drawn_folds(groups, [1, 2], 0.1, seed=0))


def test_an_empty_split_is_an_error(tmp_path):
    path = tmp_path / "one.smi"
    path.write_text("CCO\n")
    with pytest.raises(MolflowError, match="its validation split is empty"):
        MoleculeFile(file=path).load("validation")


def test_files_of_an_experiment_are_relative_to_its_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "e.toml"
    path.write_text('name = "e"\n[data]\nfile = "a.sdf"\n[model.domain]\nkind = "composed_molecules"\n')
    config = load_experiment(path)
    assert isinstance(config.data, MoleculeFile)
    assert config.data.file == tmp_path / "sub" / "a.sdf"
    assert str(load_experiment(path, ["data.file=b.sdf"]).data.file) == "b.sdf"


def test_a_folder_may_hold_smiles_and_structures(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    (tmp_path / "notes.csv").write_text("anything\n1\n")
    assert MoleculeFile(file=tmp_path).describe()["n_molecules"] == 2
    (tmp_path / "b.xyz").write_text("3\n\nO 0 0 0.12\nH 0 0.76 -0.48\nH 0 -0.76 -0.48\n")
    assert MoleculeFile(file=tmp_path).describe()["atoms"][0] == 3


def test_own_molecules_train_sample_and_evaluate(molflow, smiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, err = molflow("data", smiles, "--describe", "--property", "mu=debye", "--json", "d.json")
    assert code == 0, err
    record = json.loads((tmp_path / "d.json").read_text())
    assert (record["elements"]["P"], record["rare_elements"]["P"]) == (2, 2)
    assert "duplicates by SMILES" in text
    code, text, _ = molflow("train", "--init", "a.csv")
    assert code == 0
    (tmp_path / "mine.toml").write_text(text)
    quick = ("max_steps=2", "batch_size=4", "validation_samples=4")
    settings = [word for each in quick for word in ("--set", f"training.{each}")]
    code, _, err = molflow("train", "mine.toml", *settings)
    assert code == 0, err
    code, _, err = molflow("sample", "--model", "runs/a", "-n", 5, "--out", "s.sdf", "--novelty", "--json", "s.json")
    assert code == 0, err
    assert json.loads((tmp_path / "s.json").read_text())["training"] == "the training split of a.csv"
    code, _, err = molflow("evaluate", "s.sdf", "--workers", 1, "--training", "a.csv", "--json", "e.json")
    assert code == 0, err
    assert json.loads((tmp_path / "e.json").read_text())["training"] == "a.csv"
    assert molflow("models", "runs/a")[0] in (0, 2)


def test_an_experiment_of_another_column_of_smiles(molflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("name,structure\na,CCO\nb,CCN\nc,CO\n")
    code, _, err = molflow("train", "--init", "a.csv")
    assert (code, "has no column 'smiles', only name, structure" in err) == (1, True)
    code, text, err = molflow("train", "--init", "a.csv", "--smiles-column", "structure")
    assert code == 0, err
    (tmp_path / "mine.toml").write_text(text)
    assert load_experiment("mine.toml").data.smiles_column == "structure"


def test_an_experiment_is_made_for_odd_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "\N{BENZENE RING}\U0001f9ea.smi").write_text("C\nN\nO\n")
    (tmp_path / "mine.toml").write_text(experiment_for(Path("\N{BENZENE RING}\U0001f9ea.smi")), encoding="utf-8")
    experiment = load_experiment("mine.toml")
    assert experiment.data.file.exists()
    assert experiment.model.domain.scale == 1
    (tmp_path / "gas.smi").write_text("CC\n[H][H]\n")
    with pytest.raises(MolflowError, match=r"gas.smi: molecule 1 \(\[H\]\[H\]\) has no heavy atom"):
        experiment_for(Path("gas.smi"))


def test_a_data_set_of_molecules_is_registered():
    assert DATASETS["molecules"] is MoleculeFile


def test_names_and_duplicates_are_described(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("CCO one\nCCN two\nOCC two\nCCF\nCCCl\n")
    record = MoleculeFile(file=path).describe()
    assert (record["n_molecules"], record["n_sharing_a_name"], record["n_duplicates"]) == (5, 2, 1)
    assert record["elements"] == {"H": 29, "C": 10, "N": 1, "O": 2, "F": 1, "Cl": 1}
    assert (record["heavy_atoms"], record["atoms"]) == ([3, 3.0, 3], [8, 9.0, 10])
