"""Read molecules from SDF, XYZ and NPZ, from files, folders and standard input, record by record.

Bonds, formal charges and named values that a file states are kept beside positions and elements.
"""

import codecs
import gzip
import io
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from molflow.chem.arrays import npz_structures
from molflow.chem.lines import BadRecord, BrokenStream, Found, Lines, reason
from molflow.chem.parquet import has_molecules, parquet_structures
from molflow.chem.sdf import read_sdf
from molflow.chem.structure import Stated, Structure
from molflow.chem.xyz import read_xyz
from molflow.errors import MolflowError, printable

Reader = Callable[[Lines], Iterator[Found]]

STANDARD_INPUT = "-"
"""The path that means standard input."""

_READERS: dict[str, Reader] = {
    **dict.fromkeys((".sdf", ".sd", ".mol"), read_sdf),
    **dict.fromkeys((".xyz", ".extxyz"), read_xyz),
}
_TEXT = ".txt"  # XYZ as EDM writes it, or SDF
_TABLES: dict[str, Callable[[Path], Iterator[Structure | str]]] = {
    ".npz": npz_structures,
    ".parquet": parquet_structures,
}
_ACCEPTED = ".sdf .sd .xyz .npz .mol .extxyz .txt .parquet, and those that are text with .gz as well"
_WRITER_SECONDS = 60.0  # that a named pipe waits for a program to write to it
_SEEN_AHEAD = 5  # lines that reveal the format: the counts of an SDF are in the fourth

_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\v\f\r")


class Record(NamedTuple):
    """One record of a source of molecules: a structure, or the error that prevents reading it.

    Attributes:
        source: the file, or "standard input".
        number: the record's place in the file, from 1.
        line: the line where the record starts in a text file, from 1.
        structure: the molecule, or None.
        error: the problem with the record, naming line or atom; None if there is a structure.
        stated: bonds and charges that the file states, if it states any.
        fields: named texts that belong to the molecule: data fields of SDF, key=value pairs of XYZ.
        name: the title line of SDF.
    """

    source: str
    number: int
    line: int | None
    structure: Structure | None
    error: str | None
    stated: Stated | None = None
    fields: Mapping[str, str] = MappingProxyType({})
    name: str = ""

    @property
    def complaint(self) -> str:
        """The error together with its place."""
        return f"{self.source}, record {self.number}, {self.error}"


def read_structures(path: str | os.PathLike[str]) -> list[Structure]:
    """Read all molecules of a source; every record must be readable. Sources are those of `iter_records`.

    Args:
        path: the source.

    Raises:
        MolflowError: as `iter_records`, or for the first bad record, with file, record, line and cause.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("water.xyz").write_text("3\\n\\nO 0 0 0\\nH 0.96 0 0\\nH -0.24 0.93 0\\n")
        >>> read_structures("water.xyz")[0].positions.shape
        (3, 3)
    """
    structures = []
    for record in iter_records(path):
        if record.structure is None:
            raise MolflowError(record.complaint)
        structures.append(record.structure)
    return structures


def iter_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Read the molecules of a source one by one, with their hydrogens. A bad record does not affect the others.

    A source is one of these:

    - a file: SDF (V2000, V3000; .sdf, .sd, .mol) or XYZ (frames, plain or extended; .xyz, .extxyz, .txt), both also
      gzipped, NPZ as in `molflow.chem.arrays`, or Parquet with positions and atomic_numbers. Only NPZ is held in
      memory as a whole; it is never unpickled.
    - a folder: all such files in it are read in the order of their names, of .txt those that begin as XYZ or SDF. A
      pipe or a device in it is one bad record.
    - a named pipe, or "-" for standard input, with SDF or XYZ. A pipe waits a minute for its writer.

    Positions are in Å, float64 from text, float32 from NPZ or Parquet with float32. Bonds, formal charges and radicals
    of SDF and `charge=` of XYZ are `Record.stated`; further columns are ignored. After a bad record of SDF, reading
    continues at "$$$$" or at the next counts line; of XYZ, at the next count that is followed by atoms. If a stream
    breaks off, the molecules read so far are kept and one bad record is added. In a folder, a file that cannot be read
    is one bad record.

    Args:
        path: the source.

    Raises:
        MolflowError: on the first step, if nothing of the source can be read: it does not exist, is empty, binary or
            damaged from its start, or has an unknown suffix.

    Example:
        >>> [record.complaint for record in iter_records("mine.sdf") if record.error]  # doctest: +SKIP
        ["mine.sdf, record 7, line 191: unknown element 'Xx'; accepted are the symbols H to Og (atom 3 of 18)"]
    """
    path = Path(path)
    if str(path) == STANDARD_INPUT:
        yield from _text_records("standard input", 0, None)
    elif path.is_dir():
        yield from _folder_records(path)
    else:
        yield from _file_records(path)


def has_files_of_molecules(folder: Path) -> bool:
    """Whether `iter_records` finds a file to read in a folder. Raises MolflowError for one that cannot be read."""
    return bool(_files_of_molecules(folder))


def _files_of_molecules(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise MolflowError(f"{folder}: cannot be read ({reason(error)})") from error
    return [path for name in names if _has_molecules(path := folder / name)]


def _folder_records(folder: Path) -> Iterator[Record]:
    paths = _files_of_molecules(folder)
    if not paths:
        raise MolflowError(f"{folder}: is a directory without files of molecules; accepted are {_ACCEPTED}")
    for path in paths:
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise MolflowError("a pipe or a device; expected a file of molecules")
            yield from _file_records(path)
        except MolflowError as error:
            yield Record(_printable(path), 1, None, None, str(error).removeprefix(f"{path}: "))


def _has_molecules(path: Path) -> bool:
    """Whether a file of a folder should be read, by its suffix; .txt and .parquet also by what is in them."""
    if _suffix(path) == ".parquet" and path.is_file():
        return has_molecules(path)
    if _suffix(path) != _TEXT or not path.is_file():
        return _suffix(path) in (*_READERS, *_TABLES)
    try:
        with _open(str(path), path) as stream, _text(str(path), stream) as text:
            return _reader_for(str(path), Lines(text)) is not None
    except MolflowError:
        return False


def _file_records(path: Path) -> Iterator[Record]:
    suffix = _suffix(path)
    if not path.exists():
        raise MolflowError(f"{path}: no such file; expected a file of molecules")
    if path.is_dir():
        raise MolflowError(f"{path}: is a directory; expected a file of molecules")
    if suffix in _TABLES:
        for number, found in enumerate(_TABLES[suffix](path), start=1):
            structure, error = (None, found) if isinstance(found, str) else (found, None)
            yield Record(_printable(path), number, None, structure, error)
    elif path.is_file() and suffix not in (*_READERS, _TEXT):
        raise MolflowError(f"{path}: unknown suffix {path.suffix!r}; accepted are {_ACCEPTED}")
    else:
        yield from _text_records(_printable(path), path, _READERS.get(suffix))


def _printable(path: Path) -> str:
    """A path as text that can be printed, even if its bytes are not UTF-8."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _suffix(path: Path) -> str:
    """The suffix that names the format, without .gz, in lower case."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _text_records(source: str, place: Path | int, read: Reader | None) -> Iterator[Record]:
    """Read the records of a file or file descriptor; without `read`, its first lines reveal the format."""
    with _open(source, place) as stream, _text(source, stream) as text:
        lines = Lines(text)
        number = 0
        try:
            for line, found in (read or _reader_for(source, lines))(lines):
                number += 1
                if isinstance(found, BadRecord):
                    yield Record(source, number, line, None, printable(str(found)))
                else:
                    fields = {printable(name): printable(value) for name, value in found.fields.items()}
                    name = printable(found.name)
                    yield Record(source, number, line, found.structure, None, found.stated, fields, name)
        except BrokenStream as error:
            if not number:
                raise MolflowError(f"{source}: {error}") from error
            yield Record(source, number + 1, lines.number + 1, None, str(error))
        if not number:
            nothing = "no molecules in the file" if lines.number > 1 else "the file is empty"
            raise MolflowError(f"{source}: {nothing}; expected at least one molecule")


def _open(source: str, place: Path | int) -> io.BufferedReader:
    try:
        if isinstance(place, Path) and place.is_fifo():
            return open(_written_pipe(source, place), "rb")
        return open(place, "rb", closefd=isinstance(place, Path))
    except OSError as error:
        raise MolflowError(f"{source}: cannot be read ({reason(error)})") from error


def _written_pipe(source: str, path: Path) -> int:
    """The descriptor of a named pipe. Opening one blocks until a program writes to it, so a thread does it."""
    opened: list[int] = []
    thread = threading.Thread(target=lambda: opened.append(os.open(path, os.O_RDONLY)), daemon=True)
    thread.start()
    thread.join(_WRITER_SECONDS)
    if not opened:
        raise MolflowError(f"{source}: a pipe that no program writes to (waited {_WRITER_SECONDS:g} s)")
    return opened[0]


def _text(source: str, stream: io.BufferedReader) -> io.TextIOWrapper:
    """Open a stream as text and unzip it if it is gzipped. Raises MolflowError if it does not begin with text."""
    try:
        plain = gzip.GzipFile(fileobj=stream) if stream.peek(2).startswith(_GZIP) else stream
        head = plain.peek(512)[:4096]
    except (OSError, EOFError, zlib.error) as error:
        raise MolflowError(f"{source}: cannot be read ({reason(error)})") from error
    if head.startswith(_UTF16):
        return io.TextIOWrapper(plain, encoding="utf-16", errors="replace")
    n_controls = len(head) - len(head.translate(None, _CONTROLS))
    if n_controls > max(2, len(head) // 20):  # a byte or two may be damage
        raise MolflowError(f"{source}: binary, or not in UTF-8; expected the text of an SDF or XYZ file")
    return io.TextIOWrapper(plain, encoding="utf-8-sig", errors="replace")


def _reader_for(source: str, lines: Lines) -> Reader:
    head = [line.strip() for line in lines.peek(_SEEN_AHEAD)]
    if any(line.endswith(("V2000", "V3000")) for line in head):
        return read_sdf
    if not any(head) or next(filter(None, head)).isdecimal():
        return read_xyz
    raise MolflowError(f"{source}: neither SDF nor XYZ; expected the counts of a mol block, or a number of atoms")
