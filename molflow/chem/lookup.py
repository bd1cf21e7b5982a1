"""The look-up of `BondRules` for a whole batch of molecules at once, in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from molflow.chem.elements import SYMBOLS, atomic_number, symbol
from molflow.errors import MolflowError

if TYPE_CHECKING:
    from molflow.chem.bonds import Array, BondRules


class Tables(NamedTuple):
    """The tables of `BondRules` for E elements as tensors. Row E stands for every element outside the tables.

    Attributes:
        rows: atomic number -> row, (119,).
        limits: squared distance in Å² below which a pair has at least order k, (K, E + 1, E + 1) with order k at k - 1;
            0 where the order cannot be assigned.
        valences: allowed sums of bond orders, (E + 1, V), filled up with -1.
    """

    rows: Tensor
    limits: Tensor
    valences: Tensor

    @classmethod
    def of(cls, rules: BondRules) -> Tables:
        elements = rules.elements
        rows = np.full(len(SYMBOLS) + 1, len(elements))
        rows[[atomic_number(element) for element in elements]] = np.arange(len(elements))
        limits = np.zeros((len(rules.margins), len(elements) + 1, len(elements) + 1))
        for (a, b), lengths in rules.lengths.items():
            i, j = elements.index(a), elements.index(b)
            for k, length in enumerate(lengths):
                limits[k, i, j] = limits[k, j, i] = ((length + rules.margins[k]) / 100) ** 2
        # A higher order needs every lower one to hold. With limits that never grow, orders can simply be counted.
        limits = np.minimum.accumulate(limits)
        valences = np.full((len(elements) + 1, max(map(len, rules.valences.values()))), -1)
        for row, allowed in enumerate(rules.valences.values()):
            valences[row, : len(allowed)] = allowed
        return cls(*map(torch.from_numpy, (rows, limits, valences)))


def bond_orders(
    rules: BondRules, positions: Array, atomic_numbers: Array, mask: Array, refuse_foreign: bool = True
) -> Tensor:
    """See `BondRules.bond_orders`."""
    positions, numbers, mask = map(_tensor, (positions, atomic_numbers, mask))
    if positions.ndim != 3 or positions.shape[-1] != 3 or not positions.shape[:2] == numbers.shape == mask.shape:
        raise MolflowError(
            "expected positions (B, N, 3), atomic_numbers (B, N) and mask (B, N), "
            f"got {tuple(positions.shape)}, {tuple(numbers.shape)} and {tuple(mask.shape)}"
        )
    rows, mask = _rows(rules, numbers, mask)
    if refuse_foreign:
        _refuse_foreign(rules, rows, numbers)
    orders = _orders_between(rules, positions[:, :, None], rows[:, :, None], positions[:, None], rows[:, None])
    orders *= mask[:, :, None] & mask[:, None, :]
    orders.diagonal(dim1=1, dim2=2).zero_()
    return orders


def add_orders(
    rules: BondRules,
    orders: Tensor,
    positions: Tensor,
    atomic_numbers: Tensor,
    mask: Tensor,
    molecule: Tensor,
    place: Tensor,
) -> Tensor:
    """Bond orders of molecules to which atoms were appended. Only pairs with a new atom are looked up.

    Args:
        rules: the tables.
        orders: of the atoms that were there before, (B, M, M); with padding, M may be larger than N.
        positions: of all atoms, (B, N, 3), Å.
        atomic_numbers: (B, N).
        mask: (B, N).
        molecule, place: of each added atom, (A,) each.

    Returns:
        (B, N, N) int8, equal to what `bond_orders` gives for all atoms.
    """
    rows, mask = _rows(rules, atomic_numbers, mask)
    size, known = mask.shape[1], min(orders.shape[1], mask.shape[1])
    found = _orders_between(
        rules, positions[molecule, place][:, None], rows[molecule, place][:, None], positions[molecule], rows[molecule]
    )
    found *= mask[molecule]
    found[torch.arange(len(place), device=place.device), place] = 0
    grown = orders.new_zeros(len(mask), size, size)
    grown[:, :known, :known] = orders[:, :known, :known]
    grown[molecule, place] = found
    grown[molecule, :, place] = found
    return grown


def stability_of_orders(
    rules: BondRules, orders: Tensor, atomic_numbers: Array, mask: Array, hydrogens: Array | None = None
) -> tuple[Tensor, Tensor]:
    """See `BondRules.stability_of_orders`."""
    rows, mask = _rows(rules, _tensor(atomic_numbers), _tensor(mask))
    bonds = orders.sum(-1)
    if hydrogens is not None:
        hydrogens = _tensor(hydrogens)
        if hydrogens.shape != mask.shape:
            raise MolflowError(f"expected hydrogens {tuple(mask.shape)}, got {tuple(hydrogens.shape)}")
        bonds = bonds + hydrogens
    covered = (rows < len(rules.elements)).all(-1, keepdim=True)
    atoms = (bonds.unsqueeze(-1) == rules.tables.valences.to(rows.device)[rows]).any(-1) & mask & covered
    return atoms, (atoms | ~mask).all(-1) & mask.any(-1)


def _tensor(values: Array) -> Tensor:
    """Tensors as they are; arrays on the CPU, whatever the default device."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))


def _orders_between(rules: BondRules, x: Tensor, rows: Tensor, other_x: Tensor, other_rows: Tensor) -> Tensor:
    """Bond order of every pair of two broadcast sets of atoms: positions (..., 3), Å, and rows of the tables (...)."""
    squared = torch.zeros((), dtype=torch.float64, device=x.device)
    for a, b in zip(x.unbind(-1), other_x.unbind(-1), strict=True):  # one axis at a time, to save memory
        squared = squared + (a.double() - b.double()).square_()
    limits = rules.tables.limits.to(x.device)
    pair = rows * limits.shape[-1] + other_rows
    orders = torch.zeros(pair.shape, dtype=torch.int8, device=x.device)
    for limit in limits.flatten(1):
        orders += squared < limit[pair]
    return orders


def _rows(rules: BondRules, numbers: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the tables (B, N), 0 at padding, and the mask as bool. Raises MolflowError for an unknown element."""
    numbers, mask = numbers.long(), mask.bool()
    unknown = mask & ((numbers < 1) | (numbers > len(SYMBOLS)))
    if bool(unknown.any()):
        symbol(int(numbers[unknown][0]))  # raises
    return rules.tables.rows.to(numbers.device)[numbers.where(mask, 0)].where(mask, 0), mask


def _refuse_foreign(rules: BondRules, rows: Tensor, numbers: Tensor) -> None:
    foreign = rows == len(rules.elements)
    if bool(foreign.any()):
        molecule, atom = foreign.nonzero()[0].tolist()
        raise MolflowError(
            f"molecule {molecule + 1} of the batch, atom {atom + 1}: element {symbol(int(numbers[molecule, atom]))} "
            f"is outside the look-up tables, which cover {' '.join(rules.elements)}"
        )
