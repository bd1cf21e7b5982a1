"""How many bonds an atom may have: EDM's rule for neutral atoms, and the octet rule for charged ones.

Plain tables apart from the rest, so that worker processes need not load torch for them.
"""

VALENCES: dict[str, int] = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}
"""The one sum of look-up bond orders at which an atom counts as stable, by EDM (arXiv 2203.17003)."""

OCTET_VALENCES: dict[str, dict[int, int]] = {
    "H": {0: 1},
    "C": {0: 4, -1: 3},
    "N": {0: 3, 1: 4, -1: 2},
    "O": {0: 2, 1: 3, -1: 1},
    "F": {0: 1, -1: 0},
}
"""The sum of kekulised bond orders that completes an atom's shell, by formal charge; other charges are never stable.

A table by element alone calls every nitro group wrong, and one that was widened to let them pass also lets neutral
four-valent nitrogen pass; rounding aromatic bonds to one whole order hides further errors (arXiv 2505.00169).
"""
