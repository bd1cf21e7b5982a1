"""Inspection of one molecule under every protocol.

Nothing here loads torch, except looking up bonds: worker processes load NumPy, SciPy and RDKit alone and get molecules
with their look-up bonds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from molflow.chem.bonds import EDM_GEOM, EDM_QM9, orders_of_one
from molflow.chem.build import bond_list, bonded_mol, canonical_smiles, is_connected, is_sanitised, mesomeric_smiles
from molflow.chem.elements import COVALENT_RADII, formula, symbol
from molflow.chem.perception import Perceived, accepted_by_default, is_charge_separated, perceive
from molflow.chem.plausibility import geometry_problem, missing_hydrogens
from molflow.chem.posebusters import failed_checks, passes_energy
from molflow.chem.relaxation import Strain
from molflow.chem.relaxation import strain as strain_of
from molflow.chem.structure import LARGEST, Stated, Structure
from molflow.errors import MolflowError
from molflow.evaluation.contacts import clashes, pairs_within
from molflow.evaluation.distributions import bond_bins, composition_bins, counted, distance_bins, value_bins
from molflow.evaluation.edm import explicit_smiles
from molflow.evaluation.options import Bonds, check_extras
from molflow.evaluation.protocols import given_fields, headline
from molflow.evaluation.reports import MoleculeReport
from molflow.evaluation.screening import Descriptors, descriptors

if TYPE_CHECKING:
    from rdkit import Chem

MOST_ATOMS = 6_000
"""Largest number of atoms of a molecule; the memory grows with its square and stays below a gigabyte here."""

BONDED = 1.3
"""Atoms closer than this times the sum of their covalent radii are at the distance of a bond, as for RDKit."""

COINCIDENT = 0.3
"""Atoms closer than this, in Å, coincide; the shortest bond, H-H, has 0.74 Å."""


def inspect(
    structure: Structure,
    *,
    stated: Stated | None = None,
    bonds: Bonds = "lookup",
    charge: int | None = None,
    strain: str | None = None,
    posebusters: bool = False,
    posebusters_energy: bool = False,
) -> MoleculeReport:
    """Inspect one molecule in this process, where RDKit may hang on damaged input; see `inspect_all`.

    Args:
        structure: positions (n, 3) in Å and atomic_numbers (n,); bonds are looked up unless it has them.
        stated: bonds and charges that a file states.
        bonds: the protocol of the main figures.
        charge: net charge, by default the stated one, else 0.
        strain: method of `molflow.chem.relaxation.METHODS` for the strain; "mmff94" doubles the time.
        posebusters: run the checks of PoseBusters, which take about as long as everything else.
        posebusters_energy: check the internal energy as PoseBusters does, which takes fifty times as long.

    Raises:
        MolflowError: an unknown method, or one whose package is not installed.

    Example:
        >>> ammonium = np.array([[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]])
        >>> report = inspect(Structure(ammonium, np.array([7, 1, 1, 1, 1])))
        >>> report.status, report.reason
        ('invalid', 'RDKit refuses the look-up bonds: atom 1 (N) has valence 4, expected 3')
    """
    check_extras(strain, posebusters or posebusters_energy)
    rejected = reject_invalid(structure)
    if rejected is not None:
        return rejected
    if structure.bonds is None and is_covered(structure.atomic_numbers):
        structure = structure._replace(bonds=bond_list(orders_of_one(*structure[:2], EDM_GEOM)))
    return inspect_bonded(
        structure,
        stated=stated,
        bonds=bonds,
        charge=charge,
        strain=strain,
        posebusters=posebusters,
        posebusters_energy=posebusters_energy,
    )


def is_covered(atomic_numbers: np.ndarray) -> bool:
    """Whether the look-up tables cover all elements."""
    return bool(EDM_GEOM.covers(atomic_numbers).all())


def reject_invalid(structure: Structure) -> MoleculeReport | None:
    """Report on a structure that cannot be inspected; None if it can."""
    positions, numbers, _ = structure
    finite = np.isfinite(positions).all(axis=1) & (np.abs(positions) < LARGEST).all(axis=1)
    status = "invalid"
    if not len(numbers):
        reason = "no atoms"
    elif len(numbers) > MOST_ATOMS:
        status, reason = "unsupported", f"{len(numbers):,} atoms, at most {MOST_ATOMS:,} are supported"
    elif not finite.all():
        reason = f"atom {int(np.argmin(finite)) + 1} has no finite place within 1,000,000 Å"
    else:
        return None
    return MoleculeReport(n_atoms=len(numbers), formula=formula(numbers), status=status, reason=reason)


def reject_unscored(structure: Structure, stated: Stated | None) -> MoleculeReport | None:
    """Report on a drawing, on coordinates in another unit, or on a molecule without its hydrogens; None for others."""
    positions, numbers, _ = structure
    reason = geometry_problem(positions, numbers)
    if not reason and (missing := missing_hydrogens(structure, stated)):
        reason = f"{missing} hydrogens are missing, and there are none; --add-hydrogens adds them"
    if not reason:
        return None
    return MoleculeReport(n_atoms=len(numbers), formula=formula(numbers), status="unscored", reason=reason)


def failed_report(structure: Structure, status: str, reason: str) -> MoleculeReport:
    """Report on a molecule whose inspection did not finish: look-up stability, and nothing that needs RDKit."""
    return _report(structure, stable_atoms(structure), status, reason)


def inspect_bonded(
    structure: Structure,
    *,
    stated: Stated | None = None,
    bonds: Bonds = "lookup",
    charge: int | None = None,
    strain: str | None = None,
    posebusters: bool = False,
    posebusters_energy: bool = False,
) -> MoleculeReport:
    """`inspect` for a molecule with its look-up bonds, which are None if an element is outside the tables."""
    positions, numbers, looked_up = structure
    by_lookup = inspect_lookup(structure)
    if charge is None:
        charge = 0 if stated is None or stated.charge is None else stated.charge
    perceived = perceive(positions, numbers, charge)
    whole = perceived.mol if perceived.mol is not None and perceived.fragments == 1 else None
    screened = None if whole is None else descriptors(whole)
    strained = None if whole is None or strain is None else _strain(whole, strain)
    bins = [composition_bins(numbers), distance_bins(positions, numbers), value_bins(_values(screened, strained))]
    if perceived.mol is not None:
        bins.append(bond_bins(perceived.mol))
    report = replace(
        by_lookup,
        **_perceived_fields(perceived),
        **given_fields(positions, numbers, stated, perceived),
        charge=charge,
        unpaired=_unpaired(numbers, charge, stated),
        default_connected=accepted_by_default(positions, numbers),
        clashes=clashes(positions, numbers, looked_up) if looked_up is not None and by_lookup.lookup_covered else None,
        descriptors=screened,
        strain=strained,
        posebusters=failed_checks(whole) if posebusters and whole is not None else None,
        posebusters_energy=passes_energy(whole) if posebusters_energy and whole is not None else None,
        measured=counted(bins),
    )
    return headline(report, bonds)


def inspect_lookup(structure: Structure) -> MoleculeReport:
    """The part of a report that needs the look-up bonds alone. It is fast and cannot hang."""
    from rdkit import Chem

    positions, numbers, bonds = structure
    stable = stable_atoms(structure)
    if bonds is None:
        return _report(structure, stable, "unsupported", _uncovered(numbers))
    raw = bonded_mol(positions, numbers, bonds)
    mol = Chem.Mol(raw)
    valid = is_sanitised(mol)
    fragments = len(Chem.GetMolFrags(raw))
    smiles = canonical_smiles(mol) if valid else None
    if valid and fragments == 1 and stable.all():  # then EDM's code implies no hydrogen
        by_edm: str | None = Chem.MolToSmiles(mol, isomericSmiles=False)
    else:
        by_edm = explicit_smiles(raw, largest=True) if valid else None
    unknown = _unknown_bond(structure)
    status, reason = _status(structure, stable, valid, fragments)
    if unknown and status != "stable":
        status, reason = "unsupported", unknown
    return replace(
        _report(structure, stable, status, reason),
        lookup_covered=not unknown,
        valid=valid,
        connected=valid and fragments == 1,
        fragments=fragments,
        smiles=smiles,
        edm_smiles=by_edm,
        largest_fragment_valid=valid or (fragments > 1 and is_sanitised(_largest(raw))),
    )


def stable_atoms(structure: Structure) -> np.ndarray:
    """Whether each atom has its valence by the look-up bonds, (n,) bool; without bonds none has."""
    if structure.bonds is None:
        return np.zeros(len(structure.atomic_numbers), dtype=bool)
    elements = map(symbol, structure.atomic_numbers.tolist())
    sums = _valence_sums(structure).tolist()
    return np.array([n in EDM_GEOM.valences[element] for n, element in zip(sums, elements, strict=True)], dtype=bool)


def _valence_sums(structure: Structure) -> np.ndarray:
    """The sum of each atom's bond orders, (n,)."""
    assert structure.bonds is not None
    n = len(structure.atomic_numbers)
    return np.bincount(structure.bonds[:, :2].ravel(), structure.bonds[:, 2].repeat(2), n).astype(np.int64)


def _report(structure: Structure, stable: np.ndarray, status: str, reason: str) -> MoleculeReport:
    numbers = structure.atomic_numbers
    return MoleculeReport(
        n_atoms=len(stable),
        formula=formula(numbers),
        status=status,
        reason=reason,
        stable_atoms=int(stable.sum()),
        stable=bool(stable.all()),
        qm9_elements=bool(EDM_QM9.covers(numbers).all()),
    )


def _uncovered(atomic_numbers: np.ndarray) -> str:
    atom = int(np.argmin(EDM_GEOM.covers(atomic_numbers)))
    element = symbol(int(atomic_numbers[atom]))
    covered = " ".join(EDM_GEOM.elements)
    return f"element {element} (atom {atom + 1}) is outside the look-up tables, which cover {covered}"


def _unknown_bond(structure: Structure) -> str:
    """The first pair of atoms at the distance of a bond whose length the tables do not have; empty if there is none."""
    positions, numbers, _ = structure
    if EDM_QM9.covers(numbers).all():
        return ""
    radii = COVALENT_RADII[numbers]
    i, j = pairs_within(2 * BONDED * float(radii.max()), positions).T
    bonded = np.linalg.norm(positions[i] - positions[j], axis=1) < BONDED * (radii[i] + radii[j])
    unknown = sorted(
        zip(*(x[bonded & ~EDM_GEOM.covers_pairs(numbers[i], numbers[j])].tolist() for x in (i, j)), strict=True)
    )
    if not unknown:
        return ""
    a, b = unknown[0]
    names = f"{symbol(int(numbers[a]))}-{symbol(int(numbers[b]))}"
    return f"the look-up tables have no length of {names} (atoms {a + 1} and {b + 1})"


def _status(structure: Structure, stable: np.ndarray, valid: bool, fragments: int) -> tuple[str, str]:
    """Status and reason. The reason names everything that is wrong, and the first atom of each kind."""
    coincident = _coincident_atoms(structure.positions)
    wrong = "" if stable.all() else _wrong_valence(structure, int(np.argmin(stable)))
    several = f"{fragments} fragments" if fragments > 1 else ""
    refused = "" if valid else "RDKit refuses the look-up bonds"
    if refused and wrong:
        refused, wrong = f"{refused}: {wrong}", ""
    status = "invalid" if coincident or refused else "disconnected" if several else "unstable" if wrong else "stable"
    return status, "; ".join(words for words in (coincident, refused, several, wrong) if words)


def _coincident_atoms(positions: np.ndarray) -> str:
    pairs = pairs_within(COINCIDENT, positions).tolist()
    if not pairs:
        return ""
    i, j = min(pairs)
    return f"two atoms on one spot (atoms {i + 1} and {j + 1})"


def _wrong_valence(structure: Structure, atom: int) -> str:
    element = symbol(int(structure.atomic_numbers[atom]))
    valence = int(_valence_sums(structure)[atom])
    expected = " or ".join(map(str, EDM_GEOM.valences[element]))
    return f"atom {atom + 1} ({element}) has valence {valence}, expected {expected}"


def _largest(raw: Chem.Mol) -> Chem.Mol:
    """The fragment with most atoms, the first of several, not sanitised."""
    from rdkit import Chem

    parts: tuple[Chem.Mol, ...] = Chem.GetMolFrags(raw, asMols=True, sanitizeFrags=False)
    return max(parts, key=lambda mol: mol.GetNumAtoms())


def _perceived_fields(perceived: Perceived) -> dict[str, Any]:
    mol = perceived.mol
    return {
        "perceived_stable_atoms": int(perceived.stable.sum()),
        "perceived_stable": bool(perceived.stable.all()),
        "charge_separated": mol is not None and is_charge_separated(mol),
        "perceived_valid": mol is not None,
        "perceived_connected": mol is not None and is_connected(mol),
        "perceived_fragments": perceived.fragments,
        "perceived_smiles": None
        if mol is None
        else mesomeric_smiles(mol)
        if _is_charged(mol)
        else canonical_smiles(mol),
        "perception": perceived.problem,
    }


def _is_charged(mol: Chem.Mol) -> bool:
    return any(atom.GetFormalCharge() for atom in mol.GetAtoms())


def _strain(mol: Chem.Mol, method: str) -> Strain | None:
    try:
        return strain_of(mol, method)
    except MolflowError:
        return None


def _unpaired(atomic_numbers: np.ndarray, charge: int, stated: Stated | None) -> int:
    if stated is not None and stated.radicals is not None and stated.radicals.any():
        return int(stated.radicals.sum())
    return int(atomic_numbers.sum() - charge) % 2


def _values(screened: Descriptors | None, strained: Strain | None) -> dict[str, float]:
    """Finite values by the name of their quantity."""
    values: dict[str, float] = {}
    if screened is not None:
        names = ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings")
        values |= dict(zip(names, screened, strict=True))
    if strained is not None:
        method = "GFN2-xTB " if strained.force_field == "GFN2-xTB" else ""
        values |= {f"{method}strain energy": strained.energy, f"{method}strain RMSD": strained.rmsd}
    return {name: value for name, value in values.items() if np.isfinite(value)}
