"""Vectors in a user's file, with or without a condition."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from molflow.data.base import DataSetConfig, Loaded, Split, columns, hold_out
from molflow.data.files import read_array, save_arrays
from molflow.data.registry import DATASETS
from molflow.errors import MolflowError
from molflow.extras import import_extra


@DATASETS.register("vectors")
class VectorFile(DataSetConfig):
    """Vectors x (n, F) in a user's file; a tenth each is held out for validation and for testing.

    A .npy file holds x. An .npz file holds `x`, and for a conditional model `condition` (n, C), whose columns
    `condition` names in their order. In a .csv file with a header, or a .parquet file, `columns` and `condition` name
    its columns.

    Example:
        [data]
        name = "vectors"
        file = "simulations.csv"
        columns = ["mass", "radius"]
        condition = ["flux"]
    """

    task = "vectors"
    file: Path = Field(description=".npz with `x` (and `condition`), .npy, .parquet, or .csv with a header")
    columns: tuple[str, ...] = Field((), description="tables: columns of x; by default all but the conditions")

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        x, condition = read_vectors(self.file, self.columns, self.condition)
        chosen = hold_out(len(x), split, self.splits, str(self.file))
        return Loaded(x[chosen], None if condition is None else condition[chosen])

    def split_text(self, n_training: int) -> str:
        return f"{n_training:,} vectors of {self.file.name}"


@DATASETS.register("simulations")
class SimulationFile(VectorFile):
    """Parameters as vectors and observations as condition; a tenth is held out for validation, none for testing."""

    splits = ("train", "validation")

    def split_text(self, n_training: int) -> str:
        return f"{n_training:,} simulations"


def read_vectors(
    path: Path, names: tuple[str, ...] = (), condition: tuple[str, ...] = ()
) -> tuple[Tensor, Tensor | None]:
    """Vectors (n, F) of a file, float32, and their condition (n, C) or None; see `VectorFile`.

    Args:
        path: a .csv, .npy, .npz or .parquet file.
        names: of the columns or arrays to take; all by default.
        condition: names of those that are the condition.

    Raises:
        MolflowError: a file or a column that is missing, another shape, or values that are not finite numbers.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("mine.csv").write_text("a,b,c\\n1,2,3\\n4,5,6\\n")
        >>> x, condition = read_vectors(pathlib.Path("mine.csv"), ("a", "b"), ("c",))
        >>> x.tolist(), condition.tolist()
        ([[1.0, 2.0], [4.0, 5.0]], [[3.0], [6.0]])
    """
    if read := {".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower()):
        table = read(path)
        x = columns(table, names or tuple(name for name in table if name not in condition), str(path))
        if x is None:
            raise MolflowError(f"{path}: has no columns beside those of the condition")
        return x, columns(table, condition, str(path))
    if names:
        raise MolflowError(f"{path}: data.columns is for .csv and .parquet files")
    x = _matrix(path, "x")
    if not condition:
        return x, None
    values = _matrix(path, "condition")
    if values.shape != (len(x), len(condition)):
        raise MolflowError(
            f"{path}: condition: expected shape {(len(x), len(condition))} for x and the names "
            f"{', '.join(condition)}, got {tuple(values.shape)}"
        )
    return x, values


def _matrix(path: Path, key: str) -> Tensor:
    """An array of finite numbers, float32 (n, k); an array (n,) is one column."""
    array = read_array(path, key, npy="x")
    if array.dtype.kind not in "fiub" or array.ndim not in (1, 2) or 0 in array.shape:
        raise MolflowError(f"{path}: {key}: expected numbers of shape (n, k), got {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):  # values that overflow are refused below
        array = array.reshape(len(array), -1).astype(np.float32)
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise MolflowError(f"{path}, row {int(finite.argmin())}: {key}: expected finite numbers in float32")
    return torch.from_numpy(array)


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers with a header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [_numbers(path, reader.line_num, row, len(header)) for row in reader if row]
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MolflowError(f"{path}: not a CSV file: {error}") from error
    if not header or len(set(header)) < len(header):
        raise MolflowError(f"{path}: expected a header with different names, got {', '.join(header) or 'none'}")
    return dict(zip(header, np.array(rows, dtype=np.float64).reshape(-1, len(header)).T, strict=True))


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file."""
    what = f"{path}: reading Parquet"
    pyarrow, parquet = (import_extra(module, "parquet", what) for module in ("pyarrow", "pyarrow.parquet"))
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise MolflowError(f"{path}: not a readable Parquet file: {error}") from error
    return {name: table[name].to_numpy() for name in table.column_names}


def save_vectors(path: Path, x: Any, condition: Any = None) -> None:
    """Write vectors (n, F), and their condition (n, C) if there is one, as an .npz file that `VectorFile` reads.

    Raises:
        MolflowError: arrays of another shape or of different length, or a file that cannot be written.
    """
    arrays = {"x": np.asarray(x)} | ({} if condition is None else {"condition": np.asarray(condition)})
    if any(array.ndim != 2 or len(array) != len(arrays["x"]) for array in arrays.values()):
        shapes = " and ".join(str(array.shape) for array in arrays.values())
        raise MolflowError(f"expected vectors (n, F) and conditions (n, C), got {shapes}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MolflowError(f"{path.parent}: cannot be created: {error.strerror}") from error
    save_arrays(path, arrays)


def _numbers(path: Path, line: int, row: list[str], width: int) -> list[float]:
    if len(row) != width:
        raise MolflowError(f"{path}, line {line}: expected {width} values, got {len(row)}")
    try:
        return [float(word) for word in row]
    except ValueError as error:
        raise MolflowError(f"{path}, line {line}: {error}") from error
