"""Parquet files: rows written in groups, and molecules read from the columns positions and atomic_numbers.

pyarrow, of the extra `parquet`, is loaded when it is used.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from molflow.chem.structure import Structure, structure_error
from molflow.errors import MolflowError
from molflow.extras import import_extra
from molflow.files import Closing

_AT_ONCE = 1024  # molecules read together
_LARGEST_GROUP = 2 << 30  # bytes of a group when it is unpacked
_WHAT = "a Parquet file"
_MOLECULE = ("positions", "atomic_numbers")
_TYPES = {int: "int64", float: "float64", bool: "bool_", str: "string"}


def load_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet; raises MolflowError if they are not installed."""
    return import_extra("pyarrow", "parquet", _WHAT), import_extra("pyarrow.parquet", "parquet", _WHAT)


class RowWriter(Closing):
    """Write rows to a Parquet file in groups.

    Args:
        path: the file.
        columns: name and type (str, bool, int or float) of each column.
        molecules: begin each row with positions, list of float32[3], and atomic_numbers, list of uint8.
        group: rows in one group, which are in memory until they are written.
    """

    def __init__(self, path: Path, columns: Mapping[str, type], molecules: bool = False, group: int = 10_000) -> None:
        arrow, parquet = load_pyarrow()
        kinds = (arrow.list_(arrow.list_(arrow.float32(), 3)), arrow.list_(arrow.uint8())) if molecules else ()
        fields = [(name, getattr(arrow, _TYPES[kind])()) for name, kind in columns.items()]
        self._schema = arrow.schema([*zip(_MOLECULE, kinds, strict=False), *fields])
        self._group = group
        self._make = arrow.Table.from_pylist
        self._file = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, object]] = []

    def write(self, row: Mapping[str, object], structure: Structure | None = None) -> None:
        """Append a row; columns that it lacks are empty."""
        molecule = () if structure is None else (structure.positions.tolist(), structure.atomic_numbers.tolist())
        self._rows.append({**dict(zip(_MOLECULE, molecule, strict=False)), **row})
        if len(self._rows) == self._group:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        rows, self._rows = self._rows, []  # first, as an interrupt may follow the writing
        if rows:
            self._file.write_table(self._make(rows, self._schema))


def has_molecules(path: Path) -> bool:
    """Whether a Parquet file has columns of molecules; True as well if it cannot be read, so that a reader says why."""
    try:
        return set(_MOLECULE) <= set(load_pyarrow()[1].read_schema(path).names)
    except (OSError, MolflowError, ValueError):
        return True


def parquet_structures(path: Path) -> Iterator[Structure | str]:
    """Read the molecules of a Parquet file one by one; a text is the problem of a molecule that is not accepted.

    Raises:
        MolflowError: no pyarrow, a damaged file, or one without positions and atomic_numbers.
    """
    arrow, parquet = load_pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            if not set(_MOLECULE) <= set(file.schema_arrow.names):
                names = ", ".join(file.schema_arrow.names)
                raise MolflowError(f"{path}: expected the columns positions and atomic_numbers, got {names}")
            largest = max((file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups)), default=0)
            if largest > _LARGEST_GROUP:
                raise MolflowError(f"{path}: a row group unpacks to {largest / 1e9:.1f} GB; write smaller groups")
            if not file.metadata.num_rows:
                raise MolflowError(f"{path}: no molecules in the file; expected at least one")
            for batch in file.iter_batches(_AT_ONCE, columns=list(_MOLECULE)):
                yield from map(_structure, *(batch.column(name) for name in _MOLECULE))
    except (OSError, arrow.ArrowException) as error:
        raise MolflowError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())}") from error


def _structure(positions: Any, atomic_numbers: Any) -> Structure | str:
    try:
        x = np.asarray(positions.values.flatten().to_numpy(zero_copy_only=False)).reshape(-1, 3)
        z = np.asarray(atomic_numbers.values.to_numpy(zero_copy_only=False))
        structure = Structure(x if x.dtype == np.float32 else x.astype(np.float64), z.astype(np.int64))
    except (AttributeError, TypeError, ValueError):
        return "expected positions (n, 3) and whole atomic_numbers (n,)"
    return structure_error(structure) or structure
