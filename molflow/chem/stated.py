"""RDKit molecules with the bonds and charges that a file states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from molflow.chem.bonds import EDM_QM9
from molflow.chem.build import bonded_mol
from molflow.chem.structure import AROMATIC, Stated, Structure

if TYPE_CHECKING:
    from rdkit import Chem


def stated_message(stated: Stated) -> list[Any]:
    """The fields of `Stated` as lists and whole numbers, for JSON."""
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in stated]


def stated_of(values: list[Any]) -> Stated:
    """The inverse of `stated_message`."""
    bonds, charges, radicals, charge = values
    return Stated(
        None if bonds is None else np.array(bonds, dtype=np.int64).reshape(-1, 3),
        None if charges is None else np.array(charges, dtype=np.int64),
        None if radicals is None else np.array(radicals, dtype=np.int64),
        charge,
    )


def stated_mol(positions: np.ndarray, atomic_numbers: np.ndarray, stated: Stated) -> tuple[Chem.RWMol | None, str]:
    """Build a molecule with the stated bonds, charges and radicals, kekulised and not sanitised, without hydrogens.

    Args:
        positions: (n, 3), Å.
        atomic_numbers: (n,).
        stated: what the file says; its bonds must not be None.

    Returns:
        The molecule, whose bonds are single, double or triple, and an empty text; or None and the problem: an atom that
        is bonded to itself, a pair that is bonded twice, or aromatic bonds that cannot be kekulised.
    """
    from rdkit import Chem, rdBase

    assert stated.bonds is not None
    pairs = [(min(i, j), max(i, j)) for i, j, _ in stated.bonds.tolist()]
    for i, j in pairs:
        if i == j:
            return None, f"atom {i + 1} is bonded to itself"
    if len(set(pairs)) < len(pairs):
        i, j = next(pair for k, pair in enumerate(pairs) if pair in pairs[:k])
        return None, f"atoms {i + 1} and {j + 1} are bonded twice"
    mol = bonded_mol(positions, atomic_numbers, np.zeros((0, 3), dtype=np.int64))
    for i, j, order in stated.bonds.tolist():
        aromatic = order == AROMATIC
        mol.AddBond(i, j, Chem.BondType.AROMATIC if aromatic else Chem.BondType.values[order])
        if aromatic:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            mol.GetAtomWithIdx(i).SetIsAromatic(True)
            mol.GetAtomWithIdx(j).SetIsAromatic(True)
    for values, put in (
        (stated.charges, Chem.Atom.SetFormalCharge),
        (stated.radicals, Chem.Atom.SetNumRadicalElectrons),
    ):
        for i, value in enumerate(() if values is None else values.tolist()):
            put(mol.GetAtomWithIdx(i), value)
    with rdBase.BlockLogs():
        try:
            mol.UpdatePropertyCache(strict=False)
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except (ValueError, RuntimeError) as error:
            return None, f"the aromatic bonds cannot be kekulised: {str(error).strip().splitlines()[0]}"
    return mol, ""


def kekulized_bonds(mol: Chem.Mol) -> np.ndarray:
    """The bonds of a kekulised molecule as rows of two atoms and an order, (m, 3) int64."""
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), round(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def stated_in(mol: Chem.Mol) -> Stated:
    """The bonds, charges and radicals of an RDKit molecule; bonds of other kinds than those of `Stated` are single."""
    orders = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "AROMATIC": AROMATIC}
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), orders.get(b.GetBondType().name, 1)) for b in mol.GetBonds()]
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64)
    radicals = np.array([atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()], dtype=np.int64)
    bonds = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Stated(bonds, charges, radicals, int(charges.sum()))


def stated_in_graph(data: Any) -> Stated:
    """The bonds and charges of PyG data: each bond once, of those in `edge_index` (2, E).

    `edge_attr` has an order 1 to 3, or 4 for aromatic, as (E,) or (E, 1), or a one-hot row for single, double, triple
    and aromatic (E, 4), as in PyG's QM9. Other edges, such as those of neighbours with distances, are no bonds.
    `formal_charge` (n,) has charges.
    """
    ends, kinds = np.asarray(data.edge_index.cpu()), np.asarray(data.edge_attr.cpu())
    if kinds.ndim == 2 and kinds.shape[1] == 4 and np.isin(kinds, (0, 1)).all() and (kinds.sum(1) == 1).all():
        orders = kinds.argmax(1) + 1
    elif kinds.size == len(kinds) and np.isin(kinds, (1, 2, 3, AROMATIC)).all():
        orders = kinds.reshape(-1)
    else:
        return Stated()
    once = ends[0] < ends[1]
    bonds = np.column_stack([ends[0], ends[1], orders])[once].astype(np.int64)
    charges = getattr(data, "formal_charge", None)
    if charges is None:
        return Stated(bonds)
    charges = np.asarray(charges.cpu()).astype(np.int64)
    return Stated(bonds, charges, None, int(charges.sum()))


def with_hydrogens(mol: Chem.Mol) -> tuple[Chem.RWMol, int]:
    """The molecule with the hydrogens that its bonds and charges leave open, and their number."""
    from rdkit import Chem, rdBase

    whole = Chem.RWMol(mol)
    with rdBase.BlockLogs():
        for atom in whole.GetAtoms():
            atom.SetNoImplicit(False)
        whole.UpdatePropertyCache(strict=False)
        missing = sum(atom.GetNumImplicitHs() for atom in whole.GetAtoms())
        Chem.SetConjugation(whole)
        Chem.SetHybridization(whole)  # without it RDKit places some hydrogens at the origin
        return Chem.RWMol(Chem.AddHs(whole, addCoords=True)), missing


def completed(structure: Structure, stated: Stated | None) -> tuple[Structure, Stated | None]:
    """A molecule without hydrogens with those that its stated bonds, or else its look-up bonds, leave open.

    It stays as it is where its bonds are not known or cannot be kekulised.
    """
    positions, numbers, _ = structure
    if stated is not None and stated.bonds is not None and len(stated.bonds):
        mol, _ = stated_mol(positions, numbers, stated)
    else:
        mol = bonded_mol(positions, numbers) if EDM_QM9.covers(numbers).all() else None
    if mol is None:
        return structure, stated
    whole, _ = with_hydrogens(mol)
    atoms = np.array([atom.GetAtomicNum() for atom in whole.GetAtoms()], dtype=np.int64)
    return Structure(whole.GetConformer().GetPositions(), atoms), None if stated is None else stated_in(whole)
