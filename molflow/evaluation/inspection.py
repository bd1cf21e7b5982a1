"""One molecule under every protocol: plain values that a worker process can send back, and why it failed in words.

Nothing here needs torch: worker processes load NumPy and RDKit alone. Look-up bonds therefore come with the molecule.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.chem.build import bond_list, canonical_smiles, is_connected, is_sanitised, mol_of_bonds
from molflow.chem.elements import formula, symbol
from molflow.chem.perception import Perceived, accepted_by_default, perceive
from molflow.chem.relaxation import Strain, strain
from molflow.chem.valences import VALENCES
from molflow.errors import MolflowError
from molflow.evaluation.distributions import bond_bins, composition_bins, counted, distance_bins, value_bins

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdkit import Chem

    from molflow.chem.io import Structure

STATUSES: dict[str, str] = {
    "stable": "one fragment, and every atom has its valence, by the look-up bonds",
    "unstable": "RDKit accepts the look-up bonds, but an atom has the wrong valence",
    "disconnected": "several fragments by the look-up bonds",
    "invalid": "RDKit refuses the look-up bonds, atoms are on one spot, a coordinate is not finite, or no atoms",
    "unsupported": "an element that the look-up tables do not cover",
    "timed out": "not finished within the time limit",
    "crashed": "ended its worker process, or raised an error that was not foreseen",
    "unreadable": "a record of a file that could not be read",
}
"""What a status means; of several that apply a molecule has the last in the order stable, ..., invalid."""

ON_ONE_SPOT = 0.3
"""Atoms closer than this, in Å, are on one spot; the shortest bond there is, H-H, has 0.74 Å."""

CLASH_FRACTION = 0.6
"""Atoms more than three bonds apart clash when closer than this times the sum of their van der Waals radii.

At 0.6, two carbons clash below 2.04 Å, two hydrogens below 1.44 Å, and a hydrogen and an oxygen below 1.65 Å, which
only the strongest hydrogen bonds reach.
"""

CLASH_PROTOCOL = (
    f"two atoms more than three look-up bonds apart, closer than {CLASH_FRACTION} x the sum of RDKit's "
    "van der Waals radii"
)


class Descriptors(NamedTuple):
    """What molecules are screened by, of a perceived molecule that is one fragment.

    Attributes:
        qed: quantitative estimate of drug-likeness, 0..1 (G. R. Bickerton et al., Nat. Chem. 4 (2012) 90).
        sa_score: synthetic accessibility, 1 (easy) to 10 (P. Ertl, A. Schuffenhauer, J. Cheminf. 1 (2009) 8).
        logp: octanol-water partition by Crippen (S. A. Wildman, G. M. Crippen, J. Chem. Inf. Comp. Sci. 39 (1999) 868).
        molecular_weight: Da.
        rings, aromatic_rings: of the smallest set.
    """

    qed: float
    sa_score: float
    logp: float
    molecular_weight: float
    rings: int
    aromatic_rings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MoleculeReport:
    """What is known of one molecule. It can be pickled, and is small.

    Attributes:
        n_atoms, formula: what it is made of.
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
        clashes: pairs of atoms, see `CLASH_FRACTION`.
        descriptors: None where not `perceived_connected`.
        strain: None where not asked for or not `perceived_connected`, or where no force field has parameters.
        measured: bins of `molflow.evaluation.distributions` and their counts, (2, k); not compared.
    """

    n_atoms: int
    formula: str
    status: str
    reason: str = ""
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
    clashes: int = 0
    descriptors: Descriptors | None = None
    strain: Strain | None = None
    measured: Any = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """One row of a table: all but the bins, with descriptors and strain as columns of their own."""
        row = {
            name: getattr(self, name) for name in self.__slots__ if name not in ("descriptors", "strain", "measured")
        }
        row |= self.descriptors._asdict() if self.descriptors else dict.fromkeys(Descriptors._fields)
        found = self.strain._asdict() if self.strain else dict.fromkeys(Strain._fields)
        return row | {f"strain_{name}": value for name, value in found.items()}


class Bonded(NamedTuple):
    """A molecule with its look-up bonds as rows of two atoms and an order, (m, 3): what is sent to a worker."""

    positions: np.ndarray
    atomic_numbers: np.ndarray
    bonds: np.ndarray


def inspect(structure: Structure, *, relax: bool = False) -> MoleculeReport:
    """Everything about one molecule, in this process: RDKit may hang on what is no molecule, see `inspect_all`.

    Args:
        structure: positions (n, 3) in Å and atomic_numbers (n,).
        relax: with the strain, which takes as long as all the rest.

    Example:
        >>> ammonium = np.array([[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]])
        >>> report = inspect(Structure(ammonium, np.array([7, 1, 1, 1, 1])))
        >>> report.status, report.reason
        ('invalid', 'RDKit refuses the look-up bonds: atom 1 (N) has valence 4, expected 3')
    """
    from molflow.chem.bonds import orders_of_one

    positions, numbers = structure
    problem = unfit(positions, numbers)
    if problem is not None:
        return problem
    return inspect_bonded(Bonded(positions, numbers, bond_list(orders_of_one(positions, numbers))), relax=relax)


def unfit(positions: np.ndarray, atomic_numbers: np.ndarray) -> MoleculeReport | None:
    """The report on what is no molecule or holds an element that the tables do not cover; else None."""
    finite = np.isfinite(positions).all(axis=1) & (np.abs(positions) < 1e6).all(axis=1)
    named = [symbol(number) for number in atomic_numbers.tolist()]
    foreign = next((i for i, element in enumerate(named) if element not in VALENCES), None)
    if not named:
        status, reason = "invalid", "no atoms"
    elif not finite.all():
        status, reason = "invalid", f"atom {int(np.argmin(finite)) + 1} has no finite place within 1,000,000 Å"
    elif foreign is not None:
        status = "unsupported"
        reason = (
            f"element {named[foreign]} (atom {foreign + 1}) is outside the look-up tables, "
            f"which cover {' '.join(VALENCES)}"
        )
    else:
        return None
    return MoleculeReport(n_atoms=len(named), formula=formula(atomic_numbers), status=status, reason=reason)


def warm_up() -> None:
    """Load RDKit and its tables, by inspecting methane, so that the first molecule need not wait for that."""
    positions = np.array(
        [[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
    )
    bonds = np.array([[0, 1, 1], [0, 2, 1], [0, 3, 1], [0, 4, 1]])
    inspect_bonded(Bonded(positions, np.array([6, 1, 1, 1, 1]), bonds))


def unless_reported(function: Callable[[Bonded], MoleculeReport], item: Bonded | MoleculeReport) -> MoleculeReport:
    """Inspect a molecule; a report that stands in its place is passed on."""
    return item if isinstance(item, MoleculeReport) else function(item)


def lost(molecule: Bonded, status: str, reason: str) -> MoleculeReport:
    """The report on a molecule whose inspection did not come to an end: look-up stability, and nothing of RDKit."""
    return _report(molecule, _valence_sums(molecule) == _expected(molecule), status, reason)


def _report(molecule: Bonded, stable: np.ndarray, status: str, reason: str) -> MoleculeReport:
    return MoleculeReport(
        n_atoms=len(stable),
        formula=formula(molecule.atomic_numbers),
        status=status,
        reason=reason,
        stable_atoms=int(stable.sum()),
        stable=bool(stable.all()),
    )


def inspect_bonded(molecule: Bonded, *, relax: bool = False) -> MoleculeReport:
    """`inspect` for a molecule that is fit for it and has its look-up bonds; what runs in worker processes."""
    positions, numbers, _ = molecule
    by_lookup = inspect_lookup(molecule)
    perceived = perceive(positions, numbers)
    whole = perceived.mol if perceived.mol is not None and perceived.fragments == 1 else None
    descriptors = None if whole is None else _descriptors(whole)
    strained = _strain(whole) if relax and whole is not None else None
    bins = [composition_bins(numbers), distance_bins(positions, numbers), value_bins(_values(descriptors, strained))]
    if perceived.mol is not None:
        bins.append(bond_bins(perceived.mol))
    return replace(
        by_lookup,
        **_perceived_fields(perceived),
        default_connected=accepted_by_default(positions, numbers),
        clashes=_clashes(molecule),
        descriptors=descriptors,
        strain=strained,
        measured=counted(bins),
    )


def inspect_lookup(molecule: Bonded) -> MoleculeReport:
    """What of a report rests on the look-up bonds alone: quick, and nothing in it can hang."""
    from rdkit import Chem

    stable = _valence_sums(molecule) == _expected(molecule)
    raw = mol_of_bonds(*molecule)
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
    pairs = _pairs_within(ON_ONE_SPOT, positions).tolist()
    if not pairs:
        return ""
    i, j = min(pairs)
    return f"two atoms on one spot (atoms {i + 1} and {j + 1})"


def _wrong_valence(molecule: Bonded, atom: int) -> str:
    element = symbol(int(molecule.atomic_numbers[atom]))
    valence = int(_valence_sums(molecule)[atom])
    return f"atom {atom + 1} ({element}) has valence {valence}, expected {VALENCES[element]}"


def _valence_sums(molecule: Bonded) -> np.ndarray:
    """The sum of each atom's bond orders, (n,)."""
    n, bonds = len(molecule.atomic_numbers), molecule.bonds
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


def _descriptors(mol: Chem.Mol) -> Descriptors:
    from rdkit import Chem, rdBase
    from rdkit.Chem import QED, rdMolDescriptors
    from rdkit.Chem.Crippen import MolLogP  # type: ignore[attr-defined]
    from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

    with rdBase.BlockLogs():
        heavy = Chem.RemoveHs(mol)
        return Descriptors(
            qed=QED.qed(heavy),
            sa_score=_sa_scorer().calculateScore(heavy),
            logp=MolLogP(heavy),
            molecular_weight=MolWt(heavy),
            rings=rdMolDescriptors.CalcNumRings(heavy),
            aromatic_rings=rdMolDescriptors.CalcNumAromaticRings(heavy),
        )


@cache
def _sa_scorer() -> Any:
    """RDKit ships it as a file in its Contrib folder, not as a module."""
    from rdkit.Chem import RDConfig

    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MolflowError(f"{path}: missing; expected RDKit's Contrib folder, which its wheels include")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _strain(mol: Chem.Mol) -> Strain | None:
    try:
        return strain(mol)
    except MolflowError:
        return None


def _values(descriptors: Descriptors | None, strained: Strain | None) -> dict[str, float]:
    """Single values under the names of their quantities."""
    values: dict[str, float] = {}
    if descriptors is not None:
        names = ("QED", "SA score", "logP", "molecular weight", "rings", "aromatic rings")
        values |= dict(zip(names, descriptors, strict=True))
    if strained is not None:
        values |= {"strain energy": strained.energy, "strain RMSD": strained.rmsd}
    return values


def _clashes(molecule: Bonded) -> int:
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(number) for number in molecule.atomic_numbers.tolist()])
    pairs = _pairs_within(2 * CLASH_FRACTION * float(radii.max()), molecule.positions)
    i, j = pairs.T
    lengths = np.linalg.norm(molecule.positions[i] - molecule.positions[j], axis=1)
    close = pairs[lengths < CLASH_FRACTION * (radii[i] + radii[j])]
    one = [{atom} for atom in range(len(radii))]
    for a, b, _ in molecule.bonds.tolist():
        one[a].add(b)
        one[b].add(a)
    two = [set().union(*(one[b] for b in around)) for around in one]
    return sum(one[a].isdisjoint(two[b]) for a, b in close.tolist())


def _pairs_within(distance: float, positions: np.ndarray) -> np.ndarray:
    """Pairs of atoms i < j at most so far apart, (k, 2)."""
    from scipy.spatial import cKDTree

    return cKDTree(positions).query_pairs(distance, output_type="ndarray")
