"""From positions and elements to RDKit molecules, with the look-up rules' bonds and no atom added or taken away.

RDKit is imported where it is used, so that training and sampling run without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    if orders is None:
        from molflow.chem.bonds import orders_of_one

        orders = orders_of_one(positions, atomic_numbers)
    return mol_of_bonds(positions, atomic_numbers, bond_list(orders))


def bond_list(orders: np.ndarray) -> np.ndarray:
    """The bonds of a symmetric matrix of orders (n, n), as rows of two atoms and an order, (m, 3)."""
    first, second = np.nonzero(np.triu(orders))
    return np.stack([first, second, orders[first, second]], axis=1)


def mol_of_bonds(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray) -> Chem.RWMol:
    """`bonded_mol` for bonds that are given as rows of two atoms and an order, (m, 3)."""
    from rdkit import Chem

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


def to_rdkit(positions: np.ndarray, atomic_numbers: np.ndarray, orders: np.ndarray | None = None) -> Chem.Mol | None:
    """The molecule as RDKit sees it: look-up bonds, a conformer, sanitised. Arguments as in `bonded_mol`.

    Returns:
        rdkit.Chem.Mol with all hydrogens explicit, or None where RDKit refuses (usually an atom with too many bonds)
        or where there are no atoms. Radicals and several fragments are accepted.

    Raises:
        MolflowError: an element outside the look-up tables, if `orders` is not given.
    """
    mol = bonded_mol(positions, atomic_numbers, orders)
    return mol.GetMol() if len(positions) and is_sanitised(mol) else None


def is_sanitised(mol: Chem.Mol) -> bool:
    """Sanitise a molecule in place, and tell whether RDKit accepts it."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return bool(Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE)


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
