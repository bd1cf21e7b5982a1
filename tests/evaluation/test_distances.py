"""Distances on the grid against those taken one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from gaussians import harmonic
from scipy.stats import wasserstein_distance

from molflow.evaluation import evaluate_boltzmann, measured
from molflow.evaluation.distances import DistanceGrid, distance_counts


def all_distances(x):
    return np.array([[math.dist(c[i], c[j]) for i, j in itertools.combinations(range(len(c)), 2)] for c in x])


@pytest.mark.parametrize("far", [0, 1e6])
def test_distances_on_the_grid_equal_direct_ones(far, monkeypatch):
    """One exploded configuration does not coarsen the rest, and chunks change nothing."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 5, 3)), 1.1 * generator.normal(size=(50, 5, 3))
    x[0, 0] += far
    weights = generator.random(60)
    weights[0] *= 1 if far == 0 else 1e-9
    log_q = -np.log(weights) - harmonic(torch.from_numpy(x)).numpy()
    whole = evaluate_boltzmann(x, harmonic, log_prob=log_q, reference=y)
    a, b = all_distances(x), all_distances(y)
    bin_width = 1e-4 if far == 0 else 1e-3 * wasserstein_distance(a.ravel(), b.ravel())
    assert whole.w1_distance == pytest.approx(wasserstein_distance(a.ravel(), b.ravel()), abs=bin_width)
    expected = wasserstein_distance(a.ravel(), b.ravel(), np.repeat(weights, 10))
    assert whole.w1_distance_reweighted == pytest.approx(expected, abs=2e-3 if far else 1e-4)
    assert whole.w1_distance_halves == pytest.approx(wasserstein_distance(b[:25].ravel(), b[25:].ravel()), abs=1e-4)
    monkeypatch.setattr(measured, "_PAIRS_AT_ONCE", 1)
    assert evaluate_boltzmann(x, harmonic, log_prob=log_q, reference=y).to_dict() == pytest.approx(whole.to_dict())


def test_the_grid_counts_every_pair():
    x = np.random.default_rng(0).normal(size=(30, 5, 3))
    grid = DistanceGrid.spanning(x)
    counts = distance_counts(x, grid, np.array([np.ones(30), np.arange(30) < 10]))
    assert counts.sum(1).tolist() == [300, 100]
    assert np.all(np.diff(grid.edges)[grid.edges[:-1] < grid.scale] < 3e-5 * grid.scale)
    coarse = grid.edges[::4096]
    expected = np.histogram(all_distances(x), coarse)[0]
    assert np.array_equal(np.add.reduceat(counts[0], np.arange(0, 65536, 4096)), expected)
