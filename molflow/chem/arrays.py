"""Molecules in NPZ files, in the layouts that molflow, EDM and data sets with one molecule's geometries use."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from molflow.chem.structure import Structure, structure_error
from molflow.errors import MolflowError

LARGEST_NPZ = 2 << 30
"""Bytes that the arrays of a compressed file may have when they are unpacked."""

_LAYOUT = (
    "expected numeric positions (B, N, 3) and whole atomic_numbers (B, N) with mask (B, N), 1 for a real atom, or "
    "num_atoms (B,); accepted are also R for positions, and Z or charges for atomic_numbers"
)
_POSITIONS, _NUMBERS, _COUNTS = ("positions", "R"), ("atomic_numbers", "Z", "charges"), ("num_atoms", "N")


def npz_structures(path: Path) -> Iterator[Structure | str]:
    """Read the molecules of a file one by one; a text is the problem of a molecule that is not accepted.

    The layouts are positions, atomic_numbers and mask; positions, charges and num_atoms, as EDM writes them; or R and
    Z, where Z (N,) holds for all geometries. Without mask and num_atoms, atoms with number 0 are padding. Positions are
    float64, or float32 if the file has float32.

    Raises:
        MolflowError: a file that is empty, damaged, larger than `LARGEST_NPZ`, or has none of these layouts.
    """
    positions, numbers, mask = _arrays(path)
    if not len(mask):
        raise MolflowError(f"{path}: no molecules in the file; expected at least one")
    for x, z, real in zip(positions, numbers, mask, strict=True):
        problem = structure_error(Structure(x[real], z[real]))
        yield problem or Structure(x[real], z[real].astype(np.int64))


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions (B, N, 3), atomic numbers (B, N) and mask (B, N) bool."""
    try:
        found = _read(path)
        positions, numbers, mask = _first(found, _POSITIONS), _first(found, _NUMBERS), found.get("mask")
        if mask is None and (name := next((name for name in _COUNTS if name in found), None)):
            mask = np.arange(numbers.shape[-1]) < np.reshape(found[name], (-1, 1))
        elif mask is None:
            mask = numbers > 0
        if numbers.ndim == 1 and positions.ndim == 3:
            numbers, mask = (np.broadcast_to(array, positions.shape[:2]) for array in (numbers, mask))
    except MolflowError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib and NumPy raise nearly anything
        cause = " ".join(str(error.args[0] if error.args else "").split()) or type(error).__name__
        raise MolflowError(f"{path}: {cause}; {_LAYOUT}") from error
    if (
        positions.dtype.kind not in "fiu"
        or not _is_whole(numbers)
        or not (mask.dtype == bool or (_is_whole(mask) and np.isin(mask, (0, 1)).all()))
        or positions.shape != (*mask.shape, 3)
        or numbers.shape != mask.shape
        or mask.ndim != 2
    ):
        shapes = ", ".join(f"{array.dtype} {array.shape}" for array in (positions, numbers, mask))
        raise MolflowError(f"{path}: {_LAYOUT}, got {shapes}")
    positions = positions if positions.dtype == np.float32 else positions.astype(np.float64)
    return positions, numbers, mask.astype(bool)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that molecules can have."""
    if path.is_file() and not path.stat().st_size:
        raise MolflowError(f"{path}: the file is empty; expected at least one molecule")
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise MolflowError(f"{path}: not an NPZ file, or truncated; {_LAYOUT}")
    with path.open("rb") as file, open_arrays(file) as archive:
        return {name: archive[name] for name in (*_POSITIONS, *_NUMBERS, *_COUNTS, "mask") if name in archive}


def open_arrays(file: BinaryIO) -> Any:
    """What np.load opens, but for pickles and for archives that would fill the memory.

    Raises:
        MolflowError: an archive that unpacks to more than `LARGEST_NPZ` and to more than twice its size.
        OSError, ValueError, zipfile.BadZipFile: a damaged file.
    """
    if zipfile.is_zipfile(file):
        packed = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max(LARGEST_NPZ, 2 * packed):
            raise MolflowError(
                f"{file.name}: unpacks to {size / 1e9:.1f} GB, at most {LARGEST_NPZ / 1e9:.1f} GB are read"
            )
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _first(found: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    for name in names:
        if name in found:
            return found[name]
    raise KeyError(f"{names[0]} is not a file in the archive")


def _is_whole(array: np.ndarray) -> bool:
    """Whether all values are whole numbers, which may be stored as floats."""
    return array.dtype.kind in "iu" or (array.dtype.kind == "f" and bool((array == np.floor(array)).all()))
