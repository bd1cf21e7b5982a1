"""Bond orders and stability from distances alone, by EDM's look-up rules (arXiv 2203.17003).

The rules are data at the top of the file; below it a whole batch is looked up at once.
"""

import numpy as np
import torch
from torch import Tensor

from molflow.chem.elements import atomic_number, symbol
from molflow.chem.valences import VALENCES
from molflow.errors import MolflowError

BOND_LENGTHS: dict[tuple[str, str], tuple[int, ...]] = {
    ("H", "H"): (74,),
    ("H", "C"): (109,),
    ("H", "N"): (101,),
    ("H", "O"): (96,),
    ("H", "F"): (92,),
    ("C", "C"): (154, 134, 120),
    ("C", "N"): (147, 129, 116),
    ("C", "O"): (143, 120, 113),
    ("C", "F"): (135,),
    ("N", "N"): (145, 125, 110),
    ("N", "O"): (140, 121),
    ("N", "F"): (136,),
    ("O", "O"): (148, 121),
    ("O", "F"): (142,),
    ("F", "F"): (142,),
}
"""Typical lengths of single, double and triple bonds in pm; an order that is absent cannot be assigned."""

MARGINS = (10, 5, 3)
"""A pair has at least order k when it is closer than the typical length plus this margin (pm)."""

PROTOCOL = "EDM look-up bonds (arXiv 2203.17003)"

ELEMENTS: tuple[str, ...] = tuple(VALENCES)
"""The elements that the tables cover."""

_ROW = torch.full((119,), -1)  # atomic number -> row of the tables below
_ROW[[atomic_number(element) for element in ELEMENTS]] = torch.arange(len(ELEMENTS))
_VALENCE = torch.tensor(list(VALENCES.values()))


def _squared_limits() -> Tensor:
    """Squared distance limits in Å², (3, 25): by order - 1 and by the pair of rows as one index; 0 for no bond."""
    limits = torch.zeros(3, len(ELEMENTS), len(ELEMENTS), dtype=torch.float64)
    for (a, b), lengths in BOND_LENGTHS.items():
        i, j = ELEMENTS.index(a), ELEMENTS.index(b)
        for k, length in enumerate(lengths):
            limits[k, i, j] = limits[k, j, i] = ((length + MARGINS[k]) / 100) ** 2
    # "a higher order only where every lower one holds" then needs no test of its own: orders can simply be counted
    assert bool((limits.diff(dim=0) <= 0).all())
    return limits.flatten(1)


_LIMITS = _squared_limits()


def bond_orders(
    positions: Tensor | np.ndarray, atomic_numbers: Tensor | np.ndarray, mask: Tensor | np.ndarray
) -> Tensor:
    """Bond order of every pair of atoms by EDM's look-up tables.

    A pair at distance d (pm) has order 1 if d < single + 10, order 2 if also d < double + 5, order 3 if also
    d < triple + 3, lengths from `BOND_LENGTHS`. Distances are taken in float64 whatever the input. Atoms on one spot
    get the highest order their pair has; a NaN distance is no bond.

    Args:
        positions: (B, N, 3), Å, torch or numpy (and so for the others).
        atomic_numbers: (B, N) integers.
        mask: (B, N) bool, True for a real atom.

    Returns:
        (B, N, N) int8, symmetric, zero on the diagonal and wherever an atom is padding.

    Raises:
        MolflowError: shapes that disagree, or an element outside H C N O F, named with its place in the batch.

    Source: arXiv 2203.17003 and the tables its code publishes.
    """
    positions, rows, mask = _checked(positions, atomic_numbers, mask)
    squared = torch.zeros((), dtype=torch.float64, device=positions.device)
    for x in positions.double().unbind(-1):  # one axis at a time: no (B, N, N, 3) in memory
        squared = squared + (x[:, :, None] - x[:, None, :]).square_()

    pair = rows[:, :, None] * len(ELEMENTS) + rows[:, None, :]
    orders = torch.zeros(pair.shape, dtype=torch.int8, device=pair.device)
    for limit in _LIMITS.to(pair.device):
        orders += squared < limit[pair]
    orders *= mask[:, :, None] & mask[:, None, :]
    orders.diagonal(dim1=1, dim2=2).zero_()
    return orders


def orders_of_one(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """`bond_orders` of a single molecule: positions (n, 3) and atomic_numbers (n,) -> (n, n) int8."""
    mask = np.ones((1, len(atomic_numbers)), dtype=bool)
    return bond_orders(positions[None], atomic_numbers[None], mask)[0].numpy()


def stability(
    positions: Tensor | np.ndarray,
    atomic_numbers: Tensor | np.ndarray,
    mask: Tensor | np.ndarray,
    hydrogens: Tensor | np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Which atoms and which molecules are stable by EDM's rules.

    An atom is stable when its bond orders (see `bond_orders`) sum to H 1, C 4, N 3, O 2, F 1; a molecule when it has
    atoms and all of them are stable. Arguments and errors as in `bond_orders`.

    With `hydrogens` (B, N), counts that united atoms carry, each counts as a single bond of its atom. That takes the
    hydrogens as placed so that each bonds to its atom alone, and has no hydrogens among the atoms that it scores:
    figures to publish are made on molecules with all atoms.

    Returns:
        atoms (B, N) bool, False for padding, and molecules (B,) bool.

    Example:
        >>> water = [[[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]]
        >>> atoms, molecules = stability(np.array(water), np.array([[8, 1, 1]]), np.ones((1, 3), bool))
        >>> molecules.tolist()
        [True]
    """
    return stability_of_orders(bond_orders(positions, atomic_numbers, mask), atomic_numbers, mask, hydrogens)


def stability_of_orders(
    orders: Tensor,
    atomic_numbers: Tensor | np.ndarray,
    mask: Tensor | np.ndarray,
    hydrogens: Tensor | np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """`stability` for bond orders (B, N, N) that are already at hand."""
    rows, mask = _table_rows(torch.as_tensor(atomic_numbers), torch.as_tensor(mask))
    bonds = orders.sum(-1)
    if hydrogens is not None:
        hydrogens = torch.as_tensor(hydrogens)
        if hydrogens.shape != mask.shape:
            raise MolflowError(f"expected hydrogens {tuple(mask.shape)}, got {tuple(hydrogens.shape)}")
        bonds = bonds + hydrogens
    atoms = (bonds == _VALENCE.to(rows.device)[rows]) & mask
    return atoms, (atoms | ~mask).all(-1) & mask.any(-1)


def _checked(
    positions: Tensor | np.ndarray, atomic_numbers: Tensor | np.ndarray, mask: Tensor | np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    positions, numbers, mask = torch.as_tensor(positions), torch.as_tensor(atomic_numbers), torch.as_tensor(mask)
    if positions.ndim != 3 or positions.shape[-1] != 3 or not positions.shape[:2] == numbers.shape == mask.shape:
        raise MolflowError(
            "expected positions (B, N, 3), atomic_numbers (B, N) and mask (B, N), "
            f"got {tuple(positions.shape)}, {tuple(numbers.shape)} and {tuple(mask.shape)}"
        )
    return positions, *_table_rows(numbers, mask)


def _table_rows(numbers: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the tables (B, N), with padding looked up as hydrogen, and the mask as bool."""
    numbers, mask = numbers.long(), mask.bool()
    numbers = numbers.where(mask, 1)
    rows = _ROW.to(numbers.device)[numbers.clamp(0, len(_ROW) - 1)]
    if bool((rows < 0).any()):
        molecule, atom = (rows < 0).nonzero()[0].tolist()
        raise MolflowError(
            f"molecule {molecule + 1} of the batch, atom {atom + 1}: element {symbol(int(numbers[molecule, atom]))} "
            f"is outside the look-up tables, which cover {' '.join(ELEMENTS)}"
        )
    return rows, mask
