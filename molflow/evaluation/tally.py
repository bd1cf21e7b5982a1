"""Counting reports on molecules, and the scores that follow from the counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from molflow.chem.bonds import EDM_GEOM
from molflow.chem.elements import formula
from molflow.chem.structure import Structure
from molflow.errors import MolflowError
from molflow.evaluation import distributions
from molflow.evaluation.chunks import bonded_chunks
from molflow.evaluation.inspection import stable_atoms
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, Metric, MoleculeMetric, Ratio, SetMetric
from molflow.evaluation.metrics.distances import BondLengths
from molflow.evaluation.options import EvaluationOptions
from molflow.evaluation.protocols import PROTOCOLS
from molflow.evaluation.reference import recorded_histogram, recorded_scores
from molflow.evaluation.reports import MoleculeReport
from molflow.evaluation.scores import MoleculeScores, Score
from molflow.evaluation.statistics import wilson_interval

_WITH_HISTOGRAM = ("atom count", "descriptor", "ring size")
"""Groups of quantities whose distributions come with a histogram to draw."""


class Tally:
    """Counts over molecules, which take reports one by one and merge with the counts of others.

    All counts are whole numbers, so neither order nor grouping changes a score. The memory is constant but for the
    distinct SMILES and formulas.

    Example:
        >>> from molflow.evaluation import inspect_all
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> tally = Tally()
        >>> for report in molflow.evaluation.inspect_all([water, water], workers=0):
        ...     tally.add(report)
        >>> tally.scores().validity_x_uniqueness
        0.5
    """

    def __init__(self, options: EvaluationOptions | None = None) -> None:
        self.options = options or EvaluationOptions()
        self.n_molecules = self.n_atoms = 0
        self.statuses: Counter[str] = Counter()
        self.unscored: Counter[str] = Counter()
        self._counted: dict[str, MoleculeMetric] = {}
        self._collected: dict[str, SetMetric[Any]] = {}
        for name, metric in METRICS.items():
            if issubclass(metric, MoleculeMetric) and metric.applies(self.options):
                self._counted[name] = metric(self.options)
            elif issubclass(metric, SetMetric) and metric.applies(self.options):
                self._collected[name] = metric(self.options)
        self._ratios = {name: [0, 0] for name in self._counted}
        self._collectors = {metric.shared or name: metric for name, metric in self._collected.items()}
        if self.options.covers("all"):
            self._collectors.setdefault(BondLengths.shared, BondLengths(self.options))  # for the distributions
        self._states = {key: metric.empty() for key, metric in self._collectors.items()}

    @property
    def histogram(self) -> np.ndarray:
        """Counts of all quantities of `molflow.evaluation.distributions`, (N_BINS,); of the scope "all" only."""
        counts: np.ndarray = self._states[BondLengths.shared]
        return counts

    def add(self, report: MoleculeReport, copies: int = 1) -> None:
        """Count a molecule, or several equal ones, or a record that could not be read."""
        if report.status == "unreadable":
            self.add_unreadable(copies)
            return
        if report.status == "unscored":
            self.add_unscored(report.reason, copies)
            return
        if report.status:
            self.statuses[report.status] += copies
        self.n_molecules += copies
        self.n_atoms += copies * report.n_atoms
        for name, metric in self._counted.items():
            ratio = self._ratios[name]
            ratio[0] += copies * metric.counts(report)
            ratio[1] += copies * metric.of(report)
        for key, collector in self._collectors.items():
            for _ in range(copies):
                self._states[key] = collector.add(self._states[key], report)

    def add_unreadable(self, records: int = 1) -> None:
        """Count records that could not be read."""
        if records:
            self.statuses["unreadable"] += records

    def add_unscored(self, reason: str, molecules: int = 1) -> None:
        """Count molecules that are in no figure, by the kind of their reason."""
        self.statuses["unscored"] += molecules
        self.unscored[re.sub(r"^\d+ ", "", reason).partition(":")[0]] += molecules

    def add_stability(self, structures: Sequence[Structure]) -> None:
        """Count many molecules by look-up stability and composition alone, without RDKit and without workers.

        Molecules of equal formula and equal number of stable atoms share one report.
        """
        for structure in structures:
            if structure.bonds is not None:
                self.add(_stability_report(structure.atomic_numbers, int(stable_atoms(structure).sum())))
        for chunk in bonded_chunks([structure for structure in structures if structure.bonds is None]):
            numbers = chunk.atomic_numbers
            stable, _ = EDM_GEOM.stability_of_orders(chunk.orders, numbers, np.ones(numbers.shape, dtype=bool))
            kinds = np.column_stack([np.sort(numbers, axis=1), stable.sum(1)])
            for row, copies in zip(*np.unique(kinds, axis=0, return_counts=True), strict=True):
                self.add(_stability_report(row[:-1], int(row[-1])), int(copies))

    def merge(self, other: Tally) -> None:
        """Count everything that another tally, made with the same options, has counted."""
        self.n_molecules += other.n_molecules
        self.n_atoms += other.n_atoms
        self.statuses.update(other.statuses)
        self.unscored.update(other.unscored)
        for name, (count, of) in other._ratios.items():
            self._ratios[name][0] += count
            self._ratios[name][1] += of
        for key, collector in self._collectors.items():
            self._states[key] = collector.merge(self._states[key], other._states[key])

    def scores(self) -> MoleculeScores:
        """Scores that follow from the counts.

        Raises:
            MolflowError: there are no molecules.
        """
        if not self.n_molecules and not self.statuses["unscored"]:
            raise MolflowError("no molecules to evaluate; expected at least one")
        reference, training = self.options.reference, self.options.training
        recorded = None if reference is None else recorded_scores(reference, self.options.bonds)
        if recorded is not None and training is not None and training.name != f"the training split of {reference}":
            recorded = _without_novelty(recorded)
        found: dict[str, Ratio | Figure] = {name: Ratio(*ratio) for name, ratio in self._ratios.items()}
        found |= {name: m.value(self._states[m.shared or name]) for name, m in self._collected.items()}
        metrics = self._counted | self._collected
        return MoleculeScores(
            n_molecules=self.n_molecules,
            n_unreadable=self.statuses["unreadable"],
            n_atoms=self.n_atoms,
            n_unscored=self.statuses["unscored"],
            protocol=PROTOCOLS[self.options.bonds],
            training=None if training is None else training.name,
            reference_scores=recorded,
            metrics={name: _score(metrics[name], found[name], recorded) for name in METRICS if name in metrics},
            distributions=self._distributions() if self.options.covers("all") else {},
            statuses=dict(sorted(self.statuses.items())),
            unscored=dict(self.unscored.most_common()),
        )

    def _distributions(self) -> dict[str, dict[str, Any]]:
        reference = self.options.reference
        known = None if reference is None else recorded_histogram(reference)
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
                if quantity.group in _WITH_HISTOGRAM:
                    found[name]["histogram"] = distributions.coarse(self.histogram, known, name)
        return found


def _stability_report(atomic_numbers: np.ndarray, stable_atoms: int) -> MoleculeReport:
    n = len(atomic_numbers)
    stable = 0 < n == stable_atoms
    return MoleculeReport(
        n_atoms=n, formula=formula(atomic_numbers), status="", stable_atoms=stable_atoms, stable=stable
    )


def _without_novelty(recorded: dict[str, Any]) -> dict[str, Any]:
    """The scores of a reference but for those against its own training split."""
    novelty = {name for name in METRICS if METRICS[name].needs == "training"}
    kept = {name: value for name, value in recorded.items() if name not in novelty}
    return kept | {"metrics": {name: value for name, value in recorded["metrics"].items() if name not in novelty}}


def _score(metric: Metric, found: Ratio | Figure, recorded: dict[str, Any] | None) -> Score:
    protocol = metric.protocol.replace("{bonds}", PROTOCOLS[metric.options.bonds])
    protocol = protocol.replace("{lookup}", EDM_GEOM.protocol)
    if metric.options.training is not None:
        protocol = protocol.replace("{training}", metric.options.training.name)
    count = found.count if isinstance(found, Ratio) else None
    return Score(
        value=found.value,
        count=count,
        of=found.of,
        what=metric.denominator,
        protocol=protocol,
        unit=metric.unit,
        interval=None if count is None else wilson_interval(count, found.of),
        reference=_recorded(recorded, metric.kind),
    )


def _recorded(recorded: dict[str, Any] | None, name: str | None) -> float | None:
    """The value of a reference under the same name, over the whole data set if that is recorded."""
    if recorded is None or name is None:
        return None
    value: float | None = recorded.get(name, recorded.get("metrics", {}).get(name, {}).get("value"))
    return value
