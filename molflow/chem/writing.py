"""Write molecules to SDF, XYZ, NPZ and Parquet files; the suffix names the format."""

import gzip
import io
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from molflow import files
from molflow.chem.bonds import EDM_QM9
from molflow.chem.build import bonded_mol
from molflow.chem.elements import symbol
from molflow.chem.parquet import RowWriter, load_pyarrow
from molflow.chem.perception import perceived_mol
from molflow.chem.structure import Structure, structure_error
from molflow.errors import MolflowError, printable

SUFFIXES = (".sdf", ".sd", ".xyz", ".npz")

FORMATS = ("sdf.gz", "xyz.gz", "npz", "parquet", "sdf", "xyz")
"""Formats of files of molecules; `.sd` is another suffix of sdf."""

Properties = Mapping[str, object]
Place = Callable[[], AbstractContextManager[Path]]
ToText = Callable[[Structure, str, Properties], str]

_GROWING = ("sdf", "xyz")  # formats whose files grow with every molecule


def format_of(path: Path) -> str:
    """The format that the suffix of a path names; SDF for standard output."""
    if str(path) == files.STANDARD_STREAM:
        return "sdf"
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    found = {".sd": "sdf"}.get(suffix, suffix[1:]) + ".gz" * name.endswith(".gz")
    if found not in FORMATS:
        raise MolflowError(f"{path}: unknown suffix {path.suffix!r}; accepted are {' '.join(SUFFIXES)}")
    return found


def check_writable(path: str | os.PathLike[str], format: str | None = None) -> None:
    """Check that a molecule file can be written at `path`, before its content is computed.

    Missing parent directories are created. An existing file stays unchanged until it is written.

    Args:
        path: the file, or "-" for standard output.
        format: one of `FORMATS`, by default the one that the suffix names.

    Raises:
        MolflowError: an unknown suffix, `path` is a directory, its parent cannot be created or written to, or Parquet
            without pyarrow.

    Example:
        >>> check_writable("out.mol2")
        Traceback (most recent call last):
            ...
        molflow.errors.MolflowError: out.mol2: unknown suffix '.mol2'; accepted are .sdf .sd .xyz .npz
    """
    path = Path(path)
    format = format or format_of(path)
    if format == "parquet":
        load_pyarrow()
    files.check_writable(path)


class StructureWriter(files.Closing):
    """Write molecules one by one to a file. An interrupted run keeps what it wrote.

    SDF and XYZ grow with every call. All others, `.sdf.gz`, `.xyz.gz`, `.npz` and `.parquet`, appear when the `with`
    block ends, also by an exception, and replace an older file only then; of these NPZ stays in memory until it ends.
    NPZ has float32 positions and uint8 atomic_numbers, padded with zeros, and mask. Parquet has a row for each
    molecule: positions, list of float32[3], and atomic_numbers, list of uint8.

    XYZ has 8 decimals, more than float32 needs. SDF has 4, the limit of V2000. A rounded distance can cross a bond
    limit: of 20,000 molecules of QM9, 2 had another stability after the round trip. Use another format if figures must
    repeat exactly.

    SDF carries the bonds of the structure; if it has none, the look-up bonds. With `bonds="perceived"`, and always if
    an element is outside the tables, it carries the bonds and charges that RDKit perceives, or single bonds by distance
    where it finds no bond orders (`molflow.chem.perception.perceived_mol`).

    Equal molecules give equal bytes: no file holds the time.

    Args:
        path: the file, or "-" for standard output.
        format: one of `FORMATS`, by default the one that the suffix names.
        columns: names and types (str, bool, int or float) of the properties of each molecule, for Parquet.
        in_place: write all formats into the file itself, which is for a temporary one.
        bonds: those of SDF, "lookup" or "perceived".

    Raises:
        MolflowError: the constructor raises as `check_writable`; `write` raises for a structure whose shapes disagree,
            with an unknown element, or with a coordinate that is not finite or farther out than 1,000,000 Å.
        OSError: the disk is full, or the file cannot be written for another reason.

    Example:
        >>> methane = molflow.chem.Structure(np.zeros((1, 3)), np.array([6]))
        >>> with StructureWriter("out.xyz") as writer:
        ...     writer.write(methane)
        >>> molflow.chem.read_structures("out.xyz")[0].atomic_numbers.tolist()
        [6]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format: str | None = None,
        columns: Mapping[str, type] | None = None,
        in_place: bool = False,
        bonds: Literal["lookup", "perceived"] = "lookup",
    ) -> None:
        check_writable(path, format)
        self.path = Path(path)
        self.count = 0
        self.format = format or format_of(self.path)
        self.needs_bonds = self.format.startswith("sdf")
        atomic = not in_place and self.format not in _GROWING
        self._content = _content(self.format, partial(_place, self.path, atomic), columns or {}, bonds)

    @property
    def whole(self) -> int:
        """Molecules that are in the file whatever happens next."""
        return self.count if self.format in _GROWING else 0

    def write(self, structure: Structure, properties: Properties | None = None) -> None:
        """Append one molecule. An SDF carries its properties, except those that are None or empty."""
        problem = structure_error(structure)
        if problem is not None:
            raise MolflowError(f"{self.path}, record {self.count + 1}, {problem}")
        self._content.write(structure, f"molecule {self.count + 1}", properties or {})
        self.count += 1

    def close(self) -> None:
        """Finish the file. Further calls do nothing."""
        self._content.close()


def _place(path: Path, atomic: bool) -> AbstractContextManager[Path]:
    return files.atomic_path(path) if atomic else nullcontext(path)


class _Content(files.Closing):
    @abstractmethod
    def write(self, structure: Structure, title: str, properties: Properties) -> None:
        """Append one molecule."""


def _content(format: str, place: Place, columns: Mapping[str, type], bonds: str) -> _Content:
    """The content of a file; it enters `place` for the path, and leaves it when the file is whole."""
    if format == "npz":
        return _Npz(place)
    if format == "parquet":
        return _Parquet(place, columns)
    to_text = partial(_to_sdf, perceived=bonds == "perceived") if format.startswith("sdf") else _to_xyz
    return _Text(place, to_text, zipped=format.endswith(".gz"))


class _Text(_Content):
    """Records as text, each of which is flushed unless they are zipped."""

    def __init__(self, place: Place, to_text: ToText, zipped: bool) -> None:
        self._to_text, self._zipped = to_text, zipped
        with ExitStack() as stack:
            path = stack.enter_context(place())
            stream: Any = os.fdopen(os.dup(1), "wb") if str(path) == files.STANDARD_STREAM else path.open("wb")
            stack.enter_context(stream)
            if zipped:
                stream = stack.enter_context(gzip.GzipFile("", "wb", 6, stream, mtime=0))
            self._file = stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8", newline="\n"))
            self._open = stack.pop_all()

    def write(self, structure: Structure, title: str, properties: Properties) -> None:
        self._file.write(self._to_text(structure, title, properties))
        if not self._zipped:
            self._file.flush()

    def close(self) -> None:
        self._open.close()


class _Npz(_Content):
    def __init__(self, place: Place) -> None:
        self._place, self._kept, self._written = place, list[Structure](), False

    def write(self, structure: Structure, title: str, properties: Properties) -> None:
        self._kept.append(structure)

    def close(self) -> None:
        if not self._written:
            with self._place() as path, path.open("wb") as file:
                _write_npz(file, self._kept)
            self._written = True


class _Parquet(_Content):
    def __init__(self, place: Place, columns: Mapping[str, type]) -> None:
        with ExitStack() as stack:
            path = stack.enter_context(place())
            self._rows = stack.enter_context(RowWriter(path, columns, molecules=True))
            self._open = stack.pop_all()

    def write(self, structure: Structure, title: str, properties: Properties) -> None:
        self._rows.write(properties, structure)

    def close(self) -> None:
        self._open.close()


def _to_xyz(structure: Structure, title: str, properties: Properties) -> str:
    atoms = zip(structure.atomic_numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [f"{symbol(number):<2} {x:14.8f} {y:14.8f} {z:14.8f}" for number, (x, y, z) in atoms]
    return "\n".join([str(len(lines)), title, *lines, ""])


def _to_sdf(structure: Structure, title: str, properties: Properties, perceived: bool) -> str:
    from rdkit import Chem, rdBase

    positions, numbers, bonds = structure
    if perceived or (bonds is None and not EDM_QM9.covers(numbers).all()):
        mol = perceived_mol(positions, numbers)
    else:
        mol = bonded_mol(positions, numbers, bonds)
    mol.SetProp("_Name", title)
    values = {name: value for name, value in properties.items() if value not in (None, "")}
    fields = "".join(f">  <{_field_name(name)}>\n{_field_value(value)}\n\n" for name, value in values.items())
    with rdBase.BlockLogs():
        return f"{Chem.MolToMolBlock(mol, kekulize=False)}{fields}$$$$\n"


def _field_name(name: str) -> str:
    return " ".join(printable(name).split()).translate({ord("<"): "(", ord(">"): ")"})


def _field_value(value: object) -> str:
    """A value as one line that neither ends its record nor begins another field; a flag is 1 or 0."""
    text = " ".join(printable(str(int(value) if isinstance(value, bool | np.bool_) else value)).split())
    return f" {text}" if text.startswith(("$$$$", ">")) else text


def _write_npz(file: IO[bytes], structures: list[Structure]) -> None:
    shape = len(structures), max((len(s.atomic_numbers) for s in structures), default=0)
    positions = np.zeros((*shape, 3), dtype=np.float32)
    numbers = np.zeros(shape, dtype=np.uint8)
    mask = np.zeros(shape, dtype=bool)
    for k, (x, z, _) in enumerate(structures):
        positions[k, : len(z)], numbers[k, : len(z)], mask[k, : len(z)] = x, z, True
    np.savez(file, positions=positions, atomic_numbers=numbers, mask=mask)
