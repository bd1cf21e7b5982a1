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
    for name in ("positions", "atomic_numbers", "n_atoms", "smiles"):
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
    for row, (positions, atomic_numbers) in zip(rows, subset.structures(), strict=True):
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
