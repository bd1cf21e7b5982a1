"""SMILES in text files: one on each line (.smi), or in a column of a table (.csv), also gzipped."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from molflow.errors import MolflowError, printable

_SUFFIXES = (".smi", ".smiles", ".csv")
_LONGEST = 1 << 16  # characters of a line


def holds_smiles(path: Path) -> bool:
    """Whether the suffix of a file is that of SMILES."""
    return _suffix(path) in _SUFFIXES


def smiles_files(folder: Path) -> list[Path]:
    """Files of a folder that list SMILES alone; a table beside other files may be anything."""
    return sorted(path for path in folder.iterdir() if _suffix(path) in _SUFFIXES[:2] and not path.name.startswith("."))


def read_smiles(path: Path, column: str) -> Iterator[tuple[int, str, str, dict[str, str]]]:
    """Number, name, SMILES and columns of each molecule of a file.

    Raises:
        MolflowError: a file that cannot be read, or a .csv file without the column.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            if _suffix(path) != ".csv":
                for number, line in enumerate(filter(None, map(str.strip, _lines(path, file))), 1):
                    smiles, *name = line.split(None, 1)
                    yield number, printable("".join(name)), smiles, {}
                return
            reader = csv.DictReader(file)
            reader.fieldnames = header = [printable(name).strip() for name in reader.fieldnames or ()]
            if twice := next((name for name in header if name and header.count(name) > 1), None):
                raise MolflowError(f"{path}: has several columns {twice!r}; expected different names")
            names = {name.lower(): name for name in reversed(header)}
            of_smiles = column if column in header else names.get(column.lower())
            if of_smiles is None:
                raise MolflowError(
                    f"{path}: has no column {column!r}, only {', '.join(header) or 'none'}; "
                    "name the one with SMILES in smiles_column"
                )
            for number, row in enumerate(reader, 1):
                fields = {name: printable(text or "") for name, text in row.items() if name is not None}
                yield number, fields.get(names.get("name", ""), ""), fields[of_smiles].strip(), fields
    except (OSError, EOFError, zlib.error) as error:
        raise MolflowError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MolflowError(f"{path}: not a text file of SMILES: {error}") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file. Raises MolflowError for one that is too long to be a SMILES and would fill the memory."""
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise MolflowError(f"{path}: has a line of {_LONGEST:,} characters; expected a SMILES and a name")
        yield line


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix
