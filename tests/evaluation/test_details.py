"""Tables and SDF files of per-molecule results agree with the reports."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from molflow.chem import Record, Structure, read_structures
from molflow.errors import MolflowError
from molflow.evaluation import DetailWriter, evaluate
from molflow.evaluation.details import COLUMNS

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
SELENIDE = Structure(np.array([[0, 0, 0], [1.46, 0, 0], [-0.05, 1.46, 0]]), np.array([34, 1, 1]))
UNREADABLE = Record("mine.sdf", 7, 191, None, "line 191: unknown element 'Xx', not \"H\"")
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))
ITEMS = [*read_structures(QM9)[:20], UNREADABLE, SELENIDE, CROWDED]


def written(path, **options):
    """The reports, and the file that tells of them."""
    reports = []
    with DetailWriter(path) as details:
        for report, structure in pairs(**options):
            details.write(report, structure)
            reports.append(report)
    return reports


def pairs(**options):
    found = []
    evaluate(ITEMS, each=lambda *pair: found.append(pair), **options)
    return found


def rows_of(path):
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("options", [{"strain": "mmff94"}, {"scope": "lookup"}], ids=["all", "lookup"])
def test_a_table_has_a_row_for_every_record(tmp_path, suffix, options):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"a{suffix}"
    reports = written(path, **options)
    rows = rows_of(path)
    assert len(rows) == len(ITEMS)
    assert rows[0].keys() == set(COLUMNS)
    for row, report in zip(rows, reports, strict=True):
        expected = report.to_dict()
        if suffix == ".csv":
            expected = {name: "" if value is None else str(value) for name, value in expected.items()}
        assert row == expected
    assert [row["status"] for row in rows[20:]] == ["unreadable", "unsupported", "invalid"]
    assert (str(rows[20]["record"]), rows[20]["source"], rows[20]["reason"]) == ("7", "mine.sdf", UNREADABLE.error)


def test_parquet_is_written_in_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("molflow.evaluation.details._ROWS", 10)
    written(tmp_path / "a.parquet", scope="lookup")
    assert parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    assert len(rows_of(tmp_path / "a.parquet")) == len(ITEMS)


def test_an_sdf_has_the_molecules_and_why_they_failed(tmp_path):
    from rdkit import Chem

    path = tmp_path / "a.sdf"
    reports = [report for report in written(path) if report.status != "unreadable"]
    molecules = list(Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False))
    assert len(molecules) == len(reports) == len(ITEMS) - 1
    for mol, report in zip(molecules, reports, strict=True):
        applies = {name: value for name, value in report.to_dict().items() if value not in (None, "")}
        texts = {name: str(int(value) if isinstance(value, bool) else value) for name, value in applies.items()}
        assert mol.GetPropsAsDict(autoConvertStrings=False) == texts
        flags = {name: value for name, value in applies.items() if isinstance(value, bool)}
        assert flags.items() <= mol.GetPropsAsDict().items()  # 1 and 0 are read back as numbers
    assert molecules[-1].GetProp("reason").endswith("valence 2, expected 1")
    again = read_structures(path)
    for structure, (_, before) in zip(again, [pair for pair in pairs() if pair[1] is not None], strict=True):
        np.testing.assert_allclose(structure.positions, before.positions, atol=1e-4)


def test_rows_written_before_an_error_are_kept(tmp_path):
    path = tmp_path / "a.csv"

    def write(report, structure):
        details.write(report, structure)
        if report.record == 5:
            raise KeyboardInterrupt

    with DetailWriter(path) as details, pytest.raises(KeyboardInterrupt):
        evaluate(ITEMS, scope="lookup", each=write)
    assert len(rows_of(path)) == 5


@pytest.mark.parametrize("suffix", [".csv", ".sdf"])
def test_a_full_disk_is_named_with_what_is_whole(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="cannot be written") as caught, DetailWriter(path) as details:
        evaluate(ITEMS, scope="lookup", each=details.write)
    assert caught.value.filename == str(path)
    whole = "its first 0 molecules are whole"
    assert caught.value.strerror == f"cannot be written (No space left on device); {whole}"


def test_an_unwritable_file_is_an_early_error(tmp_path, monkeypatch):
    with pytest.raises(MolflowError, match=r"unknown suffix '\.xls'; accepted are \.csv \.parquet \.sdf"):
        DetailWriter(tmp_path / "a.xls")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MolflowError, match=r"needs pyarrow: pip install 'molflow\[parquet\]'"):
        DetailWriter(tmp_path / "a.parquet")
