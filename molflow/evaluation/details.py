"""Write per-molecule results as they arrive: rows of a table, or records of an SDF with properties."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, get_args, get_type_hints

from molflow.chem.io import Structure, StructureWriter
from molflow.chem.parquet import RowWriter, load_pyarrow
from molflow.chem.relaxation import Strain
from molflow.chem.structure import structure_error
from molflow.errors import MolflowError
from molflow.evaluation.reports import MoleculeReport
from molflow.evaluation.screening import Descriptors
from molflow.files import Closing, check_writable, csv_cell

SUFFIXES = (".csv", ".parquet", ".sdf")

COLUMNS = tuple(MoleculeReport(n_atoms=0, formula="", status="").to_dict())
"""Columns of a table, and names of the properties of an SDF."""

_ROWS = 10_000  # rows in one group of a Parquet file


class _Writer(Protocol):
    grows: bool  # what is written is in the file whatever happens next

    def write(self, report: MoleculeReport, structure: Structure | None) -> None: ...
    def close(self) -> None: ...


class DetailWriter(Closing):
    """Write the report on each molecule to a .csv, .parquet or .sdf file. After an interruption, the file is complete.

    A table has a row for every record, with the columns `COLUMNS`. Words and figures that do not apply are empty, and
    flags that do not apply are False. An SDF has the molecules with their look-up bonds and all values that are not
    empty as properties, flags as 1 or 0; it leaves out records that could not be read and molecules without finite
    coordinates.

    Pass its `write` to `molflow.evaluate` as `each`.

    Raises:
        MolflowError: an unknown suffix, a path that cannot be written, or Parquet without pyarrow.
        OSError: the disk is full; it names the file and the number of molecules that are whole.

    Example:
        >>> import pathlib
        >>> batch = molflow.load_pretrained("qm9").sample(3, seed=0)
        >>> with DetailWriter("molecules.csv") as details:
        ...     scores = molflow.evaluate(batch, reference=None, each=details.write, workers=0)
        >>> len(pathlib.Path("molecules.csv").read_text().splitlines())
        4
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_details(path)
        self.path = Path(path)
        self._writer: _Writer = _WRITERS[self.path.suffix.lower()](self.path)
        self._count = 0

    def write(self, report: MoleculeReport, structure: Structure | None) -> None:
        """Append one molecule."""
        with self._naming():
            self._writer.write(report, structure)
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        with self._naming():
            self._writer.close()

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Let an error of writing name the file, and how much of it is whole."""
        try:
            yield
        except OSError as error:
            whole = f"; its first {self._count:,} molecules are whole" if self._writer.grows else ""
            cause = f"cannot be written ({error.strerror or error}){whole}"
            raise OSError(error.errno, cause, str(self.path)) from error


def check_details(path: str | os.PathLike[str]) -> None:
    """Fail early: raise MolflowError if a `DetailWriter` cannot be made for a path."""
    check_suffix(path)
    if Path(path).suffix.lower() == ".parquet":
        load_pyarrow()
    check_writable(path)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise MolflowError for a suffix that a `DetailWriter` does not know."""
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise MolflowError(f"{path}: unknown suffix {suffix!r}; accepted are {' '.join(SUFFIXES)}")


class _Csv:
    grows = True

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._rows.writeheader()

    def write(self, report: MoleculeReport, structure: Structure | None) -> None:
        self._rows.writerow({name: csv_cell(value) for name, value in report.to_dict().items()})
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Parquet:
    grows = False

    def __init__(self, path: Path) -> None:
        self._rows = RowWriter(path, _kinds(), group=_ROWS)

    def write(self, report: MoleculeReport, structure: Structure | None) -> None:
        self._rows.write(report.to_dict())

    def close(self) -> None:
        self._rows.close()


class _Sdf:
    grows = True

    def __init__(self, path: Path) -> None:
        self._writer = StructureWriter(path)

    def write(self, report: MoleculeReport, structure: Structure | None) -> None:
        if structure is not None and structure_error(structure) is None:
            self._writer.write(structure, report.to_dict())

    def close(self) -> None:
        self._writer.close()


_WRITERS: dict[str, type[_Csv | _Parquet | _Sdf]] = dict(zip(SUFFIXES, (_Csv, _Parquet, _Sdf), strict=True))


def _kinds() -> dict[str, type]:
    """The type of the values in each column by its name."""
    strained = {f"strain_{name}": hint for name, hint in get_type_hints(Strain).items()}
    hints = get_type_hints(MoleculeReport) | get_type_hints(Descriptors) | strained
    hints |= {"posebusters_passed": bool, "posebusters_failed": str}
    plain = {name: (get_args(hints[name]) or (hints[name],))[0] for name in COLUMNS}
    return {name: kind if kind in (int, float, bool) else str for name, kind in plain.items()}
