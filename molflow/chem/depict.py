"""Drawings of molecules in two dimensions.

RDKit is imported inside functions.
"""

import numpy as np

from molflow.chem.bonds import EDM_QM9, orders_of_one
from molflow.chem.build import bond_list, bonded_mol, is_sanitised
from molflow.chem.perception import connected

_SIZE = (260, 200)


def drawn_bonds(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray | None = None) -> np.ndarray:
    """The bonds to draw, rows of two atoms and an order, (m, 3): those given, or else the look-up bonds.

    A molecule with an element outside the look-up tables is drawn with single bonds by RDKit's covalent radii.
    """
    if bonds is not None:
        return bonds
    if EDM_QM9.covers(atomic_numbers).all():
        return bond_list(orders_of_one(positions, atomic_numbers))
    found = [
        (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), 1) for bond in connected(positions, atomic_numbers).GetBonds()
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def depict(positions: np.ndarray, atomic_numbers: np.ndarray, bonds: np.ndarray | None = None) -> str:
    """Draw the molecule as SVG in RDKit's standard style, however wrong its chemistry is.

    Hydrogens are omitted if RDKit accepts the molecule; otherwise all atoms are drawn.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order 1 to 3, (m, 3); by default those of `drawn_bonds`.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = bonded_mol(positions, atomic_numbers, drawn_bonds(positions, atomic_numbers, bonds))
    drawing = rdMolDraw2D.MolDraw2DSVG(*_SIZE)
    drawing.drawOptions().clearBackground = False  # type: ignore[assignment]
    drawing.drawOptions().prepareMolsBeforeDrawing = False  # type: ignore[assignment]
    with rdBase.BlockLogs():
        kept = Chem.RWMol(mol)
        if is_sanitised(kept):
            mol = Chem.RemoveHs(kept, sanitize=False)
            Chem.Kekulize(mol)
        mol.UpdatePropertyCache(strict=False)
        rdDepictor.Compute2DCoords(mol)
        drawing.DrawMolecule(mol)
    drawing.FinishDrawing()
    text = drawing.GetDrawingText()
    return str(text[text.index("<svg") :]).strip()
