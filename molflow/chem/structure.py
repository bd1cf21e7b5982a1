"""One molecule as plain arrays, and what is accepted as one wherever molecules come from or go to."""

from typing import NamedTuple

import numpy as np

from molflow.chem.elements import SYMBOLS

LARGEST = 1e6
"""Largest coordinate that is taken for one, Å."""


class Structure(NamedTuple):
    """One molecule: positions (n, 3) in Å and atomic_numbers (n,)."""

    positions: np.ndarray
    atomic_numbers: np.ndarray


def fault(structure: Structure) -> str | None:
    """What is wrong with the arrays, in words that name the first atom at fault (from 1); None if nothing is."""
    positions, numbers = structure
    if positions.ndim != 2 or positions.shape != (len(numbers), 3):
        return f"expected positions (n, 3) and atomic_numbers (n,), got {positions.shape} and {numbers.shape}"
    sound = (np.abs(positions) <= LARGEST).all(axis=1)  # False for NaN as well
    if not sound.all():
        atom = int(np.argmin(sound))
        return f"atom {atom + 1}: {coordinate_fault(positions[atom].tolist())}"
    known = (numbers >= 1) & (numbers <= len(SYMBOLS))
    if not known.all():
        atom = int(np.argmin(known))
        return (
            f"atom {atom + 1}: unknown element with atomic number {numbers[atom]}; "
            f"accepted are 1 (H) to {len(SYMBOLS)} ({SYMBOLS[-1]})"
        )
    return None


def coordinate_fault(xyz: list[float]) -> str:
    """Why these coordinates are none."""
    problem = f"is farther out than {LARGEST:,.0f} Å" if np.isfinite(xyz).all() else "is not finite"
    return f"coordinate {problem} ({', '.join(f'{value:.6g}' for value in xyz)})"
