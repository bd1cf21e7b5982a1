"""QM9 itself: counts, values and split of the real data, and what happens when its source or cache is damaged."""

import hashlib
import json
import sys
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.datasets.qm9 import conversion

from molflow.data import MoleculeSet, load_qm9, prepare_qm9, qm9_split
from molflow.data import qm9 as module
from molflow.data.files import cache_path
from molflow.data.qm9 import PROPERTIES, WHEEL_PARTS, Part, from_pyg, parse_numbers, read_part, read_wheel
from molflow.errors import MolflowError

RECORD = json.loads((Path(__file__).parents[2] / "datasets" / "qm9.json").read_text())


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def wheel() -> Path:
    return Path(str(metadata.distribution("qm9pack").locate_file("qm9pack/data")))


@pytest.fixture
def rows(wheel) -> list[str]:
    """The header and the first 20 molecules of the real first file."""
    with open(wheel / "qm9_part1.csv") as file:
        return list(islice(file, 21))


def part_of(lines: list[str]) -> Part:
    """The expectations that untouched ``lines`` meet."""
    crcs = [module.zlib.crc32(line.rstrip("\n").encode()) for line in lines]
    return Part(len(lines) - 1, sum(crcs), sum(row * crc for row, crc in enumerate(crcs, 1)))


# the data


def test_counts(qm9):
    assert len(qm9) == RECORD["molecules"] == 130_831
    assert len(qm9.positions) == RECORD["atoms"]
    assert (qm9.n_atoms.min(), qm9.n_atoms.max()) == (3, 29)
    assert round(qm9.n_atoms.mean(), 1) == 18.0
    numbers, counts = np.unique(qm9.atomic_numbers, return_counts=True)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == {
        module.ATOMIC_NUMBERS[symbol]: count for symbol, count in RECORD["elements"].items()
    }


def test_arrays_are_those_on_record(qm9):
    assert {name: sha256(getattr(qm9, name)) for name in RECORD["sha256"]} == RECORD["sha256"]


def test_methane(qm9):
    positions, atomic_numbers, _ = next(qm9.structures())
    assert atomic_numbers.tolist() == [6, 1, 1, 1, 1]
    np.testing.assert_allclose(positions[0], [-0.0126981359, 1.0858041578, 0.0080009958], rtol=1e-6)
    np.testing.assert_allclose(positions[4], [-0.5238136345, 1.4379326443, 0.9063972942], rtol=1e-6)
    assert qm9.smiles[0] == "C"
    assert qm9.properties["gdb9_index"][[0, -1]].tolist() == [1, 133_885]
    expected = {
        "dipole": 0.0,
        "polarizability": 13.21,
        "u0": -40.47893,
        "heat_capacity": 6.469,
        "rotational_a": 157.7118,
    }
    assert {name: qm9.properties[name][0] for name in expected} == expected


def test_properties_have_their_units(qm9):
    assert qm9.properties.keys() == PROPERTIES.keys() | {"gdb9_index"}
    gap = qm9.properties["lumo"] - qm9.properties["homo"]
    np.testing.assert_allclose(qm9.properties["gap"], gap, atol=1.01e-4)  # each is rounded to 1e-4 hartree
    enthalpy = qm9.properties["h298"] - qm9.properties["u298"]
    np.testing.assert_allclose(enthalpy, 0.000944, atol=2e-6)  # H = U + RT at 298.15 K, so both are in hartree


def test_polarizability_is_a_third_of_the_tensors_trace(qm9, wheel):
    tensor = np.loadtxt(wheel / "qm9_polarizability.csv", delimiter=",", skiprows=1, usecols=(1, 3, 6))
    np.testing.assert_allclose(qm9.properties["polarizability"], tensor.mean(axis=1), atol=0.0055)


def test_rotational_constants_belong_to_the_geometries(qm9):
    """Units of positions and GHz, and the row order, at once: B = h / (8 pi^2 I)."""
    mass = np.zeros(10)
    mass[[1, 6, 7, 8, 9]] = 1.00782503, 12.0, 14.0030740, 15.9949146, 18.9984032  # most abundant isotopes, u
    chosen = np.flatnonzero(qm9.n_atoms == 18)[::100]
    positions, numbers, _ = qm9.padded(chosen)
    m, x = mass[numbers][..., None], positions.astype(np.float64)
    x -= (m * x).sum(1, keepdims=True) / m.sum(1, keepdims=True)
    inertia = (m * x**2).sum((1, 2))[:, None, None] * np.eye(3) - np.einsum("bni,bnj->bij", m * x, x)
    constants = 505.379 / np.linalg.eigvalsh(inertia)  # GHz u angstrom^2
    expected = np.stack([qm9.properties[f"rotational_{axis}"][chosen] for axis in "abc"], axis=1)
    np.testing.assert_allclose(constants, expected, rtol=1e-3)


def test_small_numbers_of_the_source(qm9):
    """Molecules whose rows hold the likes of ``1.2346E-6``, the notation of this wheel."""
    row = np.searchsorted(qm9.properties["gdb9_index"], 1616)
    positions = qm9.subset([row]).positions
    assert np.float32(1.2346e-6) in positions


# the split


def test_split():
    split = qm9_split()
    assert {name: len(indices) for name, indices in split.items()} == RECORD["split"]["sizes"]
    assert {name: indices[:4].tolist() for name, indices in split.items()} == RECORD["split"]["first"]
    assert {name: sha256(indices) for name, indices in split.items()} == RECORD["split"]["sha256"]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(130_831))


def test_load_a_split(qm9):
    test = load_qm9("test")
    np.testing.assert_array_equal(test.n_atoms, qm9.n_atoms[qm9_split()["test"]])
    np.testing.assert_array_equal(test.smiles, qm9.smiles[qm9_split()["test"]])
    with pytest.raises(MolflowError, match="'valid', accepted: train, validation, test, all"):
        load_qm9("valid")


# numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1.5*^-6", [1.5e-6]),
        ("-2.*^-7,3", [-2e-7, 3.0]),
        ("0.", [0.0]),
        ("9.E-6,-9.9614E-6", [9e-6, -9.9614e-6]),
        ("1.,-.5", [1.0, -0.5]),
    ],
)
def test_mathematica_numbers(text, numbers):
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "1,,2", "nan", "1,-inf", "1.5*^", "1.5^-6", "__import__('os')", "1 2", "1e999"])
def test_not_numbers(text):
    with pytest.raises(ValueError):
        parse_numbers(text)


# damaged sources


def test_the_first_rows_parse(rows, tmp_path, qm9):
    path = tmp_path / "part.csv"
    for newline in ("\n", "\r\n"):
        path.write_text("".join(rows), newline=newline)
        molecules = read_part(path, part_of(rows))
        np.testing.assert_array_equal(molecules.positions, qm9.subset(range(20)).positions)
        np.testing.assert_array_equal(molecules.smiles, qm9.smiles[:20])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("],[", "x],[", "could not convert string to float: "),
        ("[[", "[[nan,", "not a finite number: nan"),
        ("'C'", "'Si'", "unknown element 'Si', QM9 has H C N O F"),
        ("['C',", "['C','H',", "elements and"),
        ("[[", "[[0.5,", "coordinates, 3 expected"),
        ('"dsgdb9nsd', '"more","dsgdb9nsd', "26 columns, expected 25"),
        ('"', "", "columns, expected 25"),
        (",10,", ",9,", "Index 9 follows 9"),
    ],
)
def test_an_edited_row_is_named_with_its_fault(rows, tmp_path, old, new, message):
    path, part, row = tmp_path / "qm9_part1.csv", part_of(rows), 11  # molecule 10, acetonitrile, stands in row 11
    assert old in rows[row - 1]
    rows[row - 1] = rows[row - 1].replace(old, new) if old == '"' else rows[row - 1].replace(old, new, 1)
    path.write_text("".join(rows))
    with pytest.raises(MolflowError) as caught:
        read_part(path, part)
    assert f"{path}, row 11: " in str(caught.value)
    assert message in str(caught.value)
    assert "pip install --force-reinstall" in str(caught.value)


@pytest.mark.parametrize("row", [1, 2, 11, 21])
def test_an_edit_that_still_parses_is_found_too(rows, tmp_path, row):
    path, part = tmp_path / "qm9_part1.csv", part_of(rows)
    place = rows[row - 1].index("InChi" if row == 1 else "E" if "E" in rows[row - 1] else "InChI=")
    rows[row - 1] = rows[row - 1][:place] + "e" + rows[row - 1][place + 1 :]
    path.write_text("".join(rows))
    with pytest.raises(MolflowError, match=rf"qm9_part1\.csv, row {row}: differs from qm9pack 1\.0\.3"):
        read_part(path, part)


def test_many_edits_name_the_file(rows, tmp_path):
    path, part = tmp_path / "qm9_part1.csv", part_of(rows)
    path.write_text("".join(rows).replace("InChI=", "inchi="))
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv: differs"):
        read_part(path, part)


def test_one_digit_of_the_real_file(wheel, tmp_path):
    path, name = tmp_path / "qm9_part1.csv", "qm9_part1.csv"
    lines = (wheel / name).read_text().splitlines(keepends=True)
    lines[29_999] = lines[29_999].replace("[[0", "[[1", 1).replace("[[-0", "[[-1", 1)
    path.write_text("".join(lines))
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv, row 30000: differs"):
        read_part(path, WHEEL_PARTS[name])


def test_truncated_sources(rows, tmp_path):
    path, part = tmp_path / "qm9_part1.csv", part_of(rows)
    path.write_text("".join(rows[:10]))
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv: ends at row 10, expected 21 rows"):
        read_part(path, part)
    path.write_text("".join(rows)[:-300])  # in the middle of a row
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv, row 21: "):
        read_part(path, part)
    path.write_text("")
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv: ends at row 0"):
        read_part(path, part)
    path.write_text("a,b\n")
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv, row 1: no column .*XYZ_Ang"):
        read_part(path, part)
    with pytest.raises(MolflowError, match=r"qm9_part1\.csv: cannot be read: No such file"):
        read_wheel(tmp_path / "nowhere")


def test_missing_wheel(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "distribution", missing)
    with pytest.raises(MolflowError, match=r'pip install "molflow\[qm9\]"'):
        read_wheel()


def test_the_wheel_is_not_imported(qm9):
    assert "qm9pack" not in sys.modules


# PyG


def as_pyg(molecules: MoleculeSet) -> list[Data]:
    """What ``torch_geometric.datasets.QM9`` makes of these molecules."""
    targets = torch.zeros(len(molecules), 19, dtype=torch.float64)
    for name, p in PROPERTIES.items():
        targets[:, p.pyg_target] = torch.from_numpy(molecules.properties[name])
    targets = targets.float() * conversion
    return [
        Data(
            pos=torch.tensor(positions),
            z=torch.tensor(atomic_numbers, dtype=torch.long),
            y=targets[i : i + 1],
            idx=int(molecules.properties["gdb9_index"][i]) - 1,
            smiles=str(molecules.smiles[i]),
        )
        for i, (positions, atomic_numbers, _) in enumerate(molecules.structures())
    ]


def test_both_sources_give_the_same_set(qm9):
    wheel = qm9.subset([0, 5, 99, 50_000, 130_830])
    pyg = from_pyg(as_pyg(wheel))
    for name in ("positions", "atomic_numbers", "n_atoms", "smiles"):
        np.testing.assert_array_equal(getattr(pyg, name), getattr(wheel, name))
    assert pyg.properties.keys() == wheel.properties.keys()
    for name, values in wheel.properties.items():
        np.testing.assert_allclose(pyg.properties[name], values, rtol=3e-7)  # PyG keeps float32


def test_pyg_reads_its_own_collated_data(qm9, tmp_path):
    """Through InMemoryDataset, as the real data set is stored."""
    from torch_geometric.data import InMemoryDataset

    dataset = InMemoryDataset(str(tmp_path))
    dataset.data, dataset.slices = dataset.collate(as_pyg(qm9.subset(range(10))))
    np.testing.assert_array_equal(from_pyg(dataset).positions, qm9.subset(range(10)).positions)


def test_failed_download(monkeypatch, tmp_path):
    def refused(root):
        raise OSError("HTTP Error 403: Forbidden")

    monkeypatch.setattr("torch_geometric.datasets.QM9", refused)
    with pytest.raises(MolflowError, match=r'could not download QM9 .*403: Forbidden.*pip install "molflow\[qm9\]"'):
        prepare_qm9("pyg", tmp_path)
    assert not cache_path("qm9", tmp_path).exists()


# the cache


def test_incomplete_sources_are_not_cached(qm9, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "read_wheel", lambda progress: qm9.subset(range(100)))
    with pytest.raises(MolflowError, match="100 molecules, QM9 has 130,831"):
        prepare_qm9(cache_dir=tmp_path)
    monkeypatch.setattr(module, "read_wheel", lambda progress: qm9.subset(slice(None, None, -1)))
    with pytest.raises(MolflowError, match="order of their GDB9 index"):
        prepare_qm9(cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_prepare_once_and_by_force(qm9, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(module, "read_wheel", lambda progress: calls.append(1) or qm9)
    path = prepare_qm9(cache_dir=tmp_path / "new" / "folder")
    assert path == cache_path("qm9", tmp_path / "new" / "folder")
    prepare_qm9(cache_dir=path.parent)
    assert len(calls) == 1
    prepare_qm9(cache_dir=path.parent, force=True)
    assert len(calls) == 2
    np.testing.assert_array_equal(load_qm9(cache_dir=path.parent).positions, qm9.positions)


def test_damaged_cache(qm9, tmp_path):
    path = cache_path("qm9", tmp_path)
    qm9.subset(range(100)).save(path)
    with pytest.raises(MolflowError, match=r"qm9\.npz: 100 molecules, .*; rerun: molflow data qm9 --force"):
        load_qm9(cache_dir=tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MolflowError, match=r"qm9\.npz: not a readable NPZ .*; rerun: molflow data qm9 --force"):
        load_qm9(cache_dir=tmp_path)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "env"))
    assert cache_path("qm9") == tmp_path / "env" / "qm9.npz"
    assert cache_path("qm9", tmp_path) == tmp_path / "qm9.npz"
    (tmp_path / "file").write_text("")
    with pytest.raises(MolflowError, match="cannot be created"):
        prepare_qm9(cache_dir=tmp_path / "file" / "folder")
    with pytest.raises(MolflowError, match="'web', accepted: wheel, pyg"):
        prepare_qm9("web", tmp_path)
