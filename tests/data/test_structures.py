"""MoleculeSet on small made-up molecules: indexing, padding, and files that are damaged in every way."""

import numpy as np
import pytest

from molflow.data import MoleculeSet
from molflow.errors import MolflowError

SIZES = [3, 1, 4, 3]


@pytest.fixture
def molecules() -> MoleculeSet:
    rng = np.random.default_rng(0)
    total = sum(SIZES)
    return MoleculeSet(
        rng.normal(size=(total, 3)),
        rng.choice([1, 6, 8], total),
        np.array(SIZES),
        np.array(["O", "[H]", "C=C", "CÅ"]),
        {"energy": rng.normal(size=4), "index": np.arange(4)},
    )


def assert_same(left: MoleculeSet, right: MoleculeSet) -> None:
    for name in ("positions", "atomic_numbers", "n_atoms", "smiles", "hydrogens"):
        one, other = getattr(left, name), getattr(right, name)
        np.testing.assert_array_equal(one, other)
        assert (one is None) == (other is None)
        assert one is None or one.dtype == other.dtype
    assert left.properties.keys() == right.properties.keys()
    for name, values in left.properties.items():
        np.testing.assert_array_equal(values, right.properties[name])


def test_dtypes_and_offsets(molecules):
    assert len(molecules) == 4
    assert [molecules.positions.dtype, molecules.atomic_numbers.dtype] == [np.float32, np.uint8]
    assert molecules.offsets.tolist() == [0, 3, 4, 8, 11]


@pytest.mark.parametrize("indices", [[2, 0], [1], [], slice(1, 3), [-1], np.array([True, False, False, True]), [3, 3]])
def test_subset_picks_whole_molecules(molecules, indices):
    subset, every = molecules.subset(indices), list(molecules.structures())
    rows = np.arange(4)[indices]
    assert len(subset) == len(rows)
    for row, (positions, atomic_numbers, _) in zip(rows, subset.structures(), strict=True):
        np.testing.assert_array_equal(positions, every[row][0])
        np.testing.assert_array_equal(atomic_numbers, every[row][1])
    np.testing.assert_array_equal(subset.smiles, molecules.smiles[rows])
    np.testing.assert_array_equal(subset.properties["energy"], molecules.properties["energy"][rows])


@pytest.mark.parametrize("indices", [[0, 3], [1, 2, 0], [1], []])
def test_padded_is_a_loop_over_molecules(molecules, indices):
    positions, atomic_numbers, mask = molecules.padded(indices)
    largest = max((SIZES[i] for i in indices), default=0)
    assert positions.shape == (len(indices), largest, 3)
    assert [positions.dtype, atomic_numbers.dtype, mask.dtype] == [np.float32, np.int64, np.bool_]
    every = list(molecules.structures())
    for row, i in enumerate(indices):
        n = SIZES[i]
        np.testing.assert_array_equal(positions[row, :n], every[i][0])
        np.testing.assert_array_equal(atomic_numbers[row, :n], every[i][1])
        assert mask[row].sum() == n
        assert mask[row, :n].all()
        assert not positions[row, n:].any()
        assert not atomic_numbers[row, n:].any()


def test_padded_does_not_touch_the_set(molecules):
    before = molecules.positions.copy()
    molecules.padded([0, 1])[0][:] = 7
    molecules.padded([0, 3])[0][:] = 7
    np.testing.assert_array_equal(molecules.positions, before)


def test_round_trip(molecules, tmp_path):
    molecules.save(tmp_path / "set.npz")
    assert_same(MoleculeSet.load(tmp_path / "set.npz"), molecules)
    bare = MoleculeSet(molecules.positions, molecules.atomic_numbers, molecules.n_atoms)
    bare.save(tmp_path / "set.npz")
    assert_same(MoleculeSet.load(tmp_path / "set.npz"), bare)
    assert [file.name for file in tmp_path.iterdir()] == ["set.npz"]


def test_failed_save_leaves_the_earlier_file(molecules, tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    molecules.save(path)
    before = path.read_bytes()

    def half_written(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", half_written)
    with pytest.raises(MolflowError, match=r"set\.npz: cannot be written: No space left"):
        molecules.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_atoms": [3, 1, 4, 2]}, "positions have shape"),
        ({"n_atoms": [3, 0, 5, 3]}, "1 or more"),
        ({"n_atoms": [3, 1.5, 3.5, 3]}, "whole numbers"),
        ({"atomic_numbers": np.ones(5)}, "atomic_numbers have shape"),
        ({"atomic_numbers": [1] * 7 + [0] + [1] * 3}, "molecule 2, atom 3: atomic number outside"),
        ({"atomic_numbers": [1] * 10 + [257]}, "molecule 3, atom 2: atomic number outside"),
        ({"positions": np.full((11, 3), np.nan)}, "molecule 0, atom 0: coordinate that is not finite"),
        ({"positions": np.full((11, 3), 1e200)}, "not finite"),
        ({"smiles": ["C"]}, "smiles has shape"),
        ({"properties": {"energy": np.zeros((4, 2))}}, "energy has shape"),
        ({"properties": {"energy": np.array([None] * 4)}}, "energy holds Python objects"),
    ],
)
def test_arrays_that_do_not_fit(molecules, change, message):
    arrays = {name: getattr(molecules, name) for name in ("positions", "atomic_numbers", "n_atoms")}
    with pytest.raises(MolflowError, match=message):
        MoleculeSet(**(arrays | change))


def test_load_names_the_damaged_file(molecules, tmp_path):
    path = tmp_path / "set.npz"
    molecules.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(molecules.positions.tobytes())] ^= 1
    for content in (b"", b"not a zip", whole[: len(whole) // 2], whole[:-30], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(MolflowError, match=r"set\.npz: not a readable NPZ"):
            MoleculeSet.load(path)


def test_load_refuses_pickles_and_other_arrays(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(MolflowError, match="no such file"):
        MoleculeSet.load(path)
    np.savez(path, positions=np.array([{}], dtype=object))
    with pytest.raises(MolflowError, match="not a readable NPZ"):
        MoleculeSet.load(path)
    np.savez(path, positions=np.zeros((1, 3)), n_atoms=[1])
    with pytest.raises(MolflowError, match=r"set\.npz: has no array 'atomic_numbers'"):
        MoleculeSet.load(path)
    np.savez(path, positions=np.full((1, 3), np.nan), n_atoms=[1], atomic_numbers=[1])
    with pytest.raises(MolflowError, match=r"set\.npz: molecule 0, atom 0: .*not finite"):
        MoleculeSet.load(path)
    np.savez(path, positions=np.zeros((1, 3)), n_atoms=[2], atomic_numbers=[1])
    with pytest.raises(MolflowError, match=r"set\.npz: positions have shape"):
        MoleculeSet.load(path)


# united atoms


@pytest.fixture
def methanol_and_ammonia() -> MoleculeSet:
    methanol = [[0, 0, 0], [1.4, 0, 0], [1.7, 0.9, 0], [-0.4, 1, 0], [-0.4, -0.5, 0.9], [-0.4, -0.5, -0.9]]
    ammonia = [[0.9, 0, 0], [0, 0.9, 0], [0, 0, 0], [0, 0, 0.9]]
    numbers = [6, 8, 1, 1, 1, 1, 1, 1, 7, 1]
    return MoleculeSet(np.array(methanol + ammonia), numbers, [6, 4], ["CO", "N"], {"index": np.array([7, 8])})


def test_united_counts_hydrogens_on_the_nearest_heavy_atom(methanol_and_ammonia):
    united = methanol_and_ammonia.united_atom()
    assert united.atomic_numbers.tolist() == [6, 8, 7]
    assert united.hydrogens.tolist() == [3, 1, 3]
    assert united.hydrogens.dtype == np.uint8
    assert united.n_atoms.tolist() == [2, 1]
    np.testing.assert_array_equal(united.positions, methanol_and_ammonia.positions[[0, 1, 8]])
    assert united.smiles.tolist() == ["CO", "N"]
    assert united.properties["index"].tolist() == [7, 8]
    assert united.united_atom() is united
    assert len(methanol_and_ammonia.subset([]).united_atom()) == 0


def test_hydrogens_stay_with_their_atoms(methanol_and_ammonia, tmp_path):
    united = methanol_and_ammonia.united_atom()
    assert united.subset([1, 0]).hydrogens.tolist() == [3, 3, 1]
    assert len(united.padded([0, 1])) == 3
    batch = united.batch([1, 0])
    assert batch.hydrogens.tolist() == [[3, 0], [3, 1]]
    assert batch.with_hydrogens().n_atoms.tolist() == [4, 6]
    assert methanol_and_ammonia.batch([0]).hydrogens is None
    united.save(tmp_path / "united.npz")
    assert_same(MoleculeSet.load(tmp_path / "united.npz"), united)


def test_united_atoms_are_no_structures(methanol_and_ammonia):
    with pytest.raises(MolflowError, match=r"use batch\(\.\.\.\)\.with_hydrogens\(\)"):
        methanol_and_ammonia.united_atom().structures()


def test_a_molecule_without_a_heavy_atom_is_named():
    with pytest.raises(MolflowError, match="molecule 1 has no heavy atom"):
        MoleculeSet(np.zeros((3, 3)), [8, 1, 1], [1, 2]).united_atom()


@pytest.mark.parametrize(
    ("hydrogens", "message"),
    [
        ([1, 2], r"hydrogens have shape \(2,\)"),
        ([1, 2, -1], "molecule 1, atom 0: hydrogens outside 0..255"),
        ([1, 2, 256], "molecule 1, atom 0: hydrogens outside 0..255"),
        ([0.5, 2, 1], "molecule 0, atom 0: hydrogens outside 0..255"),
    ],
)
def test_hydrogens_that_do_not_fit(hydrogens, message):
    with pytest.raises(MolflowError, match=message):
        MoleculeSet(np.zeros((3, 3)), [6, 8, 7], [2, 1], hydrogens=np.array(hydrogens))


def test_united_qm9(qm9):
    united = qm9.united_atom()
    assert united.n_atoms.max() == 9
    assert len(united) == len(qm9)
    assert int(united.hydrogens.sum()) + len(united.positions) == len(qm9.positions)
    rows = np.arange(0, len(qm9), 1000)
    full = united.batch(rows).with_hydrogens()
    assert full.n_atoms.tolist() == qm9.n_atoms[rows].tolist()


def test_heavy_bonds_are_those_of_batches(qm9):
    some = qm9.subset(slice(5000))
    batch = some.batch(slice(None))
    found = some.heavy_bonds()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, batch.heavy_bonds()[batch.mask].numpy())
    np.testing.assert_array_equal(some.united_atom().heavy_bonds(), found[some.atomic_numbers > 1])


def test_heavy_bonds_need_the_tables():
    molecules = MoleculeSet(np.zeros((3, 3)) + np.arange(3)[:, None], [6, 8, 79], [1, 2])
    with pytest.raises(MolflowError, match="molecule 1, atom 1: element outside the look-up tables of bonds"):
        molecules.heavy_bonds()
