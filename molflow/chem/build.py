"""RDKit molecules from positions and elements, with look-up bonds and no atom added or removed.

RDKit is imported inside functions, so that training and sampling run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from molflow.chem.bonds import EDM_QM9, orders_of_one

if TYPE_CHECKING:
    from rdkit import Chem

_MOST_FORMS = 64  # mesomeric forms of a molecule that are compared


def bonded_mol(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray | None = None) -> Chem.RWMol:
    """Build an unsanitised molecule with the given bonds and one 3D conformer, however wrong its chemistry is.

    Atoms get no implicit hydrogens: a carbon with three neighbours stays a radical instead of being completed.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order 1 to 3, (m, 3); by default the look-up bonds of this molecule.

    Raises:
        MolflowError: an element outside the look-up tables, if `bonds` is not given.

    Example:
        >>> mol = bonded_mol(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]), np.array([1, 1]))
        >>> mol.GetNumAtoms(), mol.GetNumBonds()
        (2, 1)
    """
    from rdkit import Chem

    if bonds is None:
        bonds = bond_list(orders_of_one(positions, atomic_numbers))
    mol = Chem.RWMol()
    for number in atomic_numbers.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j, order in bonds.tolist():
        mol.AddBond(i, j, Chem.BondType.values[order])
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.AddConformer(conformer, assignId=True)
    return mol


def bond_list(orders: np.ndarray) -> np.ndarray:
    """The bonds of a symmetric matrix of orders (n, n), as rows of two atoms and an order, (m, 3) int64."""
    first, second = np.nonzero(np.triu(orders))
    return np.stack([first, second, orders[first, second]], axis=1)


def to_rdkit(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray | None = None) -> Chem.Mol | None:
    """Build a sanitised molecule with a conformer. Arguments as in `bonded_mol`.

    If `bonds` is not given, they are the look-up bonds; if an element is outside the look-up tables, they are the bonds
    and formal charges that `molflow.chem.perceive` finds.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order 1 to 3, (m, 3), or None.

    Returns:
        rdkit.Chem.Mol with all hydrogens explicit, or None where RDKit refuses (usually an atom with too many bonds),
        where perception finds no bonds, or where there are no atoms. Radicals and several fragments are accepted.

    Example:
        >>> water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
        >>> to_rdkit(water, np.array([8, 1, 1])).GetNumBonds()
        2
    """
    if bonds is None and not EDM_QM9.covers(atomic_numbers).all():
        from molflow.chem.perception import perceive

        return perceive(positions, atomic_numbers).mol
    mol = bonded_mol(positions, atomic_numbers, bonds)
    return mol.GetMol() if len(positions) and is_sanitised(mol) else None


def is_sanitised(mol: Chem.Mol) -> bool:
    """Sanitise a molecule in place. Return whether RDKit accepts it."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return bool(Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE)


def is_connected(mol: Chem.Mol) -> bool:
    """Whether the molecule is one fragment.

    Args:
        mol: any molecule.

    Example:
        >>> from rdkit import Chem
        >>> is_connected(Chem.MolFromSmiles("CCO")), is_connected(Chem.MolFromSmiles("C.O"))
        (True, False)
    """
    from rdkit import Chem

    return len(Chem.GetMolFrags(mol)) == 1


def canonical_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES without hydrogens and without stereochemistry. Two molecules with equal SMILES count as equal.

    Use this function for reference molecules too, or equal molecules will look different.

    Args:
        mol: a sanitised molecule.

    Example:
        >>> from rdkit import Chem
        >>> canonical_smiles(Chem.MolFromSmiles("OCC")), canonical_smiles(Chem.MolFromSmiles("CCO"))
        ('CCO', 'CCO')
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return str(Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False), isomericSmiles=False))


def mesomeric_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES that all mesomeric forms of a molecule share, as those of a sulfoxide or a guanidinium.

    It is the first in the alphabet of `mesomeric_forms`.
    """
    return min(mesomeric_forms(mol))


def mesomeric_forms(mol: Chem.Mol) -> set[str]:
    """Canonical SMILES of a molecule as RDKit normalises it and, if it has charges, of its mesomeric forms."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    smiles = canonical_smiles(mol)
    with rdBase.BlockLogs():
        plain = Chem.MolFromSmiles(smiles)
        if plain is None:
            return {smiles}
        normal = rdMolStandardize.Normalize(plain)
        found = {str(Chem.MolToSmiles(normal))}
        if any(atom.GetFormalCharge() for atom in normal.GetAtoms()):
            separated = Chem.ResonanceFlags.ALLOW_CHARGE_SEPARATION
            for form in Chem.ResonanceMolSupplier(normal, separated, _MOST_FORMS):
                if form is not None and is_sanitised(form):
                    found.add(str(Chem.MolToSmiles(form)))
    return found
