"""Statistics of samples of numbers: means, intervals, bootstrap errors and Wasserstein distances."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200
"""Number of bootstrap resamples for an error."""

Array = NDArray[Any]
Number = float | None


def wilson_interval(successes: int, total: int, z: float = 1.96) -> tuple[float, float] | None:
    """Wilson's score interval of a fraction, 95 % at the default z; None if the total is 0.

    centre (p + z²/2n) / (1 + z²/n), half-width z / (1 + z²/n) · sqrt(p(1-p)/n + z²/4n²). It stays inside 0..1 and has
    a width at p = 0 and p = 1, where that of the normal approximation is 0. It assumes independent trials.

    Args:
        successes: their number.
        total: the number of trials.
        z: half-width in standard deviations.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.

    Example:
        >>> wilson_interval(9, 10)
        (0.5958436145024278, 0.9821242504842788)
    """
    if total == 0:
        return None
    p, shrink = successes / total, 1 + z * z / total
    centre = (p + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding must not leave p outside


def mean_and_error(values: Array) -> tuple[Number, Number]:
    """Mean of independent values (n,) and its standard error s / sqrt(n); None where n is too small."""
    if len(values) == 0:
        return None, None
    with np.errstate(over="ignore", invalid="ignore"):
        error = finite_number(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        return finite_number(values.mean()), error


def bootstrap_errors(
    statistics: Callable[[Array], Sequence[float]], n: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> list[Number]:
    """Standard errors of statistics of n independent samples: their standard deviations over resamples.

    Args:
        statistics: function from the indices of samples (n,), drawn with replacement, to figures.
        n: number of samples.
        seed: seed of the resampling.
        resamples: number of resamples.

    Source: B. Efron, Ann. Statist. 7 (1979) 1.
    """
    if n < 2:
        return [None] * len(statistics(np.arange(n)))
    generator = np.random.default_rng(seed)
    draws = np.array([statistics(generator.integers(n, size=n)) for _ in range(resamples)])
    with np.errstate(invalid="ignore"):
        return [finite_number(error) for error in draws.std(axis=0, ddof=1)]


def wasserstein(a: Array, b: Array, a_weights: Array | None = None, b_weights: Array | None = None) -> Number:
    """Wasserstein-1 distance of two samples of numbers: the integral of |F_a - F_b|, in the unit of the numbers.

    Args:
        a, b: finite values, (n,) and (m,).
        a_weights, b_weights: non-negative weights of any positive sum, or None for equal ones.

    Returns:
        None if a sample is empty or has no weight.
    """
    from scipy.stats import wasserstein_distance  # takes half a second to import

    for values, weights in ((a, a_weights), (b, b_weights)):
        if len(values) == 0 or (weights is not None and not weights.sum() > 0):
            return None
    with np.errstate(over="ignore", invalid="ignore"):
        return finite_number(wasserstein_distance(a, b, a_weights, b_weights))


def finite_number(value: Any) -> Number:
    """A plain float, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None
