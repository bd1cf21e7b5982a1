"""Molecule files: written molecules are read back, and every kind of damage is named with file and record."""

import contextlib
import gzip
import io
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow.batch import structure_of
from molflow.chem import Structure, StructureWriter, check_writable, iter_records, read_structures, to_rdkit
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
WATER = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))
SILANE_PART = Structure(np.array([[0, 0, 0], [1.48, 0, 0]]), np.array([14, 1]))
EMPTY = Structure(np.zeros((0, 3)), np.zeros(0, dtype=int))


def write(path, structures):
    with StructureWriter(path) as writer:
        for structure in structures:
            writer.write(structure)
    return path


def assert_same(found, expected, tolerance):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.atomic_numbers, b.atomic_numbers)
        np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("suffix", "tolerance"), [(".sdf", 5.1e-5), (".SD", 5.1e-5), (".xyz", 5.1e-9), (".npz", 0)])
def test_round_trip(tmp_path, suffix, tolerance):
    structures = [*read_structures(QM9)[:20], CROWDED, EMPTY, SILANE_PART]
    path = write(tmp_path / f"new folder/out{suffix}", structures)
    found = read_structures(path)
    if suffix == ".npz":
        structures = [Structure(s.positions.astype(np.float32), s.atomic_numbers) for s in structures]
    assert_same(found, structures, tolerance)
    assert {s.positions.dtype for s in found} == {np.dtype("float32" if suffix == ".npz" else "float64")}


def test_rdkit_reads_the_sdf_with_its_bonds(tmp_path):
    path = write(tmp_path / "out.sdf", [WATER, CROWDED, SILANE_PART])
    mols = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    assert [mol.GetNumBonds() for mol in mols] == [2, 2, 1]
    assert [mol.GetProp("_Name") for mol in mols] == ["molecule 1", "molecule 2", "molecule 3"]
    assert mols[0].GetConformer().Is3D()


def test_an_sdf_with_perceived_bonds(tmp_path):
    """Charges and aromatic rings are those that are perceived; a carbon of five bonds has them all as single ones."""
    mol = Chem.AddHs(Chem.MolFromSmiles("O=[N+]([O-])c1ccccc1"))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    nitrobenzene = structure_of(mol, 1)
    hydrogens = np.array([[0, 0, 1.1], [0, 1.1, 0], [1.1, 0, 0], [-0.64, -0.64, -0.64], [0.7, 0.7, 0.7]])
    too_many = Structure(np.concatenate([np.zeros((1, 3)), hydrogens]), np.array([6, 1, 1, 1, 1, 1]))
    with StructureWriter(tmp_path / "a.sdf", bonds="perceived") as writer:
        for structure in (nitrobenzene, WATER, too_many):
            writer.write(structure)
    mols = list(Chem.SDMolSupplier(str(tmp_path / "a.sdf"), sanitize=False))
    assert [Chem.MolToSmiles(Chem.RemoveHs(m)) for m in mols[:2]] == ["O=[N+]([O-])c1ccccc1", "O"]
    assert {bond.GetBondTypeAsDouble() for bond in mols[2].GetBonds()} == {1}
    assert mols[2].GetNumBonds() == 5
    assert Chem.SanitizeMol(mols[2], catchErrors=True)


def test_npz_layout(tmp_path):
    with np.load(write(tmp_path / "out.npz", [WATER, SILANE_PART])) as archive:
        assert archive["mask"].tolist() == [[True] * 3, [True, True, False]]
        assert archive["atomic_numbers"].tolist() == [[8, 1, 1], [14, 1, 0]]
        assert archive["positions"].shape == (2, 3, 3)
        assert not archive["positions"][1, 2].any()


@pytest.mark.parametrize("suffix", [".sdf", ".xyz"])
def test_sdf_and_xyz_are_on_disk_after_every_call(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with StructureWriter(path) as writer:
        for count in (1, 2):
            writer.write(WATER)
            assert len(read_structures(path)) == count == writer.count


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz"])
def test_an_interrupted_run_keeps_finished_molecules(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    with contextlib.suppress(KeyboardInterrupt), StructureWriter(path) as writer:
        writer.write(WATER)
        raise KeyboardInterrupt
    assert len(read_structures(path)) == 1
    assert os.listdir(tmp_path) == [path.name]


def test_an_older_npz_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "out.npz", [WATER])
    writer = StructureWriter(path)
    writer.write(SILANE_PART)
    assert_same(read_structures(path), [WATER], 1e-6)

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(MolflowError, match=r"out\.npz: cannot be written \(disk full\)"):
            writer.close()
    assert_same(read_structures(path), [WATER], 1e-6)
    assert os.listdir(tmp_path) == ["out.npz"]
    writer.close()
    assert_same(read_structures(path), [SILANE_PART], 1e-6)


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz"])
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (Structure(np.array([[0, 0, np.inf]]), np.array([1])), "atom 1: coordinate is not finite"),
        (Structure(np.array([[0, 0, 1e30]]), np.array([1])), "atom 1: coordinate is farther out than 1,000,000 Å"),
        (Structure(np.zeros((1, 3)), np.array([0])), "atom 1: unknown element with atomic number 0"),
        (Structure(np.zeros((2, 3)), np.array([1])), r"expected positions \(n, 3\)"),
    ],
)
def test_the_writer_refuses_structures_that_readers_would_refuse(tmp_path, suffix, bad, cause):
    path = tmp_path / f"out{suffix}"
    with StructureWriter(path) as writer:
        writer.write(WATER)
        with pytest.raises(MolflowError, match=rf"out{suffix}, record 2.*{cause}"):
            writer.write(bad)
    assert len(read_structures(path)) == 1


def test_xyz_of_other_programs(tmp_path):
    text = "2\nanything $$$$ 17 here, or nothing\nCL 0 0 0\n  1\t1.27e0 -0.0 0 0.5 extra\n\n1\n\nHe 1 2 3\r\n\n\n"
    path = tmp_path / "a.xyz"
    path.write_bytes(text.encode())
    found = read_structures(path)
    assert [s.atomic_numbers.tolist() for s in found] == [[17, 1], [2]]
    assert found[0].positions.tolist() == [[0, 0, 0], [1.27, 0, 0]]
    assert found[1].positions.tolist() == [[1, 2, 3]]


def test_sdf_with_v3000_data_fields_and_no_last_separator(tmp_path):
    mol = Chem.SDMolSupplier(str(write(tmp_path / "a.sdf", [WATER])), removeHs=False)[0]
    block = Chem.MolToV3KMolBlock(mol)
    path = tmp_path / "b.sdf"
    path.write_text(f"{block}>  <note>\nM  END of nothing\n\n$$$$\n{Chem.MolToMolBlock(mol)}")
    assert_same(read_structures(path), [WATER, WATER], 5.1e-5)


def test_deuterium_and_tritium_are_hydrogen(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("2\n\nD 0 0 0\nT 0 0 1\n")
    assert read_structures(path)[0].atomic_numbers.tolist() == [1, 1]


def test_a_block_without_a_version_and_with_properties(tmp_path):
    path = tmp_path / "a.mol"
    atoms = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {e}\n" for e, (x, y, z) in zip("OHH", WATER.positions, strict=True))
    path.write_text(f"\n\n\n  3  1\n{atoms}  1  2  1\nA    1\n 3 of text\nM  CHG  1   1  -1\n\nM  END\n")
    assert_same(read_structures(path), [WATER], 1e-6)


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz"])
def test_chirality_survives(tmp_path, suffix):
    """Compare the labels that RDKit gives to the centres of real molecules."""

    def labels(structures):
        for mol in filter(None, (to_rdkit(*structure) for structure in structures)):
            Chem.AssignStereochemistryFrom3D(mol)
            yield Chem.FindMolChiralCenters(mol)

    structures = read_structures(QM9)
    expected = list(labels(structures))
    mirrored = [Structure(s.positions * [1, 1, -1], s.atomic_numbers) for s in structures]
    assert len([found for found in expected if found]) > 50
    assert list(labels(read_structures(write(tmp_path / f"a{suffix}", structures)))) == expected
    assert list(labels(read_structures(write(tmp_path / f"b{suffix}", mirrored)))) != expected


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_a_folder(tmp_path):
    write(tmp_path / "b.xyz", [WATER, CROWDED])
    write(tmp_path / "a.sdf", [SILANE_PART])
    write(tmp_path / "e.npz", [EMPTY])
    (tmp_path / "c.SDF.GZ").write_bytes(gzip.compress((tmp_path / "a.sdf").read_bytes()))
    (tmp_path / "d.mol").write_text("")
    for name in ("notes.txt", "._a.sdf"):
        (tmp_path / name).write_text("nothing to read")
    (tmp_path / "below.sdf").mkdir()
    records = list(iter_records(tmp_path))
    names = ["a.sdf", "b.xyz", "b.xyz", "below.sdf", "c.SDF.GZ", "d.mol", "e.npz"]
    assert [record.source for record in records] == [str(tmp_path / name) for name in names]
    assert [record.number for record in records] == [1, 1, 2, 1, 1, 1, 1]
    found = [record.structure for record in records if record.structure is not None]
    assert_same(found, [SILANE_PART, WATER, CROWDED, SILANE_PART, EMPTY], 1e-4)
    assert [record.error for record in records if record.error] == [
        "is a directory; expected a file of molecules", "the file is empty; expected at least one molecule",
    ]  # fmt: skip


def from_standard_input(content):
    """Errors, or numbers of atoms, of the records that a program reads from standard input."""
    program = (
        "from molflow.chem import iter_records\n"
        "for record in iter_records('-'): print(record.error or len(record.structure.atomic_numbers), record.source)"
    )
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=False)
    return done.stdout.decode().splitlines() or done.stderr.decode().splitlines()[-1]


def test_standard_input(tmp_path):
    texts = [write(tmp_path / f"a{suffix}", [WATER, SILANE_PART]).read_bytes() for suffix in (".sdf", ".xyz")]
    for content in [*texts, gzip.compress(texts[0])]:
        assert from_standard_input(content) == ["3 standard input", "2 standard input"]
    refused = "molflow.errors.MolflowError: standard input: "
    assert from_standard_input(b"") == f"{refused}the file is empty; expected at least one molecule"
    assert from_standard_input(b"once\nupon\n").startswith(f"{refused}neither SDF nor XYZ; expected")


@pytest.fixture
def pipe(tmp_path):
    """Make a named pipe and a thread that writes some bytes to it and closes it. Returns the path."""
    threads = []

    def make(name, content):
        path = tmp_path / name
        os.mkfifo(path)
        threads.append(threading.Thread(target=path.write_bytes, args=[content], daemon=True))
        threads[-1].start()
        return path

    yield make
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["a.xyz", "no suffix"])
def test_a_named_pipe_that_closes_early(pipe, name):
    one = b"3\nwater\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
    first, second, cut = iter_records(pipe(name, one * 2 + one[:-26]))
    assert_same([first.structure, second.structure], [WATER, WATER], 0)
    assert cut.structure is None
    assert cut.error == "line 14: truncated after 1 of 3 atoms; expected 'symbol x y z' for each"


def test_a_named_pipe_that_closes_at_once(pipe):
    with pytest.raises(MolflowError, match=r"a\.sdf: the file is empty"):
        list(iter_records(pipe("a.sdf", b"")))


# ---- damage ----------------------------------------------------------------------------------------------------------

XYZ = "1\nfirst\nH 0 0 0\n"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "the file is empty"),
        ("\n \n", "no molecules in the file"),
        (XYZ + "3\nc\nO 0 0 0\nH 1 0 0\n", "record 2, line 8: truncated after 2 of 3 atoms"),
        (XYZ + "3\n", "record 2, line 6: truncated after 0 of 3 atoms"),
        (XYZ + "1\nc\nO 0 0 0\nH 1 0 0\n", "record 2, line 7: expected 1 atoms, but 'H 1 0 0' follows them"),
        (XYZ + "2\nc\nO 0 0 0\n1\nc\nH 0 0 0\n", r"record 2, line 7: expected 'symbol x y z', got '1' \(atom 2 of 2\)"),
        (XYZ + "1\nc\nO 0 0\n", "record 2, line 6: expected 'symbol x y z', got 'O 0 0'"),
        (XYZ + "1\nc\nO 0 0 1.5*^\n", "record 2, line 6: expected 'symbol x y z'"),
        (XYZ + "1\nc\nXx 0 0 0\n", "record 2, line 6: unknown element 'Xx'"),
        (XYZ + "1\nc\n200 0 0 0\n", "record 2, line 6: unknown atomic number 200"),
        (
            XYZ + "2\nc\nO 0 0 0\nH 0 nan 0\n",
            r"record 2, line 7: coordinate is not finite \(0, nan, 0\) \(atom 2 of 2\)",
        ),
        (XYZ + "1\nc\nO 0 -inf 0\n", "record 2, line 6: coordinate is not finite .*atom 1 of 1"),
        (XYZ + "1\nc\nO 0 1e30 0\n", r"record 2, line 6: coordinate is farther out than 1,000,000 Å \(0, 1e\+30, 0\)"),
        (XYZ + "1\nc\nO 0 1_0 0\n", "record 2, line 6: expected 'symbol x y z'"),
        (XYZ + "1\n", "record 2, line 6: truncated after 0 of 1 atoms"),
        (XYZ + "3\n4\nc\nO 0 0 0\n", "record 2, line 5: expected a comment and 3 atoms, got '4'"),
        (XYZ + "1\nProperties=species:S:1:x:R:3\nO 0 0 0\n", "record 2, line 5: expected Properties with species"),
        (XYZ + "1\nProperties=pos:R:3:Z:I:1\nO 0 0 0\n", "record 2, line 6: expected the columns pos:R:3:Z:I:1, got"),
        ("\x00\x01\x02", ": binary, or not in UTF-8"),
        ("\x00", "record 1, line 1: expected the number of atoms"),
        ("9" * 5000, "record 1, line 1: expected the number of atoms"),
        ("-1\n\n", "record 1, line 1: expected the number of atoms"),
    ],
)
def test_damaged_xyz(tmp_path, content, cause):
    path = tmp_path / "bad.xyz"
    path.write_text(content)
    with pytest.raises(MolflowError, match=rf"bad\.xyz.*{cause}") as caught:
        read_structures(path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def sdf(tmp_path):
    return write(tmp_path / "bad.sdf", [WATER, WATER])


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("  3  2  0", "  2  2  0", "line 18: expected bond 1 of 2 between atoms 1 to 2, got '-0.24"),
        ("  3  2  0", "  4  2  0", "line 19: expected an atom line .* got '1  2  1  0' .atom 4 of 4"),
        ("  3  2  0", "  2  0  0", "line 18: expected properties and 'M  END' after 2 atoms and 0 bonds, got"),
        ("  3  2  0", "  x  2  0", "line 15: expected the counts line of a V2000 or V3000 mol block, got 'x  2"),
        ("V2000", "V3000", "line 16: expected a line of V3000, got '0.0000"),
        ("    0.9600", "       nan", r"line 17: coordinate is not finite \(nan, 0, 0\) \(atom 2 of 3\)"),
        ("    0.9600", "      1e30", r"line 17: coordinate is farther out than 1,000,000 Å \(1e\+30, 0, 0\)"),
        ("    0.9600", "       x.y", "line 17: expected an atom line in the columns of V2000, got 'x.y"),
        ("  1  3  1  0", "  1  9  1  0", "line 20: expected bond 2 of 2 between atoms 1 to 3, got '1  9  1  0'"),
        ("M  END\n", "", "line 21: truncated, 'M  END' is missing; expected a V2000 or V3000 mol block"),
        (" O ", " Xx", r"line 16: unknown element 'Xx'; accepted are the symbols H to Og \(atom 1 of 3\)"),
    ],
)
def test_damaged_sdf(sdf, old, new, cause, capfd):
    first, second, _ = sdf.read_text().split("$$$$\n")
    assert old in second
    sdf.write_text(f"{first}$$$$\n{second.replace(old, new, 1)}$$$$\n{first}$$$$\n")
    with pytest.raises(MolflowError, match=rf"bad\.sdf, record 2.*{cause}") as caught:
        read_structures(sdf)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_sdf_cut_off_in_its_last_record(sdf):
    sdf.write_text(sdf.read_text()[:-60])
    with pytest.raises(MolflowError, match="record 2, line 19: truncated; expected bond 1 of 2"):
        read_structures(sdf)


def test_empty_or_binary_sdf(tmp_path):
    path = tmp_path / "bad.sdf"
    path.write_bytes(b"")
    with pytest.raises(MolflowError, match=r"bad\.sdf: the file is empty"):
        read_structures(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(MolflowError, match=r"bad\.sdf: binary, or not in UTF-8"):
        read_structures(path)


class Unpickled:
    def __reduce__(self):
        return os.abort, ()


GOOD = {
    "positions": np.zeros((1, 2, 3), np.float32),
    "atomic_numbers": np.array([[8, 1]], np.uint8),
    "mask": np.ones((1, 2), bool),
}


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"atomic_numbers": None}, "atomic_numbers is not a file in the archive; expected"),
        ({"positions": np.zeros((1, 3, 3))}, r"expected .* got float64 \(1, 3, 3\), uint8 \(1, 2\), bool \(1, 2\)"),
        ({"positions": np.zeros((1, 2, 2))}, r"got float64 \(1, 2, 2\)"),
        ({"mask": np.full((1, 2), 0.5)}, r"float64 \(1, 2\)$"),
        ({"atomic_numbers": np.full((1, 2), 1.5)}, r"got float32 \(1, 2, 3\), float64"),
        ({"positions": np.full((1, 2, 3), "a")}, "got <U1"),
        ({"positions": np.array([[[Unpickled()] * 3] * 2])}, "Object arrays cannot be loaded"),
        ({"positions": np.full((1, 2, 3), np.nan)}, "record 1, atom 1: coordinate is not finite"),
        ({"positions": np.full((1, 2, 3), 1e30)}, "record 1, atom 1: coordinate is farther out than 1,000,000 Å"),
        ({"atomic_numbers": np.array([[8, 0]])}, "record 1, atom 2: unknown element with atomic number 0"),
        ({"atomic_numbers": np.array([[8, 2**64 - 1]], np.uint64)}, "record 1, atom 2: unknown element"),
        (
            {"positions": np.zeros((0, 2, 3)), "atomic_numbers": np.zeros((0, 2), int), "mask": np.zeros((0, 2), bool)},
            "no molecules in the file",
        ),
    ],
)
def test_wrong_npz(tmp_path, change, cause):
    path = tmp_path / "bad.npz"
    np.savez(path, **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(MolflowError, match=rf"bad\.npz.*{cause}") as caught:
        read_structures(path)
    assert "\n" not in str(caught.value)


def test_damaged_npz(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **{**GOOD, "positions": np.random.default_rng(0).normal(size=(1, 2, 3))})
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    with pytest.raises(MolflowError, match=r"bad\.npz: not an NPZ file, or truncated"):
        read_structures(path)

    # whatever byte is hit, it is a MolflowError or harmless
    refused = []
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1 :])
        try:
            read_structures(path)
        except MolflowError as error:
            refused.append(str(error))
    assert len(refused) > len(good) / 2
    assert all(message.startswith(str(path)) and "\n" not in message for message in refused)

    bare = io.BytesIO()
    np.save(bare, GOOD["positions"])
    path.write_bytes(bare.getvalue())
    with pytest.raises(MolflowError, match="not an NPZ file"):
        read_structures(path)
    with zipfile.ZipFile(path, "w") as archive:
        for key in GOOD:
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00junk")
    with pytest.raises(MolflowError, match=r"bad\.npz: .*; expected numeric positions"):
        read_structures(path)


def test_unreadable_places(tmp_path):
    with pytest.raises(MolflowError, match=r"none\.sdf: no such file"):
        read_structures(tmp_path / "none.sdf")
    (tmp_path / "folder.sdf").mkdir()
    with pytest.raises(MolflowError, match=r"folder\.sdf: is a directory"):
        read_structures(tmp_path / "folder.sdf")
    with pytest.raises(MolflowError, match=r"folder\.sdf: is a directory without files of molecules; accepted are"):
        read_structures(tmp_path / "folder.sdf")
    (tmp_path / "a.pdb").write_text("x")
    with pytest.raises(MolflowError, match=r"a\.pdb: unknown suffix '\.pdb'; accepted are \.sdf \.sd \.xyz \.npz"):
        read_structures(tmp_path / "a.pdb")


@pytest.mark.parametrize("check", [check_writable, StructureWriter])
def test_unwritable_places_are_found_before_any_work(tmp_path, check):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.sdf").mkdir()
    for name, cause in [
        ("file/below/out.sdf", r"out\.sdf: cannot be written \(.+\)"),
        ("folder.sdf", r"folder\.sdf: is a directory"),
        ("out.mol2", r"out\.mol2: unknown suffix '\.mol2'; accepted are"),
        ("out", r"unknown suffix ''"),
    ]:
        with pytest.raises(MolflowError, match=cause):
            check(tmp_path / name)
    with pytest.raises(MolflowError, match=r"/proc/out\.xyz: cannot be written"):
        check("/proc/out.xyz")


def test_checking_leaves_an_existing_file_and_no_new_one(tmp_path):
    check_writable(tmp_path / "new/deep/out.xyz")
    assert list((tmp_path / "new/deep").iterdir()) == []
    (tmp_path / "old.xyz").write_text("content")
    check_writable(tmp_path / "old.xyz")
    assert (tmp_path / "old.xyz").read_text() == "content"
