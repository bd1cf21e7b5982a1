"""One molecule as plain arrays, and the check that every reader and writer of molecules applies to it."""

from typing import NamedTuple

import numpy as np

from molflow.chem.elements import SYMBOLS

LARGEST = 1e6
"""The largest coordinate that is accepted, Å."""


AROMATIC = 4
"""The order of an aromatic bond in a file, as SDF writes it."""


class Stated(NamedTuple):
    """The chemistry that a file states for a molecule, as opposed to what is derived from its positions.

    Attributes:
        bonds: rows of two atoms and an order 1 to 3, or `AROMATIC`, (m, 3) int64; None if the file has no bonds.
        charges: formal charge of each atom, (n,) int64; None if the file states none for atoms.
        radicals: unpaired electrons of each atom, (n,) int64; None as for charges.
        charge: net charge of the molecule; None if the file says nothing about it.
    """

    bonds: np.ndarray | None = None
    charges: np.ndarray | None = None
    radicals: np.ndarray | None = None
    charge: int | None = None


class Structure(NamedTuple):
    """One molecule.

    Attributes:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order, (m, 3), if they are known: the look-up bonds of these positions. None if
            they have not been looked up, or if an element is outside the tables.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    bonds: np.ndarray | None = None


def structure_error(structure: Structure) -> str | None:
    """Say what is wrong with the arrays and name the first wrong atom (counted from 1); None if nothing is wrong."""
    positions, numbers, bonds = structure
    if positions.ndim != 2 or positions.shape != (len(numbers), 3):
        return f"expected positions (n, 3) and atomic_numbers (n,), got {positions.shape} and {numbers.shape}"
    accepted = (np.abs(positions) <= LARGEST).all(axis=1)  # False for NaN as well
    if not accepted.all():
        atom = int(np.argmin(accepted))
        return f"atom {atom + 1}: {coordinate_error(positions[atom].tolist())}"
    known = (numbers >= 1) & (numbers <= len(SYMBOLS))
    if not known.all():
        atom = int(np.argmin(known))
        return (
            f"atom {atom + 1}: unknown element with atomic number {numbers[atom]}; "
            f"accepted are 1 (H) to {len(SYMBOLS)} ({SYMBOLS[-1]})"
        )
    if bonds is not None and (bonds.ndim != 2 or bonds.shape[1] != 3 or _outside(bonds[:, :2], len(numbers))):
        return f"expected bonds (m, 3) between atoms 0 to {len(numbers) - 1}, got {bonds.shape}"
    return None


def coordinate_error(xyz: list[float]) -> str:
    """Say why these coordinates are not accepted."""
    problem = f"is farther out than {LARGEST:,.0f} Å" if np.isfinite(xyz).all() else "is not finite"
    return f"coordinate {problem} ({', '.join(f'{value:.6g}' for value in xyz)})"


def _outside(atoms: np.ndarray, n_atoms: int) -> bool:
    return bool(((atoms < 0) | (atoms >= n_atoms)).any())
