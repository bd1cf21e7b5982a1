"""SMILES in text files: one on each line (.smi), or in a column of a table (.csv), also gzipped."""

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from molflow.errors import MolflowError

_SUFFIXES = (".smi", ".smiles", ".csv")


def holds_smiles(path: Path) -> bool:
    """Whether the suffix of a file is that of SMILES."""
    return _suffix(path) in _SUFFIXES


def read_smiles(path: Path, column: str) -> Iterator[tuple[int, str, str, dict[str, str]]]:
    """Number, name, SMILES and columns of each molecule of a file.

    Raises:
        MolflowError: a file that cannot be read, or a .csv file without the column.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            if _suffix(path) != ".csv":
                for number, line in enumerate(filter(str.strip, file), 1):
                    smiles, _, name = (
                        line.strip().partition(" ") if " " in line.strip() else line.strip().partition("\t")
                    )
                    yield number, name.strip(), smiles, {}
                return
            reader = csv.DictReader(file)
            names = {name.strip().lower(): name for name in reader.fieldnames or ()}
            if column.lower() not in names:
                raise MolflowError(
                    f"{path}: has no column {column!r}, only {', '.join(reader.fieldnames or ()) or 'none'}; "
                    "name the one with SMILES in smiles_column"
                )
            for number, row in enumerate(reader, 1):
                fields = {name: text or "" for name, text in row.items() if name is not None}
                yield number, fields.get(names.get("name", ""), ""), fields[names[column.lower()]].strip(), fields
    except (OSError, EOFError) as error:
        raise MolflowError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MolflowError(f"{path}: not a text file of SMILES: {error}") from error


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
