"""Distances between samples of vectors, and the calibration of posteriors: C2ST, MMD, ranks and expected coverage.

All take arrays or tensors of samples, never a model.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from molflow.extras import import_extra

Array = NDArray[Any]


def c2st(x: ArrayLike, y: ArrayLike, *, seed: int = 1, n_folds: int = 5) -> float:
    """Accuracy of a classifier that tells two samples apart: 0.5 if it cannot, 1 if it always can.

    The classifier and its settings are those of the benchmark sbibm (arXiv 2101.04653): two hidden layers of ten times
    the dimension, trained by Adam, cross-validated. The benchmark takes 10,000 samples of each.

    Args:
        x: (n, F), the reference, whose mean and standard deviation standardise both.
        y: (n, F), as many.
        seed: of the classifier and of the folds.
        n_folds: folds of the cross-validation.

    Raises:
        MolflowError: scikit-learn is not installed.
        ValueError: samples of another shape, not finite, or of different number, which would shift the 0.5.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 1))
        >>> c2st(x, x + 10, n_folds=2)
        1.0
    """
    import_extra("sklearn", "sbi", "c2st")
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    x, y = _samples(x, y)
    if len(x) != len(y):
        raise ValueError(f"c2st needs as many samples of each, got {len(x)} and {len(y)}")
    mean, std = x.mean(0), x.std(0, ddof=1)
    width = 10 * x.shape[1]
    classifier = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    folds = KFold(n_folds, shuffle=True, random_state=seed)
    labels = np.repeat([0, 1], len(x))
    return float(cross_val_score(classifier, (np.concatenate([x, y]) - mean) / std, labels, cv=folds).mean())


def mmd(x: ArrayLike, y: ArrayLike, bandwidth: float | None = None) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al., JMLR 13 (2012) 723).

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) with k(a, b) = exp(-|a - b|^2 / 2 s^2). It is 0 in expectation for
    equal distributions, and can be negative.

    Args:
        x: (n, F), at least two.
        y: (m, F), at least two.
        bandwidth: s; by default the median distance of the first 1,000 samples of x and y together.

    Raises:
        ValueError: samples of another shape, or not finite.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(200, 1))
        >>> mmd(x[:100], x[100:]) < 0.1 < mmd(x[:100], x[100:] + 3)
        True
    """
    x, y = _samples(x, y)
    if bandwidth is None:
        some = np.concatenate([x[:500], y[:500]])
        bandwidth = float(np.median(_distances(some, some)[np.triu_indices(len(some), 1)]))

    def total(a: Array, b: Array) -> float:
        parts = np.array_split(a, max(1, len(a) * len(b) // 10**7))
        return sum(float(np.exp(-(_distances(part, b) ** 2) / (2 * bandwidth**2)).sum()) for part in parts)

    n, m = len(x), len(y)
    return (total(x, x) - n) / (n * (n - 1)) + (total(y, y) - m) / (m * (m - 1)) - 2 * total(x, y) / (n * m)


def calibration_ranks(theta: ArrayLike, samples: ArrayLike) -> Array:
    """Ranks of true parameters among posterior samples, int (n, F), from 0 to L (Talts et al., arXiv 1804.06788).

    For parameters from the prior, and samples of the exact posterior given their simulations, they are uniform.

    Args:
        theta: (n, F), the parameters of n simulations.
        samples: (n, L, F), L independent samples of the posterior of each.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Example:
        >>> calibration_ranks([[0.5]], [[[0.1], [0.2], [0.9]]]).tolist()
        [[2]]
    """
    theta, samples = _simulations(theta, samples)
    ranks: Array = (samples < theta[:, None]).sum(1)
    return ranks


def uniformity(ranks: ArrayLike, n_samples: int, seed: int = 0) -> Array:
    """p-values (F,) of Kolmogorov-Smirnov tests that ranks (n, F) from 0 to `n_samples` are uniform.

    Each rank stands for a random number in its interval, so that the test is exact.

    Args:
        ranks: as `calibration_ranks` gives them, (n, F).
        n_samples: the highest possible rank.
        seed: of the random numbers that stand for ranks.

    Example:
        >>> bool(uniformity(np.arange(100)[:, None], 99)[0] > 0.5)
        True
    """
    from scipy.stats import kstest

    ranks = np.asarray(ranks)
    spread = (ranks + np.random.default_rng(seed).random(ranks.shape)) / (n_samples + 1)
    return np.array([kstest(column, "uniform").pvalue for column in spread.T])


class Coverage(NamedTuple):
    """How often credible regions hold the true parameters.

    Attributes:
        levels: credibility of the regions, from 0 to 1.
        coverage: share of simulations whose region of this level holds the true parameters.
        n: number of simulations.
    """

    levels: Array
    coverage: Array
    n: int

    @property
    def largest_error(self) -> float:
        """The largest distance of the coverage from its level; about 0.87 / sqrt(n) for a calibrated posterior."""
        return float(np.abs(self.coverage - self.levels).max())

    @property
    def p_value(self) -> float:
        """Of the Kolmogorov-Smirnov test that the posterior is calibrated."""
        from scipy.stats import kstwo

        return float(kstwo.sf(self.largest_error, self.n))


def expected_coverage(theta: ArrayLike, samples: ArrayLike, *, n_levels: int = 101, seed: int = 0) -> Coverage:
    """Coverage of regions around random points (TARP, Lemos et al., arXiv 2302.03026).

    For each simulation a point is drawn in the box that all true parameters span. The region of level a around it holds
    a share a of the posterior's samples. Only the exact posterior covers a share a at all levels.

    Args:
        theta: (n, F), the parameters of n simulations.
        samples: (n, L, F), L independent samples of the posterior of each.
        n_levels: levels at which the coverage is given.
        seed: of the points.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> coverage = expected_coverage(rng.normal(size=(100, 2)), rng.normal(size=(100, 50, 2)))
        >>> coverage.coverage.shape
        (101,)
    """
    theta, samples = _simulations(theta, samples)
    n, n_samples = samples.shape[:2]
    rng = np.random.default_rng(seed)
    low, high = theta.min(0), theta.max(0)
    width = np.where(high > low, high - low, 1.0)
    points = low + width * rng.random(theta.shape)
    distance = np.linalg.norm((theta - points) / width, axis=1)
    closer = np.linalg.norm((samples - points[:, None]) / width, axis=2) < distance[:, None]
    level = (closer.sum(1) + rng.random(n)) / (n_samples + 1)  # uniform if calibrated, for any number of samples
    levels = np.linspace(0, 1, n_levels)
    return Coverage(levels, (level[:, None] <= levels).mean(0), n)


def _samples(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Two samples as float64."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"expected samples (n, F) and (m, F), at least two, got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("expected finite samples")
    return x, y


def _simulations(theta: ArrayLike, samples: ArrayLike) -> tuple[Array, Array]:
    """True parameters and posterior samples as float64."""
    theta, samples = np.asarray(theta, np.float64), np.asarray(samples, np.float64)
    if theta.ndim != 2 or samples.ndim != 3 or theta.shape != (samples.shape[0], samples.shape[2]) or not theta.size:
        raise ValueError(f"expected theta (n, F) and samples (n, L, F), got {theta.shape} and {samples.shape}")
    if not (np.isfinite(theta).all() and np.isfinite(samples).all()):
        raise ValueError("expected finite parameters and samples")
    return theta, samples


def _distances(a: Array, b: Array) -> Array:
    from scipy.spatial.distance import cdist

    distances: Array = cdist(a, b)
    return distances
