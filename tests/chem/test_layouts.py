"""Layouts of files that are readable without doubt, and files that lie about their size."""

import gzip
import os

import numpy as np
import pytest
from rdkit import Chem

from molflow.chem import perceive, reading
from molflow.chem.arrays import LARGEST_NPZ
from molflow.chem.build import canonical_smiles, mesomeric_smiles
from molflow.chem.reading import iter_records, read_structures
from molflow.errors import MolflowError

WATER = "O 0.0 0.0 0.0\nH 0.96 0.0 0.0\nH -0.24 0.93 0.0\n"
XYZ = f"3\n\n{WATER}"
LOOSE = (
    " 3 2 0 0 0 0 0 0 0 0999 V2000\n 0.0 0.0 0.0 O 0 0\n 0.96 0.0 0.0 H 0 0\n -0.24 0.93 0.0 H 0 0\n 1 2 1\n 1 3 1\n"
)
TEXTS = {
    "fortran.xyz": XYZ.replace("0.96", "9.6D-01"),
    "mathematica.xyz": XYZ.replace("0.96", "9.6*^-1"),
    "labels.xyz": XYZ.replace("O ", "O1 ").replace("H 0.96", "H12 0.96"),
    "behind.xyz": f"{XYZ}\nbasis set def2-SVP\n end\n",
    "published.xyz": f"{XYZ}315.0\t1000.1\t1100.2\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n",
    "edm.txt": XYZ,
    "sdf.txt": f"\n\n\n{LOOSE}M  END\n$$$$\n",
    "lower.xyz": "3\nproperties=id:I:1:species:S:1:pos:R:3\n" + "".join(f"1 {a}\n" for a in WATER.splitlines()),
    "loose.sdf": f"\n\n\n{LOOSE}M  END\n$$$$\n",
}


def check_water(path):
    (found,) = read_structures(path)
    assert found.atomic_numbers.tolist() == [8, 1, 1]
    assert found.positions.tolist() == [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_text(TEXTS[name], encoding=encoding)
    check_water(path)
    assert [record.error for record in iter_records(tmp_path)] == [None]


def test_a_damaged_count_is_not_text_behind_the_atoms(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(XYZ + XYZ.replace("3", "3x", 1) + XYZ)
    assert [record.error for record in iter_records(path)] == [
        None,
        "line 6: expected the number of atoms, got '3x'",
        None,
    ]


def test_a_folder_ignores_other_text(tmp_path):
    (tmp_path / "a.txt").write_text(XYZ)
    (tmp_path / "notes.txt").write_text("sampled in May\n")
    assert len(read_structures(tmp_path)) == 1


X = np.array([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0, 0, 0]]])
Z = np.array([[8, 1, 1, 0]])


@pytest.mark.parametrize(
    "arrays",
    [
        {"positions": X, "charges": Z, "num_atoms": np.array([3])},
        {"positions": X, "atomic_numbers": Z, "mask": (Z > 0).astype(np.int64)},
        {"positions": X, "atomic_numbers": Z.astype(np.float32), "mask": (Z > 0).astype(np.float32)},
        {"R": X, "Z": Z, "N": np.array([3])},
        {"R": X[:, :3], "Z": Z[0, :3]},
    ],
)
def test_arrays(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    check_water(tmp_path / "a.npz")


def test_an_npz_that_unpacks_to_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, positions=np.zeros(10), atomic_numbers=np.zeros(1))
    packed = path.read_bytes()
    size = (80 + 128).to_bytes(4, "little")  # of the first array, in the archive's directory behind the data
    place = packed.index(b"PK\x01\x02") + 24
    assert packed[place : place + 4] == size
    path.write_bytes(packed[:place] + (LARGEST_NPZ + 1).to_bytes(4, "little") + packed[place + 4 :])
    with pytest.raises(MolflowError, match=r"a\.npz: unpacks to 2\.1 GB, at most 2\.1 GB are read"):
        read_structures(path)


def test_a_record_of_too_many_atoms(tmp_path):
    path = tmp_path / "a.xyz.gz"
    path.write_bytes(gzip.compress(b"300000000\n\n" + b"H 0 0 0\n" * 9))
    (record,) = iter_records(path)
    assert record.error == "line 2: 300,000,000 atoms; a molecule may have 100,000 at most"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_that_no_program_writes_to(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "a.xyz")
    with pytest.raises(MolflowError, match=r"a\.xyz: a pipe that no program writes to"):
        read_structures(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("numbers", "positions"),
    [
        ([1, 1], [[0, 0, 0], [0, 0, 0.74]]),
        ([9, 9], [[0, 0, 0], [0, 0, 1.42]]),
        ([8, 9, 1], [[0, 0, 0], [0, 0, 1.442], [0.96, 0, -0.1]]),
    ],
)
def test_long_bonds_are_perceived(numbers, positions):
    found = perceive(np.array(positions, dtype=float), np.array(numbers))
    assert (found.fragments, found.stable.all(), found.problem) == (1, True, "")


@pytest.mark.parametrize(
    "forms",
    [
        ("CS(C)=O", "C[S+](C)[O-]"),
        ("CCN=[N+]=[N-]", "CC[N-][N+]#N"),
        ("CCOC(=O)C=[N+]=[N-]", "CCOC([O-])=C[N+]#N"),
        ("CCNC(N)=[NH2+]", "CC[NH+]=C(N)N"),
        ("C[N+](=O)[O-]", "CN(=O)=O"),
    ],
)
def test_mesomeric_forms_have_one_smiles(forms):
    mols = [Chem.MolFromSmiles(form, sanitize="N(=O)=O" not in form) for form in forms]
    assert len({mesomeric_smiles(mol) for mol in mols}) == 1
    assert len({canonical_smiles(mol) for mol in mols}) == 2
