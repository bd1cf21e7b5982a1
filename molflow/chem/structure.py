"""One molecule as plain arrays, and the check that every reader and writer of molecules applies to it."""

from typing import NamedTuple

import numpy as np

from molflow.chem.elements import SYMBOLS

LARGEST = 1e6
"""The largest coordinate that is accepted, Å."""


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
