"""Intervals for the fractions that the evaluators report."""

from math import sqrt


def wilson_interval(successes: int, total: int, z: float = 1.96) -> tuple[float, float] | None:
    """Wilson's score interval of a fraction, 95 % at the default z; None where the total is 0.

    centre (p + z²/2n) / (1 + z²/n), half-width z / (1 + z²/n) · sqrt(p(1-p)/n + z²/4n²). It stays inside 0..1 and keeps
    its width at p = 0 and p = 1, where the normal approximation has none. It assumes independent trials.

    Source: E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if total == 0:
        return None
    p, shrink = successes / total, 1 + z * z / total
    centre = (p + z * z / (2 * total)) / shrink
    half = z / shrink * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
