"""Clashes: pairs of atoms that are too close to each other.

RDKit and SciPy are imported inside functions.
"""

import numpy as np

CLASH_FRACTION = 0.6
"""Atoms more than three bonds apart clash when closer than this times the sum of their van der Waals radii.

At 0.6, two carbons clash below 2.04 Å, two hydrogens below 1.44 Å, and a hydrogen and an oxygen below 1.65 Å, which
only the strongest hydrogen bonds reach.
"""

CLASH_PROTOCOL = (
    f"two atoms more than three look-up bonds apart, closer than {CLASH_FRACTION} x the sum of RDKit's "
    "van der Waals radii"
)


def clashes(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray) -> int:
    """Number of pairs of atoms that clash, see `CLASH_FRACTION`.

    Args:
        positions: (n, 3), Å, n > 0.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order, (m, 3).

    Example:
        >>> clashes(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([6, 6]), np.zeros((0, 3), int))
        1
    """
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(number) for number in atomic_numbers.tolist()])
    pairs = pairs_within(2 * CLASH_FRACTION * float(radii.max()), positions)
    i, j = pairs.T
    lengths = np.linalg.norm(positions[i] - positions[j], axis=1)
    close = pairs[lengths < CLASH_FRACTION * (radii[i] + radii[j])]
    one = [{atom} for atom in range(len(radii))]
    for a, b, _ in bonds.tolist():
        one[a].add(b)
        one[b].add(a)
    two = [set().union(*(one[b] for b in around)) for around in one]
    return sum(one[a].isdisjoint(two[b]) for a, b in close.tolist())


def pairs_within(distance: float, positions: np.ndarray) -> np.ndarray:
    """Pairs of atoms i < j that are at most this distance apart, (k, 2)."""
    from scipy.spatial import cKDTree

    pairs: np.ndarray = cKDTree(positions).query_pairs(distance, output_type="ndarray")
    return pairs
