"""Molecules of one size stacked, so that a whole chunk is looked up at once without padding."""

from collections.abc import Iterator, Sequence

import numpy as np

from molflow.chem.io import Structure

_PAIRS_AT_ONCE = 1 << 18  # atom pairs in one chunk: some MB, and about what a processor's cache holds


def equal_size_chunks(structures: Sequence[Structure]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (b, n, 3) and atomic numbers (b, n) of molecules of one size: no padding, and bounded memory."""
    sizes = np.array([len(s.atomic_numbers) for s in structures])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_AT_ONCE // max(1, size * size))
        for start in range(0, len(members), step):
            chunk = [structures[k] for k in members[start : start + step]]
            yield np.stack([s.positions for s in chunk]), np.stack([s.atomic_numbers for s in chunk])
