"""The SMILES that EDM's code (arXiv 2203.17003) counts molecules by.

Nothing here loads torch. RDKit is imported inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from molflow.chem.build import is_sanitised

if TYPE_CHECKING:
    from rdkit import Chem


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
