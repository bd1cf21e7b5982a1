"""From positions and elements to RDKit molecules, with the look-up rules' bonds and no atom added or taken away.

RDKit is imported where it is used, so that training and sampling run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from molflow.chem.bonds import bond_orders

if TYPE_CHECKING:
    from rdkit import Chem


def bonded_mol(positions: np.ndarray, atomic_numbers: np.ndarray, orders: np.ndarray | None = None) -> Chem.RWMol:
    """An unsanitised molecule with the given bonds and one 3D conformer, however wrong its chemistry is.

    Atoms get no implicit hydrogens: a carbon with three neighbours stays a radical instead of being completed.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        orders: (n, n) symmetric bond orders 0 to 3; by default `bond_orders` of this molecule.

    Raises:
        MolflowError: an element outside the look-up tables, if `orders` is not given.
    """
    from rdkit import Chem

    if orders is None:
        orders = bond_orders(positions[None], atomic_numbers[None], np.ones((1, len(positions)), bool))[0].numpy()
    mol = Chem.RWMol()
    for number in atomic_numbers.tolist():
        atom = Chem.Atom(number)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    first, second = np.nonzero(np.triu(orders))
    for i, j, order in zip(first.tolist(), second.tolist(), orders[first, second].tolist(), strict=True):
        mol.AddBond(i, j, Chem.BondType.values[order])
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    mol.AddConformer(conformer, assignId=True)
    return mol


def to_rdkit(positions: np.ndarray, atomic_numbers: np.ndarray, orders: np.ndarray | None = None) -> Chem.Mol | None:
    """The molecule as RDKit sees it: look-up bonds, a conformer, sanitised. Arguments as in `bonded_mol`.

    Returns:
        rdkit.Chem.Mol with all hydrogens explicit, or None where RDKit refuses (usually an atom with too many bonds)
        or where there are no atoms. Radicals and several fragments are accepted.

    Raises:
        MolflowError: an element outside the look-up tables, if `orders` is not given.
    """
    from rdkit import Chem, rdBase

    if len(positions) == 0:
        return None
    mol = bonded_mol(positions, atomic_numbers, orders)
    with rdBase.BlockLogs():
        problem = Chem.SanitizeMol(mol, catchErrors=True)
    return mol.GetMol() if problem == Chem.SanitizeFlags.SANITIZE_NONE else None


def is_connected(mol: Chem.Mol) -> bool:
    """Whether the molecule is one fragment."""
    from rdkit import Chem

    return len(Chem.GetMolFrags(mol)) == 1


def canonical_smiles(mol: Chem.Mol) -> str:
    """Canonical SMILES without hydrogens and without stereochemistry: the identity that counts of molecules use.

    Bring reference molecules into this form with this function too, or equal molecules will look different.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return str(Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False), isomericSmiles=False))
