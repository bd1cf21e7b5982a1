"""Valences: EDM's rule for neutral atoms, and a table by formal charge."""

VALENCES: dict[str, int] = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}
"""The sum of look-up bond orders at which an atom is stable, by EDM (arXiv 2203.17003)."""

VALENCES_BY_CHARGE: dict[str, dict[int, tuple[int, ...]]] = {
    "H": {0: (1,)},
    "B": {0: (3,), -1: (4,)},
    "C": {0: (4,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "Si": {0: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 4, 6), 1: (3, 5), -1: (1,)},
    "Cl": {0: (1,), -1: (0,)},
    "As": {0: (3, 5), 1: (4,)},
    "Se": {0: (2, 4, 6), 1: (3,), -1: (1,)},
    "Br": {0: (1,), -1: (0,)},
    "I": {0: (1, 3, 5), -1: (0,)},
}
"""The sums of kekulised bond orders that complete an atom's shell, by formal charge; any other is not stable.

These follow the octet rule and, from the third period on, include the higher valences that occur in organic molecules.
A table by element alone rejects every nitro group; widened to accept them, it also accepts neutral four-valent
nitrogen. Rounding aromatic bonds to one whole order hides further errors (arXiv 2505.00169).
"""
