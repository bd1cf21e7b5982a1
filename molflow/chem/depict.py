"""Drawings of molecules in two dimensions.

RDKit is imported inside functions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from molflow.chem.bonds import EDM_QM9, orders_of_one
from molflow.chem.build import bond_list, bonded_mol, is_sanitised
from molflow.chem.perception import connected

_SIZE = (260, 200)
_PLACE = "place"  # property of an atom: its place in the input


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


def depict(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    bonds: np.ndarray | None = None,
    *,
    charges: Sequence[int] = (),
    marked: Sequence[int] = (),
) -> str:
    """Draw the molecule as SVG in RDKit's standard style, however wrong its chemistry is.

    Hydrogens are omitted if RDKit accepts the molecule and none is marked; otherwise all atoms are drawn. A group
    of the class "numbers" has the number of each atom, from 1.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order 1 to 3, (m, 3); by default those of `drawn_bonds`.
        charges: formal charges of the n atoms; empty if none is charged.
        marked: atoms to highlight, counted from 0.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    mol = bonded_mol(positions, atomic_numbers, drawn_bonds(positions, atomic_numbers, bonds))
    for place, atom in enumerate(mol.GetAtoms()):
        atom.SetIntProp(_PLACE, place)
        atom.SetFormalCharge(charges[place] if charges else 0)
    drawing = rdMolDraw2D.MolDraw2DSVG(*_SIZE)
    drawing.drawOptions().clearBackground = False  # type: ignore[assignment]
    drawing.drawOptions().prepareMolsBeforeDrawing = False  # type: ignore[assignment]
    with rdBase.BlockLogs():
        kept = Chem.RWMol(mol)
        if is_sanitised(kept) and all(atomic_numbers[atom] > 1 for atom in marked):
            mol = Chem.RemoveHs(kept, sanitize=False)
            Chem.Kekulize(mol)
        mol.UpdatePropertyCache(strict=False)
        rdDepictor.Compute2DCoords(mol)
        places = [atom.GetIntProp(_PLACE) for atom in mol.GetAtoms()]
        drawing.DrawMolecule(mol, highlightAtoms=[k for k, place in enumerate(places) if place in marked])
    drawing.FinishDrawing()
    text = drawing.GetDrawingText()
    text = str(text[text.index("<svg") :]).strip()
    return text.replace("</svg>", f'<g class="numbers">{_numbers(drawing, places)}</g></svg>')


def _numbers(drawing: Any, places: Sequence[int]) -> str:
    """Each atom's number, from 1, to the upper right of where it is drawn."""
    points = [drawing.GetDrawCoords(k) for k in range(len(places))]
    return "".join(
        f'<text x="{point.x + 5:.0f}" y="{point.y - 5:.0f}">{place + 1}</text>'
        for point, place in zip(points, places, strict=True)
    )
