"""United atoms: heavy atoms that carry their hydrogens as a count, and the way back to molecules with all atoms.

Hydrogens are placed by the textbook geometry of the atom that carries them, for a whole batch at once. Valences are not
checked: a wrong skeleton gets the hydrogens it carries and stays wrong.
"""

from functools import cache

import numpy as np
import torch

from molflow.chem.bonds import EDM_QM9, BondRules
from molflow.chem.elements import COVALENT_RADII, SYMBOLS, atomic_number
from molflow.chem.lookup import add_orders
from molflow.errors import MolflowError

_LONE_PAIRS = np.zeros(len(SYMBOLS) + 1, dtype=np.int64)
for _number, _elements in {1: ("N", "P", "As"), 2: ("O", "S", "Se"), 3: ("F", "Cl", "Br", "I")}.items():
    _LONE_PAIRS[[atomic_number(_element) for _element in _elements]] = _number

_BONDED = 1.15
"""Two atoms, one of them outside the look-up tables, are bonded below this times the sum of their covalent radii."""

_TETRAHEDRAL = np.arccos(-1 / 3)
_CONE = np.array([[0, np.pi / 3, np.pi - _TETRAHEDRAL], [0, 0, _TETRAHEDRAL / 2], [0, 0, 0]])
"""Angle of a hydrogen to the axis away from the neighbours, by number of neighbours (1, 2, 3 or more) and by steric
number (2, 3, 4)."""

_TINY = 1e-6


def strip_hydrogens(
    positions: np.ndarray, atomic_numbers: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Remove each hydrogen and count it on the heavy atom nearest to it, which makes united atoms.

    Args:
        positions: (B, N, 3).
        atomic_numbers: (B, N) integers.
        mask: (B, N) bool, True for a real atom.

    Returns:
        positions (B, M, 3), atomic_numbers (B, M) and mask (B, M) of the heavy atoms in their order, padded with zeros
        to the largest number M of heavy atoms, and the hydrogens of each heavy atom (B, M) int64.

    Raises:
        MolflowError: a molecule without a heavy atom, named by its place in the batch.

    Example:
        >>> water = np.array([[[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]])
        >>> x, z, mask, hydrogens = strip_hydrogens(water, np.array([[8, 1, 1]]), np.ones((1, 3), bool))
        >>> z.tolist(), hydrogens.tolist()
        ([[8]], [[2]])
    """
    heavy, hydrogen = mask & (atomic_numbers != 1), mask & (atomic_numbers == 1)
    if not heavy.any(1).all():
        raise MolflowError(f"molecule {int(heavy.any(1).argmin()) + 1} of the batch has no heavy atom")
    squared = np.zeros((*heavy.shape, heavy.shape[1]), dtype=positions.dtype)
    for x in np.moveaxis(positions, -1, 0):
        squared += (x[:, :, None] - x[:, None, :]) ** 2
    owner = np.where(heavy[:, None, :], squared, np.inf).argmin(-1)
    hydrogens = np.zeros(heavy.shape, dtype=np.int64)
    np.add.at(hydrogens, (hydrogen.nonzero()[0], owner[hydrogen]), 1)

    kept = np.argsort(~heavy, axis=1, kind="stable")[:, : heavy.sum(1).max(initial=0)]
    mask = np.take_along_axis(heavy, kept, 1)
    return (
        np.take_along_axis(positions, kept[..., None], 1) * mask[..., None],
        np.take_along_axis(atomic_numbers, kept, 1) * mask,
        mask,
        np.take_along_axis(hydrogens, kept, 1) * mask,
    )


def add_hydrogens(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    mask: np.ndarray,
    hydrogens: np.ndarray,
    rules: BondRules = EDM_QM9,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add the hydrogens that united atoms carry, exactly as many as each one counts, however wrong the skeleton is.

    Bonds between the given atoms follow `rules`. The hydrogens of an atom lie on a cone about the direction away from
    its neighbours: linear, trigonal or tetrahedral by its steric number (neighbours + hydrogens + lone pairs, one less
    for the N and O beside a multiple bond, which makes amides and acids planar), at the typical lengths of `rules`.
    Groups that can rotate are staggered. The hydrogens follow rotation and permutation of the molecule, except where
    the direction is not determined (CH4, an axis of symmetry) or two sides are alike.

    An element outside the tables of `rules` has single bonds, up to 1.15 times the sum of covalent radii, and its
    hydrogens are at the sum of the radii.

    Args:
        positions: (B, N, 3), Å.
        atomic_numbers: (B, N) integers.
        mask: (B, N) bool, True for a real atom; padding is at the end.
        hydrogens: (B, N) integers, 0 at padding.
        rules: the look-up tables.

    Returns:
        positions (B, M, 3) in the dtype given, atomic_numbers (B, M) and mask (B, M). Each molecule has the given atoms
        unchanged, then the hydrogens in the order of the atoms that carry them, then zeros.

    Raises:
        MolflowError: shapes that disagree, or an atomic number that is no element.

    Example:
        >>> x, z, mask = add_hydrogens(np.zeros((1, 1, 3)), np.array([[6]]), np.ones((1, 1), bool), np.array([[4]]))
        >>> z.tolist()
        [[6, 1, 1, 1, 1]]
    """
    _check_hydrogens(hydrogens, mask)
    if not hydrogens.any():
        return positions, atomic_numbers, mask
    orders = rules.bond_orders(positions, atomic_numbers, mask, refuse_foreign=False).numpy()
    return _added(positions, atomic_numbers, mask, hydrogens, orders, rules)[:3]


def add_hydrogens_and_orders(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    mask: np.ndarray,
    hydrogens: np.ndarray,
    orders: np.ndarray | None = None,
    rules: BondRules = EDM_QM9,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`add_hydrogens`, and the bond orders (B, M, M) int8 of the molecules with all atoms; each pair is looked up once.

    Args:
        positions, atomic_numbers, mask, hydrogens, rules: as in `add_hydrogens`.
        orders: bond orders of the given atoms, (B, N, N), if they are known.
    """
    _check_hydrogens(hydrogens, mask)
    if orders is None:
        orders = rules.bond_orders(positions, atomic_numbers, mask, refuse_foreign=False).numpy()
    if not hydrogens.any():
        return positions, atomic_numbers, mask, orders
    x, z, all_atoms, molecule, place = _added(positions, atomic_numbers, mask, hydrogens, orders, rules)
    tensors = map(torch.from_numpy, (orders, x, z, all_atoms, molecule, place))
    return x, z, all_atoms, add_orders(rules, *tensors).numpy()


def _check_hydrogens(hydrogens: np.ndarray, mask: np.ndarray) -> None:
    if hydrogens.shape != mask.shape:
        raise MolflowError(f"expected hydrogens {mask.shape}, got {hydrogens.shape}")


def _added(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    mask: np.ndarray,
    hydrogens: np.ndarray,
    orders: np.ndarray,
    rules: BondRules,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The result of `add_hydrogens`, and the molecule (H,) and place (H,) of each new hydrogen."""
    skeleton = np.maximum(orders, _foreign_bonds(positions, atomic_numbers, mask, rules))
    new, molecule = _place(positions, atomic_numbers, mask, hydrogens, skeleton, _lengths(rules))
    n_given, n_new = mask.sum(1), hydrogens.sum(1)
    n_atoms = n_given + n_new
    size = int(n_atoms.max())
    x = np.zeros((len(mask), size, 3), dtype=positions.dtype)
    z = np.zeros((len(mask), size), dtype=atomic_numbers.dtype)
    width = min(size, mask.shape[1])
    x[:, :width], z[:, :width] = positions[:, :width], atomic_numbers[:, :width]
    place = _count_up(n_new) + n_given[molecule]
    x[molecule, place], z[molecule, place] = new, 1
    return x, z, np.arange(size) < n_atoms[:, None], molecule, place


@cache
def _lengths(rules: BondRules) -> np.ndarray:
    """Å from an atom to a hydrogen that it carries, by atomic number."""
    lengths: np.ndarray = COVALENT_RADII + COVALENT_RADII[1]
    for pair, (length, *_) in rules.lengths.items():
        if "H" in pair:
            lengths[atomic_number(pair[pair[0] == "H"])] = length / 100
    return lengths


def _foreign_bonds(positions: np.ndarray, atomic_numbers: np.ndarray, mask: np.ndarray, rules: BondRules) -> np.ndarray:
    """Single bonds (B, N, N) of the atoms outside the tables, by covalent radii; 0 if the tables cover all atoms."""
    foreign = mask & ~rules.covers(atomic_numbers)
    if not foreign.any():
        return np.zeros((), dtype=np.int8)
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    radii = COVALENT_RADII[atomic_numbers * mask]
    near = (distances < _BONDED * (radii[:, :, None] + radii[:, None])) & (foreign[:, :, None] | foreign[:, None])
    bonds: np.ndarray = near & mask[:, :, None] & mask[:, None] & ~np.eye(mask.shape[1], dtype=bool)
    return bonds.astype(np.int8)


def _place(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    mask: np.ndarray,
    hydrogens: np.ndarray,
    orders: np.ndarray,
    lengths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the new hydrogens (H, 3) and their molecules (H,). A atoms carry hydrogens, here and below."""
    x = positions.astype(np.float64)
    molecule, atom = hydrogens.nonzero()
    element, count = atomic_numbers[molecule, atom], hydrogens[molecule, atom]
    bonded = orders[molecule, atom] > 0
    beside_multiple = np.any(bonded & np.any(orders > 1, axis=-1)[molecule], axis=1)
    away = (x[molecule, atom][:, None] - x[molecule]) * mask[molecule][..., None]
    axis, side = _frames(away, bonded, _anti(x, orders, molecule, atom))

    lone = (bonded.sum(1) == 0).astype(np.int64)  # for an atom without neighbours, its first hydrogen counts as one
    angle, step = _cones(bonded.sum(1) + lone, count - lone, _LONE_PAIRS[element], beside_multiple)
    owner = np.repeat(np.arange(len(count)), count)
    turn = _count_up(count) - lone[owner]
    phase, angle = (turn * step[owner])[:, None], angle[owner, None]
    around = np.cos(phase) * side[owner] + np.sin(phase) * np.cross(axis, side)[owner]
    direction = np.cos(angle) * axis[owner] + np.sin(angle) * around
    direction = np.where((turn < 0)[:, None], -axis[owner], direction)
    return x[molecule, atom][owner] + lengths[element][owner, None] * direction, molecule[owner]


def _cones(
    n_neighbors: np.ndarray, count: np.ndarray, lone_pairs: np.ndarray, beside_multiple: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The angle of an atom's hydrogens to its axis, and the angle from one to the next about it: (A,), radians."""
    steric = n_neighbors + count + lone_pairs
    steric = (steric - ((steric == 4) & (lone_pairs > 0) & beside_multiple)).clip(2, 4)
    angle = _CONE[n_neighbors.clip(max=3) - 1, steric - 2]
    angle = np.where((angle == 0) & (count > 1), _TETRAHEDRAL / 2, angle)
    staggered = (n_neighbors == 1) & (steric == 4)
    return angle, 2 * np.pi / np.maximum(count, np.where(staggered, 3, 1))


def _frames(away: np.ndarray, bonded: np.ndarray, anti: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axis away from an atom's neighbours, and a side perpendicular to it: (A, 3) each, always of length 1.

    The axis has equal angles to three neighbours, which suits strained rings better than their mean direction. The side
    is along `anti` for one neighbour; for two it is normal to their plane and points to where fewer atoms are.
    """
    n_neighbors = bonded.sum(1)[:, None]
    from_bonded = _unit(away * bonded[..., None])
    u = np.zeros((len(away), 3, 3))
    first = np.argsort(~bonded, axis=1, kind="stable")[:, :3, None]
    u[:, : first.shape[1]] = np.take_along_axis(from_bonded, first, 1)
    normal = np.cross(u, np.roll(u, 1, axis=1)).sum(1)  # to the plane through the tips

    mean = from_bonded.sum(1)
    upright = np.broadcast_to([0.0, 0.0, 1.0], mean.shape)
    axis = _first_of(_towards(normal, mean) * (n_neighbors == 3), mean, _perpendicular(u[:, 0]), upright)
    squared = np.square(away).sum(-1, keepdims=True)
    field = np.divide(away, squared**4, out=np.zeros_like(away), where=squared > _TINY).sum(1)
    anti = (anti - (anti * axis).sum(-1, keepdims=True) * axis) * (n_neighbors == 1)
    normal = _towards(normal, field) * (n_neighbors == 2)
    return axis, _first_of(normal, anti, np.cross(axis, u[:, 0]), _perpendicular(axis))


def _anti(x: np.ndarray, orders: np.ndarray, molecule: np.ndarray, atom: np.ndarray) -> np.ndarray:
    """The vector to an atom's neighbour from the next atom along the chain, (A, 3); zero where the chain ends.

    A hydrogen on that side is anti to the next atom. Of several next atoms the one with the lowest bond order is used,
    and among equals the farthest.
    """
    neighbor = orders[molecule, atom].argmax(1)
    order = orders[molecule, neighbor].astype(np.float64)
    order[np.arange(len(atom)), atom] = 0
    squared = np.square(x[molecule, atom][:, None] - x[molecule]).sum(-1)
    following = np.where(order > 0, 1e3 * order - squared, np.inf).argmin(1)
    direction: np.ndarray = (x[molecule, neighbor] - x[molecule, following]) * order.any(1)[:, None]
    return direction


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0 .. k - 1 for each k in counts, one after another: (2, 3) -> (0, 1, 0, 1, 2)."""
    places: np.ndarray = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return places


def _unit(v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1; zero where they are nearly zero."""
    length = np.sqrt(np.square(v).sum(-1, keepdims=True))
    scaled: np.ndarray = np.divide(v, length, out=np.zeros_like(v), where=length > _TINY)
    return scaled


def _first_of(*choices: np.ndarray) -> np.ndarray:
    """In each row the first choice that is not nearly zero, scaled to length 1."""
    found = _unit(choices[0])
    for choice in choices[1:]:
        found = np.where(found.any(-1, keepdims=True), found, _unit(choice))
    return found


def _towards(v: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Each v, or its opposite if v points against w."""
    return np.where((v * w).sum(-1, keepdims=True) < 0, -v, v)


def _perpendicular(v: np.ndarray) -> np.ndarray:
    """A vector perpendicular to each v (A, 3); zero if v is zero."""
    return np.cross(v, np.eye(3)[np.abs(v).argmin(-1)])
