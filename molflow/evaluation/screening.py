"""Descriptors by which molecules are screened before anyone makes them.

RDKit is imported inside functions.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from rdkit import Chem


class Descriptors(NamedTuple):
    """Descriptors of one molecule.

    Attributes:
        qed: quantitative estimate of drug-likeness, 0..1 (G. R. Bickerton et al., Nat. Chem. 4 (2012) 90).
        sa_score: synthetic accessibility, 1 (easy) to 10 (P. Ertl, A. Schuffenhauer, J. Cheminf. 1 (2009) 8).
        logp: octanol-water partition by Crippen (S. A. Wildman, G. M. Crippen, J. Chem. Inf. Comp. Sci. 39 (1999) 868).
        molecular_weight: Da.
        rings, aromatic_rings: numbers of rings in the smallest set of smallest rings.
    """

    qed: float
    sa_score: float
    logp: float
    molecular_weight: float
    rings: int
    aromatic_rings: int


def descriptors(mol: Chem.Mol) -> Descriptors:
    """Descriptors of a sanitised molecule, with or without hydrogens.

    Args:
        mol: the molecule.

    Raises:
        MolflowError: RDKit's Contrib folder, which has the SA score, is missing.

    Example:
        >>> from rdkit import Chem
        >>> descriptors(Chem.MolFromSmiles("c1ccccc1O")).rings
        1
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, rdMolDescriptors

    qed: Any = QED  # has no types
    with rdBase.BlockLogs():
        heavy = Chem.RemoveHs(mol)
        found = qed.properties(heavy)  # most of the time; it has Crippen's logP and the weight as well
        return Descriptors(
            qed=qed.qed(heavy, qedProperties=found),
            sa_score=_sa_scorer().calculateScore(heavy),
            logp=found.ALOGP,
            molecular_weight=found.MW,
            rings=rdMolDescriptors.CalcNumRings(heavy),
            aromatic_rings=rdMolDescriptors.CalcNumAromaticRings(heavy),
        )


@cache
def _sa_scorer() -> Any:
    """The module of the SA score, which RDKit ships as a file in its Contrib folder."""
    from rdkit.Chem import RDConfig

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MolflowError(f"{path}: missing; expected RDKit's Contrib folder, which its wheels include")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
