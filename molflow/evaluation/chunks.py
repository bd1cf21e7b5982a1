"""Look-up bonds of many molecules: molecules of one size are stacked and looked up together, without padding."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from molflow.chem.bonds import EDM_GEOM
from molflow.chem.build import bond_list
from molflow.chem.structure import Structure

_PAIRS_AT_ONCE = 1 << 18  # atom pairs in one chunk: some MB, about the size of a processor's cache


class Chunk(NamedTuple):
    """Some molecules of one size.

    Attributes:
        members: their places in the sequence of all molecules, (b,).
        atomic_numbers: (b, n).
        orders: their look-up bond orders, (b, n, n).
    """

    members: np.ndarray
    atomic_numbers: np.ndarray
    orders: Tensor


def bonded_chunks(structures: Sequence[Structure]) -> Iterator[Chunk]:
    """Look up bonds chunk by chunk, in bounded memory. Elements outside the tables have no bonds."""
    sizes = np.array([len(s.atomic_numbers) for s in structures])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_AT_ONCE // max(1, size * size))
        for start in range(0, len(members), step):
            chosen = members[start : start + step]
            positions = np.stack([structures[k].positions for k in chosen])
            numbers = np.stack([structures[k].atomic_numbers for k in chosen])
            mask = np.ones(numbers.shape, dtype=bool)
            yield Chunk(chosen, numbers, EDM_GEOM.bond_orders(positions, numbers, mask, refuse_foreign=False))


def look_up(structures: Sequence[Structure]) -> list[Structure]:
    """The same molecules with their look-up bonds.

    Those that have bonds already and those with an element outside the look-up tables are unchanged.
    """
    found = list(structures)
    missing = [k for k, s in enumerate(found) if s.bonds is None and EDM_GEOM.covers(s.atomic_numbers).all()]
    for chunk in bonded_chunks([found[k] for k in missing]):
        for member, orders in zip(chunk.members, chunk.orders.numpy(), strict=True):
            k = missing[member]
            found[k] = found[k]._replace(bonds=bond_list(orders))
    return found
