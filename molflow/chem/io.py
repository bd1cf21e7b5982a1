"""Molecule files: SDF, XYZ and NPZ, chosen by suffix, all read to and written from the same plain `Structure`.

Only positions and elements travel: bonds are always derived from distances, so that every file is judged alike.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from molflow import files
from molflow.chem.bonds import ELEMENTS
from molflow.chem.build import bonded_mol
from molflow.chem.elements import SYMBOLS, atomic_number, symbol
from molflow.errors import MolflowError

SUFFIXES = (".sdf", ".sd", ".xyz", ".npz")

_COVERED = [atomic_number(element) for element in ELEMENTS]


class Structure(NamedTuple):
    """One molecule: positions (n, 3) in Å and atomic_numbers (n,)."""

    positions: np.ndarray
    atomic_numbers: np.ndarray


def read_structures(path: str | os.PathLike[str]) -> list[Structure]:
    """All molecules of an SDF (V2000, V3000), XYZ (several frames allowed) or NPZ file, hydrogens included.

    NPZ holds positions (B, N, 3), atomic_numbers (B, N) and mask (B, N) bool, True for a real atom; nothing in it is
    ever unpickled. Positions come back in Å, float64 from SDF and XYZ, float32 from an NPZ that has it. Bonds, charges,
    comments and further columns are ignored.

    Raises:
        MolflowError: a missing, empty, truncated or malformed file, an unknown suffix or element, or a coordinate
            that is not finite, with file and record (counted from 1).
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        cause = "is a directory" if path.is_dir() else "no such file"
        raise MolflowError(f"{path}: {cause}; expected a file of molecules")
    try:
        if path.stat().st_size == 0:
            raise MolflowError(f"{path}: the file is empty; expected at least one molecule")
        if suffix == ".npz":
            records = list(_read_npz(path))
        else:
            with path.open(encoding="utf-8", errors="replace") as file:
                records = list((_read_xyz if suffix == ".xyz" else _read_sdf)(path, file))
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not records:
        raise MolflowError(f"{path}: no molecules in the file; expected at least one")
    return [_checked(structure, f"{path}, record {k}") for k, structure in enumerate(records, start=1)]


def _read_sdf(path: Path, file: Iterator[str]) -> Iterator[Structure]:
    from rdkit import Chem, rdBase

    for record, lines in enumerate(_sdf_records(file), start=1):
        # One record at a time, and only whole ones: RDKit's own supplier loses the count after a bad record and can
        # run on into the next.
        place = f"{path}, record {record}"
        if not any(line.startswith("M  END") for line in lines):
            raise MolflowError(f"{place}: truncated, 'M  END' is missing; expected a V2000 or V3000 mol block")
        with rdBase.BlockLogs():  # not strict: an unknown element then comes as a dummy atom, to be named below
            mol = Chem.MolFromMolBlock("".join(lines), sanitize=False, removeHs=False, strictParsing=False)
        if mol is None:
            raise MolflowError(
                f"{place}: malformed; expected a V2000 or V3000 mol block "
                "with finite coordinates and with counts that agree with its lines"
            )
        positions = mol.GetConformer().GetPositions().reshape(-1, 3)
        yield Structure(positions, np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64))


def _sdf_records(file: Iterator[str]) -> Iterator[list[str]]:
    lines: list[str] = []
    for line in file:
        if line.startswith("$$$$"):
            yield lines
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield lines


def _read_xyz(path: Path, file: Iterator[str]) -> Iterator[Structure]:
    numbered = enumerate(file, start=1)
    record = 0
    for line_number, line in numbered:
        if not line.strip():
            continue
        record += 1
        place = f"{path}, record {record}"
        if not line.strip().isdecimal() or len(line) > 20:
            raise MolflowError(f"{place}, line {line_number}: expected the number of atoms, got {line.strip()[:40]!r}")
        count = int(line)
        line_number, _comment = next(numbered, (line_number + 1, ""))
        numbers: list[int] = []
        positions: list[list[float]] = []
        for _ in range(count):
            line_number, line = next(numbered, (line_number + 1, ""))
            if not line.strip():
                raise MolflowError(
                    f"{place}, line {line_number}: truncated after {len(numbers)} of {count} atoms; "
                    "expected one 'symbol x y z' line for each"
                )
            try:
                element, x, y, z = line.split()[:4]
                positions.append([float(x), float(y), float(z)])
            except ValueError:
                raise MolflowError(
                    f"{place}, line {line_number}: expected 'symbol x y z', got {line.strip()[:40]!r} "
                    f"(atom {len(numbers) + 1} of {count})"
                ) from None
            try:
                numbers.append(atomic_number(symbol(int(element)) if element.isdecimal() else element))
            except ValueError as error:
                raise MolflowError(f"{place}, line {line_number}: {error}") from None
        yield Structure(np.array(positions, dtype=np.float64).reshape(-1, 3), np.array(numbers, dtype=np.int64))


def _read_npz(path: Path) -> Iterator[Structure]:
    layout = "expected numeric positions (B, N, 3), integer atomic_numbers (B, N) and bool mask (B, N)"
    if not zipfile.is_zipfile(path):
        raise MolflowError(f"{path}: not an NPZ file, or truncated; {layout}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            positions, numbers, mask = (archive[key] for key in ("positions", "atomic_numbers", "mask"))
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise nearly anything
        cause = " ".join(str(error.args[0] if error.args else "").split()) or type(error).__name__
        raise MolflowError(f"{path}: {cause}; {layout}") from error
    if (
        positions.dtype.kind not in "fiu"
        or numbers.dtype.kind not in "iu"
        or mask.dtype != bool
        or positions.shape != (*mask.shape, 3)
        or numbers.shape != mask.shape
        or mask.ndim != 2
    ):
        found = ", ".join(f"{array.dtype} {array.shape}" for array in (positions, numbers, mask))
        raise MolflowError(f"{path}: {layout}, got {found}")
    if positions.dtype != np.float32:
        positions = positions.astype(np.float64)
    for x, z, real in zip(positions, numbers, mask, strict=True):
        yield Structure(x[real], z[real].astype(np.int64))


def _checked(structure: Structure, place: str) -> Structure:
    """The structure itself, or a MolflowError that names the place and the first atom at fault."""
    positions, numbers = structure
    if positions.ndim != 2 or positions.shape != (len(numbers), 3):
        raise MolflowError(
            f"{place}: expected positions (n, 3) and atomic_numbers (n,), got {positions.shape} and {numbers.shape}"
        )
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        atom = int(np.argmin(finite))
        raise MolflowError(f"{place}, atom {atom + 1}: coordinate is not finite ({positions[atom].tolist()})")
    known = (numbers >= 1) & (numbers <= len(SYMBOLS))
    if not known.all():
        atom = int(np.argmin(known))
        raise MolflowError(
            f"{place}, atom {atom + 1}: unknown element with atomic number {numbers[atom]}; "
            f"accepted are 1 (H) to {len(SYMBOLS)} ({SYMBOLS[-1]})"
        )
    return structure


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MolflowError(f"{path}: unknown suffix {path.suffix!r}; accepted are {' '.join(SUFFIXES)}")
    return suffix


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure that a molecule file can be written at `path`, before any work is spent on its content.

    Missing parent directories are made. An existing file is left as it is until it is written.

    Raises:
        MolflowError: an unknown suffix, a directory in the file's place, a parent that cannot be made or written to.
    """
    _suffix(Path(path))
    files.check_writable(path)


class StructureWriter:
    """Writes molecules one by one to an .sdf, .xyz or .npz file; a run that is interrupted keeps what it wrote.

    SDF and XYZ grow with every call. NPZ (float32 positions and uint8 atomic_numbers, padded with zeros, and mask) is
    written whole on leaving, also on leaving by an exception, and replaces an older file only then.

    XYZ has 8 decimals, which is float32 and more. SDF has 4, the limit of V2000, and carries the look-up rules' bonds,
    or none where an element is outside their tables. A rounded distance can cross a bond limit: of 20,000 molecules of
    QM9, 2 had another stability after the round trip. Use NPZ or XYZ where figures must repeat exactly.

    Raises:
        MolflowError: from the constructor as `check_writable`; from `write` for a structure whose shapes disagree,
            with an unknown element, or with a coordinate that is not finite.

    Example:
        with StructureWriter("out.sdf") as writer:
            for structure in structures:
                writer.write(structure)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_writable(path)
        self.path = Path(path)
        self.count = 0
        self._suffix = _suffix(self.path)
        self._kept: list[Structure] = []  # NPZ only
        self._file = None if self._suffix == ".npz" else self.path.open("w", encoding="utf-8")

    def write(self, structure: Structure) -> None:
        """Append one molecule."""
        structure = _checked(structure, f"{self.path}, record {self.count + 1}")
        if self._file is None:
            self._kept.append(structure)
        else:
            to_text = _to_xyz if self._suffix == ".xyz" else _to_sdf
            self._file.write(to_text(structure, f"molecule {self.count + 1}"))
            self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Finish the file. Further calls do nothing."""
        if self._file is not None:
            self._file.close()
        elif self._suffix == ".npz":
            _write_npz(self.path, self._kept)
            self._suffix = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _to_xyz(structure: Structure, title: str) -> str:
    atoms = zip(structure.atomic_numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [f"{symbol(number):<2} {x:14.8f} {y:14.8f} {z:14.8f}" for number, (x, y, z) in atoms]
    return "\n".join([str(len(lines)), title, *lines, ""])


def _to_sdf(structure: Structure, title: str) -> str:
    from rdkit import Chem, rdBase

    positions, numbers = structure
    covered = bool(np.isin(numbers, _COVERED).all())
    orders = None if covered else np.zeros((len(numbers), len(numbers)), dtype=np.int8)
    mol = bonded_mol(positions, numbers, orders)
    mol.SetProp("_Name", title)
    with rdBase.BlockLogs():
        return f"{Chem.MolToMolBlock(mol, kekulize=False)}$$$$\n"


def _write_npz(path: Path, structures: list[Structure]) -> None:
    shape = len(structures), max((len(s.atomic_numbers) for s in structures), default=0)
    positions = np.zeros((*shape, 3), dtype=np.float32)
    numbers = np.zeros(shape, dtype=np.uint8)
    mask = np.zeros(shape, dtype=bool)
    for k, (x, z) in enumerate(structures):
        positions[k, : len(z)], numbers[k, : len(z)], mask[k, : len(z)] = x, z, True
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, positions=positions, atomic_numbers=numbers, mask=mask)
