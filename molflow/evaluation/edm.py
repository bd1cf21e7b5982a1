"""What EDM's code (arXiv 2203.17003) counts besides look-up stability: its SMILES, and its tables for more elements.

Nothing here loads torch. RDKit is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from molflow.chem.bonds import EDM_GEOM
from molflow.chem.build import is_sanitised
from molflow.chem.elements import symbol
from molflow.evaluation.contacts import pairs_within

if TYPE_CHECKING:
    from rdkit import Chem

_LONGEST = (max(map(max, EDM_GEOM.lengths.values())) + EDM_GEOM.margins[0]) / 100  # Å


def explicit_smiles(raw: Chem.Mol, *, largest: bool = False) -> str | None:
    """SMILES of EDM's code: hydrogens that the molecule has are atoms of it, missing ones are implied.

    An ethyl radical is therefore neither ethane nor equal to it, although both are valid.

    Args:
        raw: not sanitised, with all hydrogens as atoms, as `molflow.chem.build.bonded_mol` builds it.
        largest: of the largest fragment alone, as samples are counted; of several, the first in the alphabet. Training
            molecules are counted as a whole.

    Returns:
        Without stereochemistry; None if RDKit refuses the whole molecule.

    Example:
        >>> from molflow.chem.build import bonded_mol
        >>> water = bonded_mol(np.eye(3), np.array([8, 1, 1]), np.array([[0, 1, 1], [0, 2, 1]]))
        >>> explicit_smiles(water)
        '[H]O[H]'
    """
    from rdkit import Chem

    whole = Chem.Mol(raw)
    for atom in whole.GetAtoms():
        atom.SetNoImplicit(False)
    if not is_sanitised(whole):
        return None
    parts = Chem.GetMolFrags(whole, asMols=True) if largest else (whole,)
    size = max(part.GetNumAtoms() for part in parts)
    return min(Chem.MolToSmiles(part, isomericSmiles=False) for part in parts if part.GetNumAtoms() == size)


def geom_stable_atoms(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Whether each atom is stable by `EDM_GEOM`: `BondRules.stability` for a single molecule, without torch.

    Worker processes, which load no torch, need it for molecules that `EDM_QM9` does not cover.

    Args:
        positions: finite, (n, 3), Å.
        atomic_numbers: (n,).

    Returns:
        (n,) bool; no atom is stable if an element is outside the tables.
    """
    n = len(atomic_numbers)
    if not EDM_GEOM.covers(atomic_numbers).all():
        return np.zeros(n, dtype=bool)
    elements = [symbol(number) for number in atomic_numbers.tolist()]
    pairs = pairs_within(_LONGEST, positions)
    x = positions.astype(np.float64)
    lengths = 100 * np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    orders = [_order(elements[i], elements[j], d) for (i, j), d in zip(pairs.tolist(), lengths.tolist(), strict=True)]
    sums = np.bincount(pairs.ravel(), np.repeat(np.array(orders, dtype=np.int64), 2), n).tolist()
    return np.array([int(k) in EDM_GEOM.valences[element] for k, element in zip(sums, elements, strict=True)])


def _order(a: str, b: str, distance: float) -> int:
    """The bond order of two elements at a distance in pm: each order needs every lower one."""
    limits = EDM_GEOM.lengths.get((a, b)) or EDM_GEOM.lengths.get((b, a), ())
    order = 0
    for length, margin in zip(limits, EDM_GEOM.margins, strict=False):
        if distance >= length + margin:
            break
        order += 1
    return order
