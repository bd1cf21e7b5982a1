"""Signs that the coordinates of a molecule are a drawing, or in another unit than angstrom."""

import numpy as np

_NEAREST = 0.5, 1.68
"""Å, around the median distance of an atom to the nearest other one in any molecule: about 1.09 with hydrogens, 1.2 to
1.6 without. In nanometres it is a tenth of that, in bohr 1.89 times."""

_MULTIPLE = 1.1, 1.36  # Å; of the multiple bonds that a planar molecule without hydrogens has

_BONDED = 1.8  # Å; atoms of a planar molecule have at most three others within it


def geometry_problem(positions: np.ndarray, atomic_numbers: np.ndarray) -> str:
    """Words for what is wrong with the coordinates of a molecule as a whole; empty if nothing is.

    A molecule of more than three atoms is a drawing if all z are equal, and it has an atom with four neighbours, or no
    hydrogens and no multiple bonds.

    Args:
        positions: finite, (n, 3), Å.
        atomic_numbers: (n,).

    Example:
        >>> geometry_problem(np.array([[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]]), np.array([8, 1, 1]))
        'the nearest atoms are 0.096 apart: too near for angstrom, perhaps nanometres'
    """
    if len(positions) < 2:
        return ""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = float(np.median(distances.min(1)))
    if len(positions) > 3 and not np.ptp(positions[:, 2]):
        if not (atomic_numbers == 1).any() and not _MULTIPLE[0] < nearest < _MULTIPLE[1]:
            return "the coordinates are two-dimensional: all z are equal, and there are no hydrogens"
        if ((distances < _BONDED * max(1.0, nearest)).sum(1) > 3).any():
            return "the coordinates are two-dimensional: all z are equal, and an atom has four neighbours"
    if nearest < _NEAREST[0]:
        return f"the nearest atoms are {nearest:.3f} apart: too near for angstrom, perhaps nanometres"
    if nearest > _NEAREST[1]:
        return f"the nearest atoms are {nearest:.2f} apart: too far for angstrom, perhaps bohr"
    return ""
