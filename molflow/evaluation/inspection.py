"""One molecule under every protocol: plain values that a worker process can send back, and why it failed in words.

Nothing here needs torch: worker processes load NumPy and RDKit alone. Look-up bonds therefore come with the molecule.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.chem.build import bond_list, bonded_mol, canonical_smiles, is_connected, is_sanitised
from molflow.chem.elements import atomic_number, formula, symbol
from molflow.chem.perception import Perceived, accepted_by_default, perceive
from molflow.chem.posebusters import check_installed, failed_checks
from molflow.chem.relaxation import Strain, check_method
from molflow.chem.relaxation import strain as strain_of
from molflow.chem.valences import VALENCES
from molflow.errors import MolflowError
from molflow.evaluation.contacts import clashes, pairs_within
from molflow.evaluation.distributions import bond_bins, composition_bins, counted, distance_bins, value_bins
from molflow.evaluation.screening import Descriptors, descriptors
from molflow.evaluation.workers import named

if TYPE_CHECKING:
    from rdkit import Chem

    from molflow.chem.io import Structure

STATUSES: dict[str, str] = {
    "stable": "one fragment, and every atom has its valence, by the look-up bonds",
    "unstable": "RDKit accepts the look-up bonds, but an atom has the wrong valence",
    "disconnected": "several fragments by the look-up bonds",
    "invalid": "RDKit refuses the look-up bonds, atoms are on one spot, a coordinate is not finite, or no atoms",
    "unsupported": "an element that the look-up tables do not cover: not stable or valid by them, but perceived; or "
    "more atoms than memory is taken for",
    "timed out": "not finished within the time limit",
    "crashed": "ended its worker process, or raised an error that was not foreseen",
    "unreadable": "a record of a file that could not be read",
}
"""What a status means; of several that apply a molecule has the last in the order stable, ..., invalid."""

MOST_ATOMS = 6_000
"""Of one molecule; memory grows with their square, and is less than a gigabyte here."""

ON_ONE_SPOT = 0.3
"""Atoms closer than this, in Å, are on one spot; the shortest bond there is, H-H, has 0.74 Å."""

_IS_COVERED = np.zeros(119, dtype=bool)  # by atomic number
_IS_COVERED[[atomic_number(element) for element in VALENCES]] = True


@dataclass(frozen=True, kw_only=True, slots=True)
class MoleculeReport:
    """What is known of one molecule.

    Attributes:
        n_atoms, formula: what it is made of.
        source, record: where it comes from: the file, empty for molecules in memory, and the record or place, from 1.
        status, reason: see `STATUSES`; the reason is empty for a stable molecule.
        stable_atoms, stable: by EDM's look-up rules.
        valid: RDKit sanitises it with the look-up bonds and no added hydrogens.
        connected: valid and one fragment.
        fragments: by the look-up bonds.
        smiles: canonical, with the look-up bonds; None where not valid.
        edm_smiles: of the largest fragment with the look-up bonds, missing hydrogens implied, as EDM's code counts a
            molecule; None where RDKit refuses the whole.
        largest_fragment_valid: RDKit sanitises the largest fragment with the look-up bonds, whatever the others are.
        perceived_stable_atoms, perceived_stable: by charge-aware valences on bonds that RDKit perceives, see
            `molflow.chem.perceive`.
        perceived_valid: every fragment gets bond orders and RDKit sanitises the whole.
        perceived_connected: that, and one fragment.
        perceived_fragments: by RDKit's connectivity.
        perceived_smiles: canonical; None where not valid.
        perception: the first thing wrong with the perceived bonds, in words.
        default_connected: RDKit's DetermineBonds with default settings gives one fragment that it sanitises.
        clashes: pairs of atoms, see `CLASH_FRACTION`; None where there are no look-up bonds.
        descriptors: None where not `perceived_connected`.
        strain: None where not asked for or not `perceived_connected`, or where the method has no parameters for it.
        posebusters: names of the checks that failed; None where not asked for or not `perceived_connected`.
        measured: bins of `molflow.evaluation.distributions` and their counts, (2, k); not compared.
    """

    n_atoms: int
    formula: str
    status: str
    reason: str = ""
    source: str = ""
    record: int | None = None
    stable_atoms: int = 0
    stable: bool = False
    valid: bool = False
    connected: bool = False
    fragments: int = 0
    smiles: str | None = None
    edm_smiles: str | None = None
    largest_fragment_valid: bool = False
    perceived_stable_atoms: int = 0
    perceived_stable: bool = False
    perceived_valid: bool = False
    perceived_connected: bool = False
    perceived_fragments: int = 0
    perceived_smiles: str | None = None
    perception: str = ""
    default_connected: bool = False
    clashes: int | None = None
    descriptors: Descriptors | None = None
    strain: Strain | None = None
    posebusters: tuple[str, ...] | None = None
    measured: Any = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """One row of a table: all but the bins, with descriptors and strain as columns of their own."""
        apart = ("source", "record", "descriptors", "strain", "posebusters", "measured")
        row = {"source": self.source, "record": self.record}
        row |= {name: getattr(self, name) for name in self.__slots__ if name not in apart}
        row |= self.descriptors._asdict() if self.descriptors else dict.fromkeys(Descriptors._fields)
        found = self.strain._asdict() if self.strain else dict.fromkeys(Strain._fields)
        row |= {f"strain_{name}": value for name, value in found.items()}
        passed = None if self.posebusters is None else not self.posebusters
        return row | {"posebusters_passed": passed, "posebusters_failed": ", ".join(self.posebusters or ())}

    def to_message(self) -> dict[str, Any]:
        """What JSON can hold, for `from_message`; fields that have their default are left out."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.measured is not None:
            found["measured"] = self.measured.tolist()
        return {f.name: found[f.name] for f in fields(self) if found[f.name] != f.default}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> MoleculeReport:
        """The report that `to_message` told of."""
        makers = {
            "descriptors": lambda found: Descriptors(*found),
            "strain": lambda found: Strain(*found),
            "posebusters": tuple,
            "measured": lambda found: np.array(found, dtype=np.int32).reshape(2, -1),
        }
        return cls(**{name: makers.get(name, lambda found: found)(value) for name, value in message.items()})


class Bonded(NamedTuple):
    """A molecule with its look-up bonds, which is what is inspected.

    Attributes:
        positions: (n, 3), Å, finite, n > 0.
        atomic_numbers: (n,).
        bonds: rows of two atoms and an order, (m, 3); None where the tables do not cover an element.
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    bonds: np.ndarray | None

    def to_message(self) -> list[Any]:
        """What JSON can hold, for `from_message`."""
        return [None if array is None else array.tolist() for array in self]

    @classmethod
    def from_message(cls, message: list[Any]) -> Bonded:
        """The molecule that `to_message` told of; positions in float64."""
        positions, numbers, bonds = message
        return cls(
            np.array(positions, dtype=np.float64),
            np.array(numbers, dtype=np.int64),
            None if bonds is None else np.array(bonds, dtype=np.int64).reshape(-1, 3),
        )


def inspect(structure: Structure, *, strain: str | None = None, posebusters: bool = False) -> MoleculeReport:
    """Everything about one molecule, in this process: RDKit may hang on what is no molecule, see `inspect_all`.

    Args:
        structure: positions (n, 3) in Å and atomic_numbers (n,).
        strain: with the strain by this of `molflow.chem.relaxation.METHODS`; "mmff94" takes as long as all the rest.
        posebusters: with the checks of PoseBusters, which take several times as long.

    Raises:
        MolflowError: an unknown method, or one whose package is not installed.

    Example:
        >>> ammonium = np.array([[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]])
        >>> report = inspect(Structure(ammonium, np.array([7, 1, 1, 1, 1])))
        >>> report.status, report.reason
        ('invalid', 'RDKit refuses the look-up bonds: atom 1 (N) has valence 4, expected 3')
    """
    from molflow.chem.bonds import orders_of_one

    check_extras(strain, posebusters)
    positions, numbers, *_ = structure
    problem = unfit(positions, numbers)
    if problem is not None:
        return problem
    bonds = bond_list(orders_of_one(positions, numbers)) if is_covered(numbers) else None
    return inspect_bonded(Bonded(positions, numbers, bonds), strain=strain, posebusters=posebusters)


def check_extras(strain: str | None, posebusters: bool) -> None:
    """Raise MolflowError for an unknown method of strain, or where a package is not installed."""
    if strain is not None:
        check_method(strain)
    if posebusters:
        check_installed()


def is_covered(atomic_numbers: np.ndarray) -> bool:
    """Whether the look-up tables cover all elements."""
    return bool(_IS_COVERED.take(atomic_numbers, mode="clip").all())


def unfit(positions: np.ndarray, atomic_numbers: np.ndarray) -> MoleculeReport | None:
    """The report on what is no molecule; else None."""
    finite = np.isfinite(positions).all(axis=1) & (np.abs(positions) < 1e6).all(axis=1)
    status = "invalid"
    if not len(atomic_numbers):
        reason = "no atoms"
    elif len(atomic_numbers) > MOST_ATOMS:
        status, reason = "unsupported", f"{len(atomic_numbers):,} atoms, at most {MOST_ATOMS:,} are supported"
    elif not finite.all():
        reason = f"atom {int(np.argmin(finite)) + 1} has no finite place within 1,000,000 Å"
    else:
        return None
    return MoleculeReport(n_atoms=len(atomic_numbers), formula=formula(atomic_numbers), status=status, reason=reason)


def warm_up(inspector: str, **options: Any) -> None:
    """Load RDKit and its tables, by inspecting methane, so that the first molecule need not wait for that."""
    positions = np.array(
        [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
    )
    bonds = np.array([[0, 1, 1], [0, 2, 1], [0, 3, 1], [0, 4, 1]])
    named(inspector)(Bonded(positions, np.array([6, 1, 1, 1, 1]), bonds), **options)


def answer(message: list[Any] | None, inspector: str, **options: Any) -> dict[str, Any] | None:
    """What a worker process does: inspect a molecule with the function that has this name; None stays None."""
    if message is None:
        return None
    report: MoleculeReport = named(inspector)(Bonded.from_message(message), **options)
    return report.to_message()


def lost(molecule: Bonded, status: str, reason: str) -> MoleculeReport:
    """The report on a molecule whose inspection did not come to an end: look-up stability, and nothing of RDKit."""
    return _report(molecule, _stable(molecule), status, reason)


def _stable(molecule: Bonded) -> np.ndarray:
    """Which atoms have their valence, (n,); none does without look-up bonds."""
    if molecule.bonds is None:
        return np.zeros(len(molecule.atomic_numbers), dtype=bool)
    return _valence_sums(molecule, molecule.bonds) == _expected(molecule)


def _report(molecule: Bonded, stable: np.ndarray, status: str, reason: str) -> MoleculeReport:
    return MoleculeReport(
        n_atoms=len(stable),
        formula=formula(molecule.atomic_numbers),
        status=status,
        reason=reason,
        stable_atoms=int(stable.sum()),
        stable=bool(stable.all()),
    )


def inspect_bonded(molecule: Bonded, *, strain: str | None = None, posebusters: bool = False) -> MoleculeReport:
    """`inspect` for a molecule with its look-up bonds; what runs in worker processes."""
    positions, numbers, bonds = molecule
    by_lookup = inspect_lookup(molecule)
    perceived = perceive(positions, numbers)
    whole = perceived.mol if perceived.mol is not None and perceived.fragments == 1 else None
    screened = None if whole is None else descriptors(whole)
    strained = None if whole is None or strain is None else _strain(whole, strain)
    bins = [composition_bins(numbers), distance_bins(positions, numbers), value_bins(_values(screened, strained))]
    if perceived.mol is not None:
        bins.append(bond_bins(perceived.mol))
    return replace(
        by_lookup,
        **_perceived_fields(perceived),
        default_connected=accepted_by_default(positions, numbers),
        clashes=None if bonds is None else clashes(positions, numbers, bonds),
        descriptors=screened,
        strain=strained,
        posebusters=failed_checks(whole) if posebusters and whole is not None else None,
        measured=counted(bins),
    )


def inspect_lookup(molecule: Bonded) -> MoleculeReport:
    """What of a report rests on the look-up bonds alone: quick, and nothing in it can hang."""
    from rdkit import Chem

    positions, numbers, bonds = molecule
    stable = _stable(molecule)
    if bonds is None:
        return _report(molecule, stable, "unsupported", _foreign(numbers))
    raw = bonded_mol(positions, numbers, bonds)
    mol = Chem.Mol(raw)
    valid = is_sanitised(mol)
    fragments = len(Chem.GetMolFrags(raw))
    smiles = canonical_smiles(mol) if valid else None
    complete = valid and fragments == 1 and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    return replace(
        _report(molecule, stable, *_status(molecule, stable, valid, fragments)),
        valid=valid,
        connected=valid and fragments == 1,
        fragments=fragments,
        smiles=smiles,
        edm_smiles=smiles if complete else _largest_smiles(raw) if valid else None,
        largest_fragment_valid=valid or (fragments > 1 and is_sanitised(_largest(raw))),
    )


def _foreign(atomic_numbers: np.ndarray) -> str:
    atom = int(np.argmin(_IS_COVERED.take(atomic_numbers, mode="clip")))
    element = symbol(int(atomic_numbers[atom]))
    return f"element {element} (atom {atom + 1}) is outside the look-up tables, which cover {' '.join(VALENCES)}"


def _status(molecule: Bonded, stable: np.ndarray, valid: bool, fragments: int) -> tuple[str, str]:
    """See `STATUSES`. All that is wrong is named, the first atom of each kind."""
    spot = _on_one_spot(molecule.positions)
    wrong = "" if stable.all() else _wrong_valence(molecule, int(np.argmin(stable)))
    several = f"{fragments} fragments" if fragments > 1 else ""
    refused = "" if valid else "RDKit refuses the look-up bonds"
    if refused and wrong:
        refused, wrong = f"{refused}: {wrong}", ""
    status = "invalid" if spot or refused else "disconnected" if several else "unstable" if wrong else "stable"
    return status, "; ".join(words for words in (spot, refused, several, wrong) if words)


def _on_one_spot(positions: np.ndarray) -> str:
    pairs = pairs_within(ON_ONE_SPOT, positions).tolist()
    if not pairs:
        return ""
    i, j = min(pairs)
    return f"two atoms on one spot (atoms {i + 1} and {j + 1})"


def _wrong_valence(molecule: Bonded, atom: int) -> str:
    assert molecule.bonds is not None
    element = symbol(int(molecule.atomic_numbers[atom]))
    valence = int(_valence_sums(molecule, molecule.bonds)[atom])
    return f"atom {atom + 1} ({element}) has valence {valence}, expected {VALENCES[element]}"


def _valence_sums(molecule: Bonded, bonds: np.ndarray) -> np.ndarray:
    """The sum of each atom's bond orders, (n,)."""
    n = len(molecule.atomic_numbers)
    return np.bincount(bonds[:, :2].ravel(), bonds[:, 2].repeat(2), n).astype(np.int64)


def _expected(molecule: Bonded) -> np.ndarray:
    return np.array([VALENCES[symbol(number)] for number in molecule.atomic_numbers.tolist()])


def _largest(raw: Chem.Mol) -> Chem.Mol:
    """The fragment with most atoms, the first of several, not sanitised."""
    from rdkit import Chem

    return max(Chem.GetMolFrags(raw, asMols=True, sanitizeFrags=False), key=lambda mol: mol.GetNumAtoms())


def _largest_smiles(raw: Chem.Mol) -> str | None:
    """Canonical SMILES of the largest fragment with missing hydrogens implied; of several, the first in the alphabet.

    Source: the code of arXiv 2203.17003, which sanitises the whole and then keeps the largest fragment.
    """
    from rdkit import Chem

    whole = Chem.Mol(raw)
    for atom in whole.GetAtoms():
        atom.SetNoImplicit(False)
    if not is_sanitised(whole):
        return None
    parts = Chem.GetMolFrags(whole, asMols=True)
    size = max(part.GetNumAtoms() for part in parts)
    return min(canonical_smiles(part) for part in parts if part.GetNumAtoms() == size)


def _perceived_fields(perceived: Perceived) -> dict[str, Any]:
    mol = perceived.mol
    return {
        "perceived_stable_atoms": int(perceived.stable.sum()),
        "perceived_stable": bool(perceived.stable.all()),
        "perceived_valid": mol is not None,
        "perceived_connected": mol is not None and is_connected(mol),
        "perceived_fragments": perceived.fragments,
        "perceived_smiles": None if mol is None else canonical_smiles(mol),
        "perception": perceived.problem,
    }


def _strain(mol: Chem.Mol, method: str) -> Strain | None:
    try:
        return strain_of(mol, method)
    except MolflowError:
        return None


def _values(screened: Descriptors | None, strained: Strain | None) -> dict[str, float]:
    """Single values under the names of their quantities."""
    values: dict[str, float] = {}
    if screened is not None:
        names = ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings")
        values |= dict(zip(names, screened, strict=True))
    if strained is not None:
        method = "GFN2-xTB " if strained.force_field == "GFN2-xTB" else ""
        values |= {f"{method}strain energy": strained.energy, f"{method}strain RMSD": strained.rmsd}
    return {name: value for name, value in values.items() if np.isfinite(value)}
