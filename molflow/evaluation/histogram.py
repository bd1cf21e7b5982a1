"""Histograms of energies and of distances, ready for a plot."""

from typing import Any

import numpy as np

from molflow.energies.base import Potential
from molflow.evaluation.distances import pair_distances
from molflow.evaluation.measured import ArrayLike, Measured, measure
from molflow.evaluation.statistics import Array


def histograms(
    samples: ArrayLike,
    energy: Potential,
    *,
    log_prob: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    bins: int = 100,
) -> dict[str, Any]:
    """Histograms of energies and of the distances of all pairs, ready for JSON and for a plot.

    The edges span the reference and the samples near it. Energies leave out the outer 1 % of the samples and go at most
    one width of the reference beyond it; distances go from 0 to at most twice the longest of the reference. The share
    beyond the edges is recorded: the sum of density x width plus `outside` is 1. Samples without a finite energy are
    outside; distances leave out samples with a coordinate that is not finite.

    Args:
        samples, energy, log_prob, reference: as in `evaluate_boltzmann`.
        bins: number of bins of each histogram, of equal width.

    Returns:
        For "energy" and "distance": `edges` (bins + 1) and, under `samples`, `reweighted` and `reference`, the
        `density` (bins) and the share `outside`, or None.

    Raises:
        MolflowError: as in `evaluate_boltzmann`.

    Example:
        >>> x = molflow.load_pretrained("dw4").sample(50, seed=0)
        >>> sorted(histograms(x, molflow.energies.DoubleWell(), bins=10))
        ['distance', 'energy']
    """
    return histograms_of(measure(samples, energy, log_prob, reference), bins)


def histograms_of(measured: Measured, bins: int) -> dict[str, Any]:
    """`histograms` of what is measured already."""
    return {"energy": _energy_histogram(measured, bins), "distance": _distance_histogram(measured, bins)}


def _energy_histogram(measured: Measured, bins: int) -> dict[str, Any]:
    u, reference = measured.energies, measured.reference_energies
    finite = u[np.isfinite(u)]
    low, high = np.quantile(finite, [0.01, 0.99]) if len(finite) else (0.0, 1.0)
    if reference is not None:
        first, last = float(reference.min()), float(reference.max())
        width = last - first
        low, high = np.clip([min(low, first), max(high, last)], first - width, last + width)
    edges = _edges(float(low), float(high), bins)
    in_range = np.where(np.isfinite(u), u, np.inf)

    def record(values: Array | None, weights: Array | None = None) -> dict[str, Any] | None:
        if values is None:
            return None
        mass = np.histogram(values, edges, weights=weights)[0] / (len(values) if weights is None else weights.sum())
        return histogram_record(mass, edges)

    return {
        "edges": edges.tolist(),
        "samples": record(in_range),
        "reweighted": None if measured.weights is None else record(in_range, measured.weights),
        "reference": record(reference),
    }


def _distance_histogram(measured: Measured, bins: int) -> dict[str, Any]:
    grid, raw, reweighted, halves = pair_distances(measured)
    fine = grid.edges
    reference = None if halves is None else halves.sum(0)

    def shares(counts: Array) -> Array:
        """Cumulative share at the fine edges."""
        return np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])

    high = float(np.interp(0.999, shares(raw), fine)) if raw.any() else grid.scale
    if reference is not None:
        longest = float(fine[1:][reference > 0][-1])
        high = min(max(high, longest), 2 * longest)
    edges = _edges(0.0, high, bins)

    def record(counts: Array | None) -> dict[str, Any] | None:
        if counts is None or not counts.any():
            return None
        return histogram_record(np.diff(np.interp(edges, fine, shares(counts))), edges)

    return {
        "edges": edges.tolist(),
        "samples": record(raw),
        "reweighted": record(reweighted),
        "reference": record(reference),
    }


def _edges(low: float, high: float, bins: int) -> Array:
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def histogram_record(mass: Array, edges: Array) -> dict[str, Any]:
    """The density in each bin and the share beyond the edges, of shares in each bin."""
    return {"density": (mass / np.diff(edges)).tolist(), "outside": max(0.0, 1.0 - float(mass.sum()))}
