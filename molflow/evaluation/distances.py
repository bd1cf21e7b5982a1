"""Counts of the distances of all pairs of particles, on a grid that is fine enough for Wasserstein distances."""

import math
from typing import NamedTuple

import numpy as np

from molflow.energies.base import squared_pair_distances
from molflow.evaluation.measured import Measured, chunks, finite_configurations
from molflow.evaluation.statistics import Array

_DISTANCE_BINS = 1 << 16


class DistanceGrid(NamedTuple):
    """Bins for distances: fine up to `scale`, then ever wider up to `top`, so that outliers do not coarsen the rest.

    Edge k is scale sinh(k s); the bins below `scale` are all narrower than 1.5 s scale, with s about 10^-5.
    """

    scale: float
    top: float

    @classmethod
    def spanning(cls, typical: Array, *others: Array) -> "DistanceGrid":
        """A grid for all pairs in configurations (n, N, D); the first array sets the scale."""
        diagonals = [_diagonals(x) for x in (typical, *others) if len(x)]
        if not diagonals:
            return cls(1.0, 1.0)
        scale = float(np.median(diagonals[0])) or 1.0
        return cls(scale, max(scale, *(float(d.max()) for d in diagonals)))

    @property
    def step(self) -> float:
        return math.asinh(self.top / self.scale) / _DISTANCE_BINS

    @property
    def edges(self) -> Array:
        edges: Array = self.scale * np.sinh(self.step * np.arange(_DISTANCE_BINS + 1))
        return edges

    @property
    def centres(self) -> Array:
        edges = self.edges
        return 0.5 * (edges[:-1] + edges[1:])


def distance_counts(positions: Array, grid: DistanceGrid, weights: Array) -> Array:
    """Weight of pairs i < j in each bin of the grid, for several weightings of configurations at once.

    Configurations are counted in chunks of bounded memory. Values are rounded to their bin, so a Wasserstein distance
    from these counts is off by at most a bin's width.

    Args:
        positions: finite, (n, N, D).
        grid: the bins.
        weights: weights of configurations, (k, n).

    Returns:
        (k, number of bins).
    """
    counts = np.zeros((len(weights), _DISTANCE_BINS))
    for part, chunk in chunks(positions):
        distances = squared_pair_distances(chunk).sqrt_()
        bins = (distances.div_(grid.scale).asinh_().div_(grid.step)).clamp_(max=_DISTANCE_BINS - 1).long()
        flat = bins.numpy().ravel()
        for total, w in zip(counts, weights[:, part], strict=True):
            total += np.bincount(flat, np.broadcast_to(w, bins.shape).ravel(), _DISTANCE_BINS)
    return counts


def pair_distances(measured: Measured) -> tuple[DistanceGrid, Array, Array | None, Array | None]:
    """A grid, and the counts of samples, of reweighted samples, and of the two halves (2, bins) of the reference."""
    fine = finite_configurations(measured.samples)
    samples, reference = measured.samples[fine], measured.reference
    typical = (samples,) if reference is None else (reference, samples)
    grid = DistanceGrid.spanning(*typical)
    weightings = [np.ones(len(samples))]
    if measured.weights is not None:
        weightings.append(measured.weights[fine])
    raw, *reweighted = distance_counts(samples, grid, np.array(weightings))
    halves = None
    if reference is not None:
        first = (np.arange(len(reference)) < len(reference) // 2).astype(np.float64)
        halves = distance_counts(reference, grid, np.array([first, 1 - first]))
    return grid, raw, reweighted[0] if reweighted else None, halves


def _diagonals(positions: Array) -> Array:
    """An upper bound for the distances in each configuration, (n,)."""
    x = positions.astype(np.float64, copy=False)
    sides = x.max(1) - x.min(1)
    bounds: Array = np.minimum(sides.max(1) * math.sqrt(x.shape[2]), 1e300)
    return bounds
