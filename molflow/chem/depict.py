"""Molecules drawn in two dimensions.

RDKit is imported where it is used.
"""

import numpy as np

from molflow.chem.build import bonded_mol, is_sanitised
from molflow.chem.elements import symbol
from molflow.chem.perception import connected
from molflow.chem.valences import VALENCES

_SIZE = (260, 200)


def drawn_orders(positions: np.ndarray, atomic_numbers: np.ndarray) -> np.ndarray:
    """Look-up bonds, (n, n); of elements that the tables do not cover single bonds by covalent radii, as RDKit's."""
    from molflow.chem.bonds import orders_of_one

    if set(map(symbol, atomic_numbers.tolist())) <= VALENCES.keys():
        return orders_of_one(positions, atomic_numbers)
    orders = np.zeros((len(atomic_numbers),) * 2, dtype=np.int8)
    for bond in connected(positions, atomic_numbers).GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        orders[ends] = orders[ends[::-1]] = 1
    return orders


def depict(positions: np.ndarray, atomic_numbers: np.ndarray, orders: np.ndarray | None = None) -> str:
    """The molecule as SVG, in RDKit's standard style, however wrong its chemistry is.

    Hydrogens are left out where RDKit accepts the molecule; where it does not, all atoms are drawn.

    Args:
        positions: (n, 3), angstrom.
        atomic_numbers: (n,).
        orders: (n, n) bond orders 0 to 3; by default those of `drawn_orders`.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = bonded_mol(positions, atomic_numbers, drawn_orders(positions, atomic_numbers) if orders is None else orders)
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
