"""Write molecules to SDF, XYZ and NPZ files; the suffix names the format."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from molflow import files
from molflow.chem.bonds import EDM_QM9
from molflow.chem.build import bonded_mol
from molflow.chem.elements import symbol
from molflow.chem.structure import Structure, structure_error
from molflow.errors import MolflowError, printable

SUFFIXES = (".sdf", ".sd", ".xyz", ".npz")

_NO_BONDS = np.zeros((0, 3), dtype=np.int64)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise MolflowError(f"{path}: unknown suffix {path.suffix!r}; accepted are {' '.join(SUFFIXES)}")
    return suffix


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a molecule file can be written at `path`, before its content is computed.

    Missing parent directories are created. An existing file stays unchanged until it is written.

    Raises:
        MolflowError: an unknown suffix, `path` is a directory, or its parent cannot be created or written to.

    Example:
        >>> check_writable("out.mol2")
        Traceback (most recent call last):
            ...
        molflow.errors.MolflowError: out.mol2: unknown suffix '.mol2'; accepted are .sdf .sd .xyz .npz
    """
    _suffix(Path(path))
    files.check_writable(path)


class StructureWriter(files.Closing):
    """Write molecules one by one to an .sdf, .xyz or .npz file. An interrupted run keeps what it wrote.

    SDF and XYZ grow with every call. NPZ (float32 positions and uint8 atomic_numbers, padded with zeros, and mask) is
    written when the `with` block ends, also by an exception, and replaces an older file only then.

    XYZ has 8 decimals, more than float32 needs. SDF has 4, the limit of V2000, and carries the bonds of the structure;
    if it has none, the look-up bonds, or no bonds if an element is outside the tables. A rounded distance can cross a
    bond limit: of 20,000 molecules of QM9, 2 had another stability after the round trip. Use NPZ or XYZ if figures must
    repeat exactly.

    Raises:
        MolflowError: the constructor raises as `check_writable`; `write` raises for a structure whose shapes disagree,
            with an unknown element, or with a coordinate that is not finite or farther out than 1,000,000 Å.

    Example:
        >>> methane = molflow.chem.Structure(np.zeros((1, 3)), np.array([6]))
        >>> with StructureWriter("out.xyz") as writer:
        ...     writer.write(methane)
        >>> molflow.chem.read_structures("out.xyz")[0].atomic_numbers.tolist()
        [6]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_writable(path)
        self.path = Path(path)
        self.count = 0
        self._suffix = _suffix(self.path)
        self._kept: list[Structure] = []  # NPZ only
        self.needs_bonds = self._suffix in (".sdf", ".sd")
        self._file = None if self._suffix == ".npz" else self.path.open("w", encoding="utf-8")

    def write(self, structure: Structure, properties: Mapping[str, object] | None = None) -> None:
        """Append one molecule. An SDF carries its properties, except those that are None or empty."""
        problem = structure_error(structure)
        if problem is not None:
            raise MolflowError(f"{self.path}, record {self.count + 1}, {problem}")
        if self._file is None:
            self._kept.append(structure)
        else:
            title = f"molecule {self.count + 1}"
            text = _to_xyz(structure, title) if self._suffix == ".xyz" else _to_sdf(structure, title, properties or {})
            self._file.write(text)
            self._file.flush()
        self.count += 1

    def close(self) -> None:
        """Finish the file. Further calls do nothing."""
        if self._file is not None:
            self._file.close()
        elif self._suffix == ".npz":
            _write_npz(self.path, self._kept)
            self._suffix = ""


def _to_xyz(structure: Structure, title: str) -> str:
    atoms = zip(structure.atomic_numbers.tolist(), structure.positions.tolist(), strict=True)
    lines = [f"{symbol(number):<2} {x:14.8f} {y:14.8f} {z:14.8f}" for number, (x, y, z) in atoms]
    return "\n".join([str(len(lines)), title, *lines, ""])


def _to_sdf(structure: Structure, title: str, properties: Mapping[str, object]) -> str:
    from rdkit import Chem, rdBase

    positions, numbers, bonds = structure
    if bonds is None and not EDM_QM9.covers(numbers).all():
        bonds = _NO_BONDS
    mol = bonded_mol(positions, numbers, bonds)
    mol.SetProp("_Name", title)
    values = {name: value for name, value in properties.items() if value not in (None, "")}
    fields = "".join(f">  <{_field_name(name)}>\n{_field_value(value)}\n\n" for name, value in values.items())
    with rdBase.BlockLogs():
        return f"{Chem.MolToMolBlock(mol, kekulize=False)}{fields}$$$$\n"


def _field_name(name: str) -> str:
    return " ".join(printable(name).split()).translate({ord("<"): "(", ord(">"): ")"})


def _field_value(value: object) -> str:
    """A value as one line that neither ends its record nor begins another field."""
    text = " ".join(printable(str(value)).split())
    return f" {text}" if text.startswith(("$$$$", ">")) else text


def _write_npz(path: Path, structures: list[Structure]) -> None:
    shape = len(structures), max((len(s.atomic_numbers) for s in structures), default=0)
    positions = np.zeros((*shape, 3), dtype=np.float32)
    numbers = np.zeros(shape, dtype=np.uint8)
    mask = np.zeros(shape, dtype=bool)
    for k, (x, z, _) in enumerate(structures):
        positions[k, : len(z)], numbers[k, : len(z)], mask[k, : len(z)] = x, z, True
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, positions=positions, atomic_numbers=numbers, mask=mask)
