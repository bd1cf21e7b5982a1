"""Signs that a record is a drawing, is in another unit than angstrom, or lacks its hydrogens."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from molflow.chem.bonds import EDM_QM9, orders_of_one
from molflow.chem.build import bond_list
from molflow.chem.elements import COVALENT_RADII, symbol
from molflow.chem.structure import AROMATIC, Stated, Structure

UNITS = {"nm": 10.0, "bohr": 0.529177210903}
"""Units of coordinates besides angstrom, in angstrom."""

_NAMES = {"nm": "nanometres", "bohr": "bohr"}
_WITHIN = 0.7, 1.3  # of the sum of covalent radii: the distance of every atom of a molecule to its nearest neighbour
_FEWEST = 6  # atoms of a molecule that is judged; a few atoms at random places resemble anything
_BONDED = 1.8  # Å; atoms of a planar molecule have at most three others within it
_MOST = {"H": 1, "F": 1, "O": 2, "N": 4}  # neighbours; 4 for others
_OPEN = {"C": 4, "N": 3, "O": 2}  # valences that hydrogens complete


def geometry_problem(positions: np.ndarray, atomic_numbers: np.ndarray) -> str:
    """Words for what is wrong with the coordinates of a molecule as a whole; empty if nothing is.

    Nothing is said of fewer than six atoms. A molecule is a drawing if all z are equal, and it has no hydrogens or an
    atom with four neighbours. Its coordinates are in another unit if in that unit, and not in angstrom, every atom is
    as far from its nearest neighbour as bonded atoms are. A molecule that is merely wrong, such as one that fell apart,
    has no such problem.

    Args:
        positions: finite, (n, 3), Å.
        atomic_numbers: (n,).

    Example:
        >>> half = np.array([[0, 0, 0.067], [0, 0.092, 0.124], [0, -0.092, 0.124]])
        >>> geometry_problem(np.vstack([half, -half]), np.array([6, 1, 1, 6, 1, 1]))  # ethylene
        'the coordinates fit nanometres, not angstrom; --unit nm converts them'
    """
    if len(positions) < _FEWEST:
        return ""
    flat = not np.ptp(positions[:, 2])
    if not flat and _unit_of(_relative_distances(positions, atomic_numbers, 1).min(1)):  # the first atom tells most
        return ""
    if flat and (what := _drawing(positions, atomic_numbers)):
        return f"the coordinates are two-dimensional: all z are equal, and {what}"
    relative = _relative_distances(positions, atomic_numbers)
    if _unit_of(relative.min(1)):
        return ""
    fits = next((name for name, size in UNITS.items() if _is_molecule(relative * size, atomic_numbers)), None)
    return f"the coordinates fit {_NAMES[fits]}, not angstrom; --unit {fits} converts them" if fits else ""


def missing_hydrogens(structure: Structure, stated: Stated | None) -> int:
    """How many hydrogens a molecule without any lacks, by the bonds of its file, or else by look-up bonds.

    0 if it has hydrogens or fewer than six atoms, if it is not one fragment, if an atom has more bonds than its
    valence, if its bonds are not known, or if no more are lacking than half its atoms, as look-up bonds may err.
    Charges count as in ammonium, which has one more, and in carboxylates, which have one less.

    Args:
        structure: the molecule; its bonds are looked up unless it has them.
        stated: what the file says, if anything.
    """
    positions, atomic_numbers, bonds = structure
    n = len(atomic_numbers)
    if n < _FEWEST or (atomic_numbers == 1).any():
        return 0
    charges = None
    if stated is not None and stated.bonds is not None and len(stated.bonds):
        bonds, charges = stated.bonds, stated.charges
    elif bonds is None and EDM_QM9.covers(atomic_numbers).all():
        bonds = bond_list(orders_of_one(positions, atomic_numbers))
    if bonds is None or not _is_one_fragment(bonds, n):
        return 0
    valences = np.array([_OPEN.get(symbol(z), 0) for z in atomic_numbers.tolist()], dtype=np.float64)
    if charges is not None:
        valences += np.where(atomic_numbers == 6, -abs(charges), charges) * (valences > 0)
    sums = _valence_sums(bonds, n)
    left = (valences - sums)[valences > 0]
    missing = int(np.floor(left).clip(min=0).sum())
    return 0 if (left < -0.5).any() or 2 * missing <= n else missing


def _valence_sums(bonds: np.ndarray, n: int) -> np.ndarray:
    """The sum of each atom's bond orders, (n,); 1.5 for an aromatic bond."""
    orders = np.where(bonds[:, 2] == AROMATIC, 1.5, bonds[:, 2])
    return np.bincount(bonds[:, :2].ravel(), orders.repeat(2), n)


def _is_one_fragment(bonds: np.ndarray, n: int) -> bool:
    graph = coo_array((np.ones(len(bonds)), (bonds[:, 0], bonds[:, 1])), shape=(n, n))
    return bool(connected_components(graph, directed=False, return_labels=False) == 1)


def _relative_distances(positions: np.ndarray, atomic_numbers: np.ndarray, n: int | None = None) -> np.ndarray:
    """Distances of the first n atoms, by default all, to all atoms over the sum of the two covalent radii."""
    distances = np.linalg.norm(positions[:n, None] - positions[None], axis=-1)
    radii = COVALENT_RADII[atomic_numbers]
    relative: np.ndarray = distances / (radii[:n, None] + radii[None])
    np.fill_diagonal(relative, np.inf)
    return relative


def _is_molecule(relative: np.ndarray, atomic_numbers: np.ndarray) -> bool:
    """Whether the atoms are one fragment at the distances of bonds, each with no more neighbours than its valence."""
    bonded = relative < _WITHIN[1]
    degrees = bonded.sum(1)
    most = np.array([_MOST.get(symbol(z), 4) for z in atomic_numbers.tolist()])
    whole = connected_components(coo_array(bonded), directed=False, return_labels=False) == 1
    return bool(whole and (degrees <= most).all() and relative.min() > _WITHIN[0])


def _unit_of(relative: np.ndarray) -> bool:
    """Whether these can be distances of bonded atoms in their unit."""
    return bool(((relative > _WITHIN[0]) & (relative < _WITHIN[1])).all())


def _drawing(positions: np.ndarray, atomic_numbers: np.ndarray) -> str:
    """Why a flat molecule is a drawing; empty if it may be a planar molecule."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = float(np.median(distances.min(1)))
    if ((distances < _BONDED * max(1.0, nearest)).sum(1) > 3).any():
        return "an atom has four neighbours"
    # A real planar molecule without hydrogens has multiple bonds, which are shorter than those of a drawing.
    has_hydrogens = (atomic_numbers == 1).any()
    return "" if has_hydrogens or 1.1 < nearest < 1.36 else "there are no hydrogens"
