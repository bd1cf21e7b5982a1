"""The registry of data sets: names, configurations, splits, conditions, and a data set that a user adds."""

import re
import subprocess
import sys
from typing import Annotated

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from molflow.config import Config, parse
from molflow.data import DATASETS, DataConfig, DataSetConfig, Loaded, MoleculeSet, default_data, load_qm9, read_vectors
from molflow.data.registry import prepared_names
from molflow.data.vectors import save_vectors
from molflow.energies import ENERGIES, DoubleWell, System
from molflow.errors import MolflowError

BUILT_IN = ("qm9", "dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered")


class Experiment(Config):
    data: DataConfig = default_data()


def data_set(**table):
    return parse(Experiment, {"data": table}, "a.toml").data


def test_names():
    assert prepared_names()[: len(BUILT_IN)] == BUILT_IN
    assert {*BUILT_IN, "particles", "vectors"} <= set(DATASETS.names())
    for name in DATASETS.names():
        assert DATASETS[name].kind == name
        assert DATASETS[name].task in ("molecules", "particles", "vectors")


def test_listing_names_imports_nothing_heavy():
    script = """
import sys
from molflow.data.registry import prepared_names
assert "lj13" in prepared_names()
print(sorted({"torch", "numpy", "pydantic"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_chooses_by_name():
    assert data_set() == Experiment().data == DATASETS["qm9"]()
    assert data_set(name="dw4").name == "dw4"
    assert data_set(name="dw4") != data_set(name="lj13")
    again = Experiment.model_validate(Experiment(data=data_set(name="lj13", file="a.npy")).model_dump(mode="json"))
    assert (again.data.name, again.data.file.name) == ("lj13", "a.npy")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "qm8"}, "a.toml: data.name: unknown data set 'qm8'; did you mean qm9? Known are: qm9, dw4"),
        ({"name": "qm9", "file": "a.npy"}, "a.toml: unknown key data.file"),
        ({"name": "particles"}, "a.toml: data.file is missing"),
        ({"name": "dw4", "fil": "a.npy"}, "a.toml: unknown key data.fil; did you mean data.file?"),
    ],
)
def test_invalid_tables_are_refused(table, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        data_set(**table)


def test_qm9_has_its_properties_as_conditions(qm9):
    loaded = data_set(condition=["gap", "dipole"]).load("test")
    test = load_qm9("test")
    assert np.array_equal(loaded.data.positions, test.positions)
    assert loaded.condition.dtype == torch.float32
    np.testing.assert_allclose(loaded.condition[:, 0], test.properties["gap"], rtol=1e-6)
    np.testing.assert_allclose(loaded.condition[:, 1], test.properties["dipole"], rtol=1e-6)
    assert data_set().load("test").condition is None
    with pytest.raises(MolflowError, match="qm9: has no quantity 'mu', only gdb9_index, dipole"):
        data_set(condition=["mu"]).load("test")
    with pytest.raises(MolflowError, match="unknown split 'all' of qm9, accepted: train, validation, test"):
        data_set().load("all")


@pytest.mark.usefixtures("few_particles")
def test_every_energy_is_a_data_set():
    """Also one that is registered after the data sets were imported."""
    name = "wells"
    if name not in ENERGIES:
        ENERGIES.register(name)(lambda: System(name, DoubleWell(), start_width=2.0))
    assert name in prepared_names()
    chosen = data_set(name=name)
    assert isinstance(chosen.system().energy, DoubleWell)
    assert chosen.load("validation").data.shape == (1000, 4, 2)
    record = chosen.describe()
    assert (record["name"], record["n_train"], record["n_particles"]) == (name, 1000, 4)


def test_a_users_configurations(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3, 2))
    np.savez(tmp_path / "a.npz", positions=x, temperature=np.arange(50))
    chosen = data_set(name="particles", file=str(tmp_path / "a.npz"), condition=["temperature"])
    training, validation = chosen.load("train"), chosen.load("validation")
    assert (training.data.shape, validation.data.shape) == ((45, 3, 2), (5, 3, 2))
    every = torch.cat([training.condition, validation.condition])
    assert sorted(every.flatten().tolist()) == list(range(50))
    row = int(validation.condition[0])
    torch.testing.assert_close(validation.data[0].numpy(), (x - x.mean(1, keepdims=True))[row].astype(np.float32))
    with pytest.raises(MolflowError, match="unknown split 'test' of particles, accepted: train, validation"):
        chosen.load("test")
    assert chosen.split_text(45) == "45 configurations of a.npz"


@pytest.mark.parametrize("shape", [(49,), (51,), (50, 1), ()])
def test_conditions_of_another_number_than_configurations_are_refused(tmp_path, shape):
    np.savez(tmp_path / "a.npz", positions=np.random.default_rng(0).normal(size=(50, 3, 2)), t=np.ones(shape))
    with pytest.raises(MolflowError, match=r"a.npz: t: expected one number for each of 50 data, got \("):
        data_set(name="particles", file=str(tmp_path / "a.npz"), condition=["t"]).load("train")


def test_vectors_of_an_npz_file(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100.0)
    np.savez(tmp_path / "a.npz", x=x, condition=y)
    chosen = data_set(name="vectors", file=str(tmp_path / "a.npz"), condition=["y"])
    splits = {split: chosen.load(split) for split in ("train", "validation", "test")}
    assert {split: len(each.data) for split, each in splits.items()} == {"train": 80, "validation": 10, "test": 10}
    for each in splits.values():
        np.testing.assert_allclose(each.data, x[each.condition[:, 0].long()], rtol=1e-6)
    assert sorted(torch.cat([each.condition for each in splits.values()]).flatten().tolist()) == y.tolist()
    assert data_set(name="vectors", file=str(tmp_path / "a.npz")).load("test").condition is None


def test_vectors_of_a_parquet_file(tmp_path):
    table = {"a": np.arange(12.0), "b": np.arange(12) % 3, "name": [str(k) for k in range(12)]}
    parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    x, condition = read_vectors(tmp_path / "a.parquet", ("a",), ("b",))
    assert (x[:, 0].tolist(), condition[:, 0].tolist()) == (table["a"].tolist(), table["b"].tolist())
    with pytest.raises(MolflowError, match=r"a\.parquet: name: expected numbers, got object values"):
        read_vectors(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(MolflowError, match=r"b\.parquet: not a readable Parquet file"):
        read_vectors(tmp_path / "b.parquet")


def test_arrays_are_written_as_a_file_that_is_read(tmp_path):
    x, y = torch.randn(12, 2), torch.randn(12, 3)
    save_vectors(tmp_path / "new" / "a.npz", x, y)
    again, condition = read_vectors(tmp_path / "new" / "a.npz", condition=("a", "b", "c"))
    assert torch.equal(again, x)
    assert torch.equal(condition, y)
    with pytest.raises(MolflowError, match=r"expected vectors \(n, F\) and conditions \(n, C\), got \(12, 2\) and"):
        save_vectors(tmp_path / "b.npz", x, y[:3])


def test_vectors_of_other_files(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0))
    assert read_vectors(tmp_path / "a.npy")[0].shape == (12, 1)
    (tmp_path / "a.csv").write_text("a, b,c\n1,2,3\n4,5,6\n\n7,8,9\n")
    x, condition = read_vectors(tmp_path / "a.csv", condition=("b",))
    assert (x.tolist(), condition.tolist()) == ([[1, 3], [4, 6], [7, 9]], [[2], [5], [8]])
    assert read_vectors(tmp_path / "a.csv", ("c", "a"))[0].tolist() == [[3, 1], [6, 4], [9, 7]]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("a,b\n1,2\n3\n", (), "a.csv, line 3: expected 2 values, got 1"),
        ("a,b\n1,x\n", (), "a.csv, line 2: could not convert string to float: 'x'"),
        ("a,b\n1,nan\n", (), "a.csv, row 0: b: expected finite numbers in float32"),
        ("a,b\n1,2\n1,1e300\n", (), "a.csv, row 1: b: expected finite numbers in float32"),
        ("a,a\n1,2\n", (), "a.csv: expected a header with different names, got a, a"),
        ("", (), "a.csv: expected a header with different names, got none"),
        ("a,b\n1,2\n", (("c",),), "a.csv: has no quantity 'c'"),
        ("a\n1\n", ((), ("a",)), "a.csv: has no columns beside those of the condition"),
    ],
)
def test_bad_csv_files(tmp_path, content, arguments, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(MolflowError, match=re.escape(message)):
        read_vectors(tmp_path / "a.csv", *arguments)


@pytest.mark.parametrize(
    ("arrays", "condition", "message"),
    [
        ({"y": np.zeros(3)}, (), "a.npz: has no array 'x', only y"),
        ({"x": np.zeros((3, 2, 2))}, (), "x: expected numbers of shape (n, k), got float64 (3, 2, 2)"),
        ({"x": np.array(["a"])}, (), "x: expected numbers of shape (n, k)"),
        ({"x": np.array([0.0, np.inf])}, (), "a.npz, row 1: x: expected finite numbers"),
        ({"x": np.zeros(3), "condition": np.zeros((3, 2))}, ("a",), "condition: expected shape (3, 1)"),
        ({"x": np.zeros(3)}, ("a",), "a.npz: has no array 'condition', only x"),
    ],
)
def test_bad_vectors(tmp_path, arrays, condition, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(MolflowError, match=re.escape(message)):
        read_vectors(tmp_path / "a.npz", condition=condition)


def test_too_few_data(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((9, 2)))
    with pytest.raises(MolflowError, match=r"a\.npy: expected at least 10 data, got 9"):
        data_set(name="vectors", file=str(tmp_path / "a.npy")).load("train")


def test_a_data_set_of_a_user():
    """One class in one file: it is listed, chosen by name, and its settings are checked."""

    class Water(DataSetConfig):
        task = "molecules"
        angle: Annotated[float, "degrees"] = 104.5

        def load(self, split):
            half = np.deg2rad(self.angle) / 2
            hydrogens = [[np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]]
            positions = np.tile(np.array([[0, 0, 0], *hydrogens]) * 0.96, (4, 1))
            return Loaded(MoleculeSet(positions, [8, 1, 1] * 4, [3] * 4))

    if "water" not in DATASETS:
        DATASETS.register("water")(Water)
    chosen = data_set(name="water", angle=110.0)
    assert chosen.load("train").data.batch([0]).positions.shape == (1, 3, 3)
    assert chosen.describe() == {"n_train": 4, "n_validation": 4, "n_test": 4}
    assert chosen.model_dump() == {"name": "water", "condition": (), "angle": 110.0}
    with pytest.raises(MolflowError, match=r"unknown key data\.angel; did you mean data\.angle\?"):
        data_set(name="water", angel=1)
