"""Molecules of one size stacked, so that the bonds of a whole chunk are looked up at once without padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from molflow.chem.bonds import bond_orders
from molflow.chem.io import Structure

_PAIRS_AT_ONCE = 1 << 18  # atom pairs in one chunk: some MB, and about what a processor's cache holds


class BondedChunk(NamedTuple):
    """Some molecules of one size.

    Attributes:
        members: their places among all, (b,).
        positions: Å, (b, n, 3).
        atomic_numbers: (b, n).
        orders: of their look-up bonds, (b, n, n).
    """

    members: np.ndarray
    positions: np.ndarray
    atomic_numbers: np.ndarray
    orders: Tensor


def bonded_chunks(structures: Sequence[Structure]) -> Iterator[BondedChunk]:
    """All molecules, chunk by chunk, without padding and in bounded memory."""
    sizes = np.array([len(s.atomic_numbers) for s in structures])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_AT_ONCE // max(1, size * size))
        for start in range(0, len(members), step):
            chosen = members[start : start + step]
            chunk = [structures[k] for k in chosen]
            positions = np.stack([s.positions for s in chunk])
            numbers = np.stack([s.atomic_numbers for s in chunk])
            orders = bond_orders(positions, numbers, np.ones(numbers.shape, dtype=bool))
            yield BondedChunk(chosen, positions, numbers, orders)
