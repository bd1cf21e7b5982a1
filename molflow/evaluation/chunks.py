"""Molecules of one size stacked, so that the bonds of a whole chunk are looked up at once without padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from molflow.chem.bonds import bond_orders
from molflow.chem.io import Structure

_PAIRS_AT_ONCE = 1 << 18  # atom pairs in one chunk: some MB, and about what a processor's cache holds


def bonded_chunks(structures: Sequence[Structure]) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Positions (b, n, 3), atomic numbers (b, n) and look-up bond orders (b, n, n) of molecules of one size.

    There is no padding, and memory is bounded.
    """
    sizes = np.array([len(s.atomic_numbers) for s in structures])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_AT_ONCE // max(1, size * size))
        for start in range(0, len(members), step):
            chunk = [structures[k] for k in members[start : start + step]]
            positions = np.stack([s.positions for s in chunk])
            numbers = np.stack([s.atomic_numbers for s in chunk])
            yield positions, numbers, bond_orders(positions, numbers, np.ones(numbers.shape, dtype=bool))
