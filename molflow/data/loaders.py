"""The order of data in batches.

The order is a pure function of (seed, epoch): a resumed run draws the epoch again and skips the batches it has done.
"""

from typing import Protocol

import numpy as np

from molflow.errors import MolflowError


class Batches(Protocol):
    """The contract of a loader: the batches of each epoch."""

    batch_size: int

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch (0, 1, ...) in training order, each an array of up to batch_size indices."""


class EqualSizeBatches:
    """Batches of molecules of one size, so that no padding is computed; an epoch visits each molecule exactly once.

    Each size leaves at most one batch that is not full. It is kept and makes one step like any other, so its molecules
    weigh more in that epoch; the shuffle chooses others in the next.

    Args:
        n_atoms: (M,) atoms in each molecule.
        batch_size: the largest batch, 1 or more.
        seed: 0 or more.

    Example:
        >>> batches = EqualSizeBatches(np.array([3, 5, 3, 3, 5]), batch_size=2, seed=0)
        >>> len(batches), sorted(map(len, batches.epoch(0)))
        (3, [1, 2, 2])
    """

    def __init__(self, n_atoms: np.ndarray, batch_size: int, seed: int = 0) -> None:
        if len(n_atoms) == 0:
            raise MolflowError("there are no molecules to put into batches")
        if batch_size < 1 or seed < 0:
            raise MolflowError(f"batch_size must be 1 or more and seed 0 or more, got {batch_size} and {seed}")
        by_size = np.argsort(n_atoms, kind="stable")
        self._groups = np.split(by_size, np.flatnonzero(np.diff(np.asarray(n_atoms)[by_size])) + 1)
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return sum(-(-len(group) // self.batch_size) for group in self._groups)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch (0, 1, ...) in training order, each an array of up to batch_size indices."""
        rng = np.random.default_rng([self.seed, epoch])
        batches = [
            batch
            for group in self._groups
            for batch in np.split(rng.permutation(group), range(self.batch_size, len(group), self.batch_size))
        ]
        return [batches[i] for i in rng.permutation(len(batches))]


class EqualCostBatches:
    """Batches of molecules of similar size, with about as many pairs of points each; an epoch visits each once.

    The cost and the memory of a step grow with B N^2, B molecules padded to N points. A batch has at most
    `batch_size` mean(n^2) such pairs, so that large molecules come in small batches, but at least one molecule.

    Args:
        n_atoms: (M,) points in each molecule.
        batch_size: molecules in a batch of average ones, 1 or more.
        seed: 0 or more.

    Example:
        >>> [sorted(b.tolist()) for b in EqualCostBatches(np.array([2, 2, 2, 2, 8]), batch_size=1).epoch(0)]
        [[0, 1, 2, 3], [4]]
    """

    def __init__(self, n_atoms: np.ndarray, batch_size: int, seed: int = 0) -> None:
        if len(n_atoms) == 0:
            raise MolflowError("there are no molecules to put into batches")
        if batch_size < 1 or seed < 0:
            raise MolflowError(f"batch_size must be 1 or more and seed 0 or more, got {batch_size} and {seed}")
        self.batch_size, self.seed = batch_size, seed
        self._n_atoms = np.asarray(n_atoms, dtype=np.int64)
        self._pairs = batch_size * float(np.square(self._n_atoms).mean())
        sizes = np.sort(self._n_atoms)
        self._ends = [0]  # of batches of molecules in the order of their size
        while (start := self._ends[-1]) < len(sizes):
            padded = np.arange(1, len(sizes) - start + 1) * np.square(sizes[start:])
            self._ends.append(start + max(1, int(np.searchsorted(padded, self._pairs, side="right"))))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._ends) - 1

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch (0, 1, ...) in training order, each an array of indices."""
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self._n_atoms))
        by_size = shuffled[np.argsort(self._n_atoms[shuffled], kind="stable")]
        batches = np.split(by_size, self._ends[1:-1])
        return [batches[i] for i in rng.permutation(len(batches))]


class MixedSizeBatches:
    """Full batches of data of any size, for code that needs one shape; an epoch leaves out the remainder.

    Args:
        n_molecules: M, the number of data.
        batch_size: data in every batch, 1 to M.
        seed: 0 or more.

    Example:
        >>> [len(batch) for batch in MixedSizeBatches(5, batch_size=2).epoch(0)]
        [2, 2]
    """

    def __init__(self, n_molecules: int, batch_size: int, seed: int = 0) -> None:
        if not 1 <= batch_size <= n_molecules or seed < 0:
            raise MolflowError(f"batch_size must be 1 to {n_molecules} and seed 0 or more, got {batch_size} and {seed}")
        self.n_molecules, self.batch_size, self.seed = n_molecules, batch_size, seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.n_molecules // self.batch_size

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch (0, 1, ...) in training order, each an array of batch_size indices."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.n_molecules)
        return np.split(order[: len(self) * self.batch_size], len(self))
