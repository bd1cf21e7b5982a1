"""Drawings of molecules in two dimensions.

RDKit is imported inside functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.chem.bonds import EDM_GEOM, orders_of_one
from molflow.chem.build import bond_list, bonded_mol, is_sanitised
from molflow.chem.perception import connected
from molflow.chem.stated import kekulized_bonds

if TYPE_CHECKING:
    from rdkit import Chem

_SIZE = (260, 200)
_PLACE = "place"  # property of an atom: its place in the input


class Drawn(NamedTuple):
    """What a drawing shows of a molecule.

    Attributes:
        bonds: rows of two atoms and an order 1 to 3, (m, 3).
        charges: formal charge of each atom, (n,).
    """

    bonds: np.ndarray
    charges: np.ndarray


def drawn(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    bonds: np.ndarray | None = None,
    *,
    mol: "Chem.Mol | None" = None,
) -> Drawn:
    """The bonds and charges to draw: those of an RDKit molecule, or the bonds given, or else the look-up bonds.

    A molecule with an element outside EDM's tables has single bonds by RDKit's covalent radii.
    """
    from rdkit import Chem

    charges = np.zeros(len(atomic_numbers), dtype=np.int64)
    if mol is not None:
        mol = Chem.Mol(mol)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        return Drawn(kekulized_bonds(mol), np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()]))
    if bonds is not None:
        return Drawn(bonds, charges)
    if EDM_GEOM.covers(atomic_numbers).all():
        return Drawn(bond_list(orders_of_one(positions, atomic_numbers, EDM_GEOM)), charges)
    return Drawn(kekulized_bonds(connected(positions, atomic_numbers)), charges)


def depict(
    positions: np.ndarray,
    atomic_numbers: np.ndarray,
    shown: Drawn | None = None,
    *,
    marked: Sequence[int] = (),
) -> str:
    """Draw the molecule as SVG in RDKit's standard style, however wrong its chemistry is.

    Hydrogens are omitted if RDKit accepts the molecule and none is marked; otherwise all atoms are drawn. A group
    of the class "numbers" has the number of each atom, from 1.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        shown: bonds and charges; by default those of `drawn`.
        marked: atoms to highlight, counted from 0.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDepictor
    from rdkit.Chem.Draw import rdMolDraw2D

    bonds, charges = shown or drawn(positions, atomic_numbers)
    mol = bonded_mol(positions, atomic_numbers, bonds)
    for place, (atom, charge) in enumerate(zip(mol.GetAtoms(), charges.tolist(), strict=True)):
        atom.SetIntProp(_PLACE, place)
        atom.SetFormalCharge(charge)
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
