"""Molecules drawn in two dimensions.

RDKit is imported where it is used.
"""

import numpy as np

from molflow.chem.build import bonded_mol, is_sanitised

_SIZE = (260, 200)


def depict(positions: np.ndarray, atomic_numbers: np.ndarray, orders: np.ndarray | None = None) -> str:
    """The molecule as SVG, in RDKit's standard style, however wrong its chemistry is.

    Hydrogens are left out where RDKit accepts the molecule; where it does not, all atoms are drawn.

    Args:
        positions: (n, 3), angstrom.
        atomic_numbers: (n,).
        orders: (n, n) bond orders 0 to 3; by default those of `bond_orders`.

    Raises:
        MolflowError: an element outside the look-up tables, if `orders` is not given.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = bonded_mol(positions, atomic_numbers, orders)
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
