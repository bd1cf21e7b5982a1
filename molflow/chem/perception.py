"""Bonds and formal charges that RDKit perceives from a geometry, and whether each atom's shell is complete.

Perception needs neither torch nor look-up tables. RDKit can hang here, so `molflow.evaluate` runs it in worker
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from molflow.chem.build import bonded_mol, is_sanitised, mesomeric_forms
from molflow.chem.elements import symbol
from molflow.chem.valences import VALENCES_BY_CHARGE

if TYPE_CHECKING:
    from rdkit import Chem

COVALENT_FACTOR = 1.15
"""Two atoms are bonded when they are closer than this times the sum of their covalent radii.

RDKit's default of 1.3 bonds carbons up to 1.98 Å apart, which are opposite corners of small rings: with it 4.5 % of
3,000 molecules of QM9 have an atom with too many neighbours, with 1.15 (C-C 1.75 Å, C-H 1.23 Å) one of them.
"""

_LONG_BONDS = {(1, 1): 0.80, (8, 9): 1.50, (9, 9): 1.50}
"""Bonds that are longer than covalent radii say, up to this length in Å: those of H2, HOF and F2 by atomic numbers."""

_LONE = {1: 1, 9: 1, 8: 2}  # neighbours that the atoms of such a bond can have

COMBINATIONS = 10_000
"""Assignments of valences that RDKit tries for a fragment before the fragment counts as one without bond orders."""

PROTOCOL = (
    "RDKit rdDetermineBonds, each fragment alone, net charge 0 unless stated, charged atoms allowed; "
    f"bonded below {COVALENT_FACTOR} x the sum of covalent radii"
)

DEFAULT_PROTOCOL = "RDKit DetermineBonds with its default settings, net charge 0"

_CHARGES = (0, 1, -1, 2, -2)  # net charges that a fragment of several may have
_MOST_FRAGMENTS = 4  # of which the charges are searched
_MOST_NEIGHBOURS = {element: max(map(max, valences.values())) for element, valences in VALENCES_BY_CHARGE.items()}
_NO_BONDS = np.zeros((0, 3), dtype=np.int64)


class Perceived(NamedTuple):
    """The result of `perceive`.

    Attributes:
        mol: sanitised, with all hydrogens and the conformer; None if a fragment has no bond orders or RDKit refuses.
        fragments: number of connected parts by distances alone.
        stable: whether each atom's kekulised bond orders sum to a valence that `VALENCES_BY_CHARGE` lists for its
            charge, (n,) bool.
        problem: the first problem, with atoms counted from 1; empty if there is none.
    """

    mol: Chem.Mol | None
    fragments: int
    stable: np.ndarray
    problem: str


def perceive(positions: np.ndarray, atomic_numbers: np.ndarray, charge: int = 0) -> Perceived:
    """Find bonds from distances, then bond orders and charges that give the molecule its net charge.

    The net charges of fragments are those with the smallest sum of |q| that add up to the charge of the molecule: 0
    each in a neutral one, unless a fragment has no bond orders with it, as the ions of a salt. Each fragment is put
    into RDKit's canonical order first, so that the result does not depend on the order of atoms in the input. An atom
    of a fragment without bond orders is not stable.

    Args:
        positions: finite, (n, 3), Å.
        atomic_numbers: (n,).
        charge: net charge of the molecule.

    Example:
        >>> found = perceive(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> found.fragments, bool(found.stable.all()), found.problem
        (1, True, '')
    """
    from rdkit import Chem, rdBase

    mol = connected(positions, atomic_numbers)
    stable = np.zeros(len(atomic_numbers), dtype=bool)
    if not len(atomic_numbers):
        return Perceived(None, 0, stable, "no atoms")
    with rdBase.BlockLogs():
        fragments = Chem.GetMolFrags(mol)
        problems = _assign_all(mol, fragments, charge)
        for fragment, problem in zip(fragments, problems, strict=True):
            stable[list(fragment)] = not problem and [_is_complete(mol.GetAtomWithIdx(i)) for i in fragment]
        problem = next(filter(None, problems), "") or incomplete(mol, stable)
        if any(problems):
            return Perceived(None, len(fragments), stable, problem)
    if not is_sanitised(mol):
        return Perceived(None, len(fragments), stable, problem or "RDKit refuses the perceived bonds")
    return Perceived(mol.GetMol(), len(fragments), stable, problem)


def perceived_mol(positions: np.ndarray, atomic_numbers: np.ndarray) -> Chem.Mol:
    """The molecule with the bonds and charges that are perceived, or else single bonds by distance, not sanitised.

    The latter are those of `connected`, for molecules with a fragment that has no bond orders.
    """
    return perceive(positions, atomic_numbers).mol or connected(positions, atomic_numbers)


def connected(positions: np.ndarray, atomic_numbers: np.ndarray) -> Chem.RWMol:
    """Build the molecule with single bonds by `COVALENT_FACTOR` and `_LONG_BONDS`, not sanitised. This cannot hang."""
    from rdkit import rdBase
    from rdkit.Chem import rdDetermineBonds

    mol = bonded_mol(positions, atomic_numbers, _NO_BONDS)
    if len(atomic_numbers):
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineConnectivity(mol, useVdw=True, covFactor=COVALENT_FACTOR)
        _add_long_bonds(mol, positions)
    return mol


def _add_long_bonds(mol: Chem.RWMol, positions: np.ndarray) -> None:
    """Bond hydrogens and fluorines without a neighbour by `_LONG_BONDS`, where the other atom is free as well."""
    from rdkit import Chem

    for atom in [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() in (1, 9) and not atom.GetDegree()]:
        i, number = atom.GetIdx(), atom.GetAtomicNum()
        lengths = np.linalg.norm(positions - positions[i], axis=1)
        for j in np.argsort(lengths, kind="stable").tolist():
            other = mol.GetAtomWithIdx(j)
            pair = min(number, other.GetAtomicNum()), max(number, other.GetAtomicNum())
            free = i != j and not atom.GetDegree() and other.GetDegree() < _LONE.get(other.GetAtomicNum(), 0)
            if free and lengths[j] <= _LONG_BONDS.get(pair, 0):
                mol.AddBond(i, j, Chem.BondType.SINGLE)


def accepted_by_default(positions: np.ndarray, atomic_numbers: np.ndarray) -> bool:
    """Whether RDKit's DetermineBonds with default settings and a bounded search gives one sanitised fragment."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds

    if not len(atomic_numbers):
        return False
    mol = bonded_mol(positions, atomic_numbers, _NO_BONDS)
    with rdBase.BlockLogs():
        rdDetermineBonds.DetermineConnectivity(mol)
        if len(Chem.GetMolFrags(mol)) > 1:  # searching several fragments together can exhaust memory
            return False
        try:
            rdDetermineBonds.DetermineBondOrders(mol, embedChiral=False, maxIterations=COMBINATIONS)
        except (ValueError, RuntimeError):
            return False
    return is_sanitised(mol)


def _assign_all(mol: Chem.RWMol, fragments: Sequence[tuple[int, ...]], charge: int) -> list[str]:
    """Set the bond orders and charges of all fragments. Return the problem of each, empty where there is none."""
    if len(fragments) == 1:
        return [_assign(mol, fragments[0], charge)]
    problems = [_assign(mol, fragment, 0) for fragment in fragments]
    if (charge == 0 and not any(problems)) or len(fragments) > _MOST_FRAGMENTS:
        return problems
    possible = [[q for q in _CHARGES if not _assign(mol, fragment, q)] for fragment in fragments]
    fitting = [charges for charges in product(*possible) if sum(charges) == charge]
    if not fitting:
        return problems if any(problems) else [f"no bond orders give net charge {charge:+d}"] * len(fragments)
    best = min(fitting, key=lambda charges: sum(map(abs, charges)))
    return [_assign(mol, fragment, q) for fragment, q in zip(fragments, best, strict=True)]


def _assign(mol: Chem.RWMol, fragment: tuple[int, ...], charge: int) -> str:
    """Set the bond orders and charges of a fragment. Return the problem if RDKit finds none, else an empty text."""
    from rdkit.Chem import rdDetermineBonds

    for i in fragment:
        atom = mol.GetAtomWithIdx(i)
        most = _MOST_NEIGHBOURS.get(atom.GetSymbol())
        if most is not None and atom.GetDegree() > most:
            return f"{_name(atom)} has {_count(atom.GetDegree(), 'neighbour')}, at most {most} are possible"
    piece, order = _canonical(mol, fragment)
    try:
        rdDetermineBonds.DetermineBondOrders(piece, charge=charge, embedChiral=False, maxIterations=COMBINATIONS)
    except (ValueError, RuntimeError) as error:
        if charge and _single_bonds(mol, fragment, charge):
            return ""
        if "terations" in f"{type(error).__name__} {error}":
            return f"no bond orders within {COMBINATIONS:,} combinations of valences"
        return f"no bond orders give net charge {charge:+d}" if charge else "no bond orders give net charge 0"
    for atom in piece.GetAtoms():
        mol.GetAtomWithIdx(order[atom.GetIdx()]).SetFormalCharge(atom.GetFormalCharge())
    for bond in piece.GetBonds():
        ends = order[bond.GetBeginAtomIdx()], order[bond.GetEndAtomIdx()]
        mol.GetBondBetweenAtoms(*ends).SetBondType(bond.GetBondType())
    return ""


def _single_bonds(mol: Chem.RWMol, fragment: tuple[int, ...], charge: int) -> bool:
    """Give each atom the charge that completes its shell with single bonds, if their sum is the net charge.

    RDKit finds no bond orders for a phosphonium.
    """
    from rdkit import Chem

    found = {}
    for i in fragment:
        atom = mol.GetAtomWithIdx(i)
        valences = VALENCES_BY_CHARGE.get(atom.GetSymbol(), {})
        possible = [q for q, allowed in valences.items() if atom.GetDegree() in allowed]
        if not possible:
            return False
        found[i] = min(possible, key=abs)
    if sum(found.values()) != charge:
        return False
    for i, q in found.items():
        atom = mol.GetAtomWithIdx(i)
        atom.SetFormalCharge(q)
        for bond in atom.GetBonds():
            bond.SetBondType(Chem.BondType.SINGLE)
    return True


def _canonical(mol: Chem.RWMol, fragment: tuple[int, ...]) -> tuple[Chem.RWMol, list[int]]:
    """Copy a fragment to a molecule of its own in canonical order. The list gives the atom of `mol` for each atom."""
    from rdkit import Chem

    members = set(fragment)
    piece = Chem.RWMol(mol)
    if len(members) < mol.GetNumAtoms():
        piece.BeginBatchEdit()
        for i in range(mol.GetNumAtoms()):
            if i not in members:
                piece.RemoveAtom(i)
        piece.CommitBatchEdit()
    piece.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(piece)
    ranks = list(Chem.CanonicalRankAtoms(piece, breakTies=True))
    order = np.argsort(ranks).tolist()
    return Chem.RWMol(Chem.RenumberAtoms(piece, order)), [sorted(fragment)[i] for i in order]


def _valence(atom: Chem.Atom) -> int:
    valence: float = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
    return round(valence)


def _is_complete(atom: Chem.Atom) -> bool:
    return _valence(atom) in _allowed(atom)


def _allowed(atom: Chem.Atom) -> tuple[int, ...]:
    return VALENCES_BY_CHARGE.get(atom.GetSymbol(), {}).get(atom.GetFormalCharge(), ())


def is_charge_separated(mol: Chem.Mol) -> bool:
    """Whether a fragment has a charged carbon or an O+ beside an atom of the opposite charge in each mesomeric form.

    Examples are azomethine ylides, isocyanides and carbon monoxide, and missing hydrogens that perception mends with
    charges. Nitro groups, N-oxides, diazo compounds and ammonium carboxylates are none.
    """
    from rdkit import Chem

    if not _has_unusual_charges(mol):
        return False
    forms = filter(None, (Chem.MolFromSmiles(form) for form in mesomeric_forms(mol)))
    return all(map(_has_unusual_charges, forms))


def _has_unusual_charges(mol: Chem.Mol) -> bool:
    from rdkit import Chem

    for fragment in Chem.GetMolFrags(mol):
        charged = [atom for atom in map(mol.GetAtomWithIdx, fragment) if atom.GetFormalCharge()]
        unusual = any(atom.GetAtomicNum() == 6 or _is_oxonium(atom) for atom in charged)
        if unusual and len({atom.GetFormalCharge() > 0 for atom in charged}) == 2:
            return True
    return False


def _is_oxonium(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() == 8 and atom.GetFormalCharge() > 0


def complete_atoms(mol: Chem.Mol) -> np.ndarray:
    """Whether each atom of a kekulised molecule has a valence that `VALENCES_BY_CHARGE` lists, (n,) bool."""
    return np.array([_is_complete(atom) for atom in mol.GetAtoms()], dtype=bool)


def incomplete(mol: Chem.Mol, stable: np.ndarray) -> str:
    """Describe the first atom that is not stable; empty if all are."""
    if stable.all():
        return ""
    atom = mol.GetAtomWithIdx(int(np.argmin(stable)))
    allowed = " or ".join(map(str, _allowed(atom)))
    expected = f"expected {allowed}" if allowed else "no stable valence is known for it"
    return f"{_name(atom)} with charge {atom.GetFormalCharge():+d} has valence {_valence(atom)}, {expected}"


def _name(atom: Chem.Atom) -> str:
    return f"atom {atom.GetIdx() + 1} ({symbol(atom.GetAtomicNum())})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
