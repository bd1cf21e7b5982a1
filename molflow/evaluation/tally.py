"""Counting reports on molecules, and what the counts come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from molflow.chem import perception, posebusters
from molflow.chem.bonds import PROTOCOL, stability_of_orders
from molflow.chem.elements import formula
from molflow.chem.io import Structure
from molflow.errors import MolflowError
from molflow.evaluation import distributions
from molflow.evaluation.chunks import bonded_chunks
from molflow.evaluation.contacts import CLASH_PROTOCOL
from molflow.evaluation.inspection import MoleculeReport, is_covered
from molflow.evaluation.novelty import TrainingReference
from molflow.evaluation.reference import recorded_histogram, recorded_scores
from molflow.evaluation.scores import Metric, MoleculeScores
from molflow.evaluation.statistics import wilson_interval

Scope = Literal["stability", "lookup", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""How much is known of each molecule; each scope includes those before it."""


class _Fraction(NamedTuple):
    part: str
    of: str
    protocol: str
    scope: Scope = "lookup"


_LOOKED_UP = f"RDKit sanitises with bonds by {PROTOCOL}"
_CODE_OF_EDM = f"{_LOOKED_UP} and missing hydrogens implied; the largest fragment stands for the molecule (EDM's code)"
_PERCEIVED = f"{perception.PROTOCOL}; kekulised bond orders by formal charge (cf. arXiv 2505.00169)"

_FRACTIONS: dict[str, _Fraction] = {
    "atom_stability": _Fraction("stable_atoms", "atoms", PROTOCOL, "stability"),
    "molecule_stability": _Fraction("stable", "molecules", PROTOCOL, "stability"),
    "validity": _Fraction("valid", "molecules", _LOOKED_UP),
    "connected_validity": _Fraction("connected", "molecules", f"{_LOOKED_UP}; one fragment"),
    "valence_atom_stability": _Fraction("perceived_stable_atoms", "atoms", _PERCEIVED, "all"),
    "valence_molecule_stability": _Fraction("perceived_stable", "molecules", _PERCEIVED, "all"),
    "perceived_validity": _Fraction("perceived_valid", "molecules", perception.PROTOCOL, "all"),
    "perceived_connected_validity": _Fraction(
        "perceived_connected", "molecules", f"{perception.PROTOCOL}; one fragment", "all"
    ),
    "rdkit_default_validity": _Fraction(
        "default_connected", "molecules", f"{perception.DEFAULT_PROTOCOL}; one fragment", "all"
    ),
    "edm_validity": _Fraction("edm_valid", "molecules", _CODE_OF_EDM),
    "edm_validity_x_uniqueness": _Fraction("edm_distinct", "molecules", _CODE_OF_EDM),
    "largest_fragment_validity": _Fraction(
        "largest_fragment_valid", "molecules", f"{_LOOKED_UP}; the largest fragment alone"
    ),
    "uniqueness": _Fraction("distinct", "connected valid molecules", f"{_LOOKED_UP}; canonical SMILES"),
    "validity_x_uniqueness": _Fraction("distinct", "molecules", f"{_LOOKED_UP}; one fragment; canonical SMILES"),
    "without_clashes": _Fraction("without_clashes", "molecules with look-up bonds", f"no {CLASH_PROTOCOL}", "all"),
    "posebusters": _Fraction("passed", "perceived connected molecules", posebusters.PROTOCOL, "all"),
}
"""Scores that are fractions of what a tally counts: numerator, denominator and rule."""

_FLAGS = (
    "stable", "valid", "connected", "largest_fragment_valid", "perceived_stable", "perceived_valid",
    "perceived_connected", "default_connected",
)  # fmt: skip

_COUNTED = {
    "connected valid molecules": "connected",
    "perceived connected molecules": "perceived_connected",
    "molecules with look-up bonds": "examined",
}

DISTANCES = {
    "w1_bond_lengths": "bond length",
    "w1_angles": "angle",
    "w1_dihedrals": "dihedral",
    "w1_distances": "distance",
    "w1_atom_counts": "atom count",
    "w1_compositions": "composition",
}
"""Wasserstein distances to the reference, by the group of quantities that they summarise."""

_DRAWN = ("atom count", "descriptor")
"""Groups whose quantities come with a histogram to draw."""


class Tally:
    """Counts over molecules, to which reports are added one by one and tallies as wholes.

    All are whole numbers, so neither order nor grouping changes a score. Beside the counts, which take a fixed amount
    of memory, it keeps the distinct SMILES and formulas.

    Example:
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> tally = Tally()
        >>> for report in inspect_all([water, water], workers=0):
        ...     tally.add(report)
        >>> tally.scores().validity_x_uniqueness
        0.5
    """

    def __init__(self, scope: Scope = "all") -> None:
        self.scope = scope
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.formulas: Counter[str] = Counter()
        self.smiles: set[str] = set()  # of the connected valid molecules
        self.edm_smiles: set[str] = set()
        self.histogram = np.zeros(distributions.N_BINS, dtype=np.int64)

    def add(self, report: MoleculeReport) -> None:
        """Count one molecule, or a record that could not be read."""
        if report.status == "unreadable":
            self.add_unreadable()
            return
        self.statuses[report.status] += 1
        self.formulas[report.formula] += 1
        found = Counter(name for name in _FLAGS if getattr(report, name))
        found.update(
            molecules=1,
            atoms=report.n_atoms,
            stable_atoms=report.stable_atoms,
            perceived_stable_atoms=report.perceived_stable_atoms,
            fragments=report.fragments,
            with_fragments=report.fragments > 0,
            edm_valid=report.edm_smiles is not None,
            without_clashes=report.clashes == 0,
            examined=report.clashes is not None,
            checked=report.posebusters is not None,
            passed=report.posebusters == (),
        )
        self.counts.update(found)
        if report.connected and report.smiles is not None:
            self.smiles.add(report.smiles)
        if report.edm_smiles is not None:
            self.edm_smiles.add(report.edm_smiles)
        if report.measured is not None:
            bins, counts = report.measured
            self.histogram[bins] += counts

    def add_unreadable(self, records: int = 1) -> None:
        """Count records that could not be read."""
        if records:
            self.statuses["unreadable"] += records

    def add_stability(self, structures: Sequence[Structure]) -> None:
        """Count many molecules by look-up stability and composition alone, without RDKit and without workers."""
        covered: list[Structure] = []
        foreign: list[Structure] = []
        for structure in structures:
            (covered if is_covered(structure.atomic_numbers) else foreign).append(structure)
        self.formulas.update(formula(structure.atomic_numbers) for structure in foreign)
        self.counts.update(molecules=len(foreign), atoms=sum(len(s.atomic_numbers) for s in foreign))
        for chunk in bonded_chunks(covered):
            numbers = chunk.atomic_numbers
            atoms, molecules = stability_of_orders(chunk.orders, numbers, np.ones(numbers.shape, dtype=bool))
            for row, copies in zip(*np.unique(np.sort(numbers, axis=1), axis=0, return_counts=True), strict=True):
                self.formulas[formula(row)] += int(copies)
            self.counts.update(
                molecules=len(numbers),
                atoms=numbers.size,
                stable_atoms=int(atoms.sum()),
                stable=int(molecules.sum()),
            )

    def merge(self, other: Tally) -> None:
        """Count all that another tally has counted."""
        for name in ("counts", "statuses", "formulas", "smiles", "edm_smiles"):
            getattr(self, name).update(getattr(other, name))
        self.histogram += other.histogram

    def scores(
        self, *, reference: str | None = None, training: TrainingReference | None = None, progress: bool = False
    ) -> MoleculeScores:
        """What the counts come to; arguments and errors as in `evaluate`."""
        if not self.counts["molecules"]:
            raise MolflowError("no molecules to evaluate; expected at least one")
        of_smiles, of_shapes = self._covers("lookup"), self._covers("all")
        recorded = None if reference is None else recorded_scores(reference)
        known = None if reference is None or not of_shapes else recorded_histogram(reference)
        metrics: dict[str, Metric] = self._fractions() | self._mean_fragments()
        nearest: np.ndarray | None = None
        if training is not None:
            metrics |= self._fractions_of_training(training)
            if of_smiles:
                nearest = _similarity(self.smiles - training.smiles, training, progress)
        if known is not None:
            metrics |= self._distances(known)

        def value(name: str) -> float | None:
            return metrics[name].value if name in metrics else None

        def interval(name: str) -> tuple[float, float] | None:
            return metrics[name].interval if name in metrics else None

        return MoleculeScores(
            n_molecules=self.counts["molecules"],
            n_unreadable=self.statuses["unreadable"],
            n_atoms=self.counts["atoms"],
            atom_stability=value("atom_stability"),
            molecule_stability=self.counts["stable"] / self.counts["molecules"],
            validity=value("validity"),
            connected_validity=value("connected_validity"),
            uniqueness=value("uniqueness"),
            validity_x_uniqueness=value("validity_x_uniqueness"),
            novelty=value("novelty"),
            n_distinct=len(self.smiles) if of_smiles else None,
            n_novel=metrics["novelty"].count if "novelty" in metrics else None,
            nearest_training_similarity=None if nearest is None else float(nearest.mean()),
            nearest_training_similarity_median=None if nearest is None else float(np.median(nearest)),
            novel_compositions=value("novel_compositions"),
            protocol=PROTOCOL,
            training=None if training is None else training.name,
            reference_scores=recorded,
            atom_stability_interval=interval("atom_stability"),
            molecule_stability_interval=interval("molecule_stability"),
            validity_interval=interval("validity"),
            connected_validity_interval=interval("connected_validity"),
            validity_x_uniqueness_interval=interval("validity_x_uniqueness"),
            novelty_interval=interval("novelty"),
            novel_compositions_interval=interval("novel_compositions"),
            metrics={name: replace(metric, reference=_recorded(recorded, name)) for name, metric in metrics.items()},
            distributions=self._distributions(known) if of_shapes else {},
            statuses=dict(sorted(self.statuses.items())),
        )

    def _covers(self, scope: Scope) -> bool:
        return SCOPES.index(scope) <= SCOPES.index(self.scope)

    def _number(self, name: str) -> int:
        if name == "distinct":
            return len(self.smiles)
        if name == "edm_distinct":
            return len(self.edm_smiles)
        return self.counts[_COUNTED.get(name, name)]

    def _fractions(self) -> dict[str, Metric]:
        return {
            name: _fraction(self._number(rule.part), self._number(rule.of), rule.of, rule.protocol)
            for name, rule in _FRACTIONS.items()
            if self._covers(rule.scope) and (name != "posebusters" or self.counts["checked"])
        }

    def _mean_fragments(self) -> dict[str, Metric]:
        known = self.counts["with_fragments"]
        if not known:
            return {}
        mean = self.counts["fragments"] / known
        return {
            "fragments": Metric(mean, None, known, "molecules", f"mean number of parts by {PROTOCOL}", "a molecule")
        }

    def _fractions_of_training(self, training: TrainingReference) -> dict[str, Metric]:
        total = self.counts["molecules"]
        compositions = sum(n for found, n in self.formulas.items() if found not in training.formulas)
        against = f"formula not in {training.name}"
        metrics = {"novel_compositions": _fraction(compositions, total, "molecules", against)}
        if not self._covers("lookup"):
            return metrics
        novel, of_edm = len(self.smiles - training.smiles), len(self.edm_smiles - training.smiles)
        against = f"canonical SMILES not in {training.name}"
        return metrics | {
            "novelty": _fraction(novel, len(self.smiles), "distinct molecules", against),
            "validity_x_uniqueness_x_novelty": _fraction(novel, total, "molecules", f"{_LOOKED_UP}; {against}"),
            "edm_validity_x_uniqueness_x_novelty": _fraction(of_edm, total, "molecules", f"{_CODE_OF_EDM}; {against}"),
        }

    def _distances(self, known: np.ndarray) -> dict[str, Metric]:
        """Figures, not fractions: Wasserstein distances of groups of quantities to those of the reference."""
        metrics = {}
        for name, group in DISTANCES.items():
            members = [q for q in distributions.QUANTITIES.values() if q.group == group]
            of = sum(int(distributions.counts_of(self.histogram, q.name).sum()) for q in members)
            value = distributions.group_wasserstein(self.histogram, known, group)
            rule = f"Wasserstein-1 distance to the reference in bins of {members[0].width:g} {members[0].unit}"
            metrics[name] = Metric(value, None, of, f"{group}s", rule, members[0].unit)
        return metrics

    def _distributions(self, known: np.ndarray | None) -> dict[str, dict[str, Any]]:
        found = {}
        for name, quantity in distributions.QUANTITIES.items():
            count = int(distributions.counts_of(self.histogram, name).sum())
            if count:
                found[name] = {
                    "unit": quantity.unit,
                    "count": count,
                    "mean": distributions.mean(self.histogram, name),
                    "quantiles": distributions.quantiles(self.histogram, name),
                    "w1": None if known is None else distributions.wasserstein(self.histogram, known, name),
                }
                if quantity.group in _DRAWN:
                    found[name]["histogram"] = distributions.coarse(self.histogram, known, name)
        return found


def _fraction(count: int, of: int, what: str, protocol: str) -> Metric:
    return Metric(count / of if of else None, count, of, what, protocol, interval=wilson_interval(count, of))


def _recorded(recorded: dict[str, Any] | None, name: str) -> float | None:
    """The value that a reference has under the same name: over all of it where that is known."""
    if recorded is None:
        return None
    value: float | None = recorded.get(name, recorded.get("metrics", {}).get(name, {}).get("value"))
    return value


def _similarity(novel: set[str], training: TrainingReference, progress: bool) -> np.ndarray | None:
    """Of each novel molecule to the nearest training molecule; None where none is novel."""
    return training.nearest_similarity(sorted(novel), progress) if novel else None
