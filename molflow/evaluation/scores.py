"""Scores as values: a metric with all that it needs to be understood, and the scores of one set of molecules."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from molflow.errors import MolflowError

if TYPE_CHECKING:
    import pandas

Interval = tuple[float, float]


@dataclass(frozen=True)
class Metric:
    """A fraction of things counted, or a figure of a distribution.

    Attributes:
        value: a fraction in 0..1, or the figure; None where it has nothing to divide by.
        count: numerator of a fraction, else None.
        of: denominator of a fraction, else how many values the figure is of.
        what: the denominator in words.
        protocol: the rule.
        unit: of a figure; empty for a fraction.
        interval: Wilson's 95 % interval of a fraction, else None.
        reference: the value of the reference data set, or None.
    """

    value: float | None
    count: int | None
    of: int
    what: str
    protocol: str
    unit: str = ""
    interval: Interval | None = None
    reference: float | None = None


@dataclass(frozen=True, kw_only=True)
class MoleculeScores:
    """Scores as fractions in 0..1; None where one was not computed or has nothing to divide by.

    A distinct molecule is a canonical SMILES among the connected valid molecules; it is novel if it is not among the
    training molecules.

    Attributes:
        n_molecules, n_atoms: what was scored.
        n_unreadable: records of the source that could not be read, and are in no other figure.
        atom_stability: stable atoms / all atoms.
        molecule_stability: molecules whose atoms are all stable / all molecules.
        validity: molecules that RDKit sanitises with the look-up bonds and no added hydrogens / all molecules.
        connected_validity: valid molecules that are one fragment / all molecules.
        uniqueness: distinct canonical SMILES / connected valid molecules they come from.
        validity_x_uniqueness: distinct canonical SMILES of connected valid molecules / all molecules.
        novelty: distinct SMILES that are not among the training molecules / distinct SMILES.
        n_distinct, n_novel: the count of distinct molecules, and of the novel ones among them.
        nearest_training_similarity, nearest_training_similarity_median: mean and median, over the novel distinct
            molecules, of the Tanimoto similarity (Morgan fingerprints, radius 2, 2048 bits) to the nearest training
            molecule; not a fraction of a count.
        novel_compositions: molecules, valid or not, whose molecular formula no training molecule has / all molecules.
        protocol: the rule that assigned the bonds.
        training: the training molecules that novelty is measured against.
        reference_scores: the same scores of a reference data set: the ceiling.
        metrics: these and all further scores by name, each with its count, denominator and protocol. Figures named
            w1_* are Wasserstein distances to the reference, weighted over its bond types, angles and so on.
        distributions: by quantity, the number of values, their mean, the 5, 50 and 95 % quantiles and, with a
            reference, the Wasserstein distance to it; of atom counts and descriptors also a histogram in few bins.
        statuses: molecules by status, see `molflow.evaluation.STATUSES`.
        *_interval: Wilson's 95 % interval. It takes what is counted as independent, which the atoms of one molecule
            are not, so that of atom_stability is too narrow. Fractions of distinct molecules fall as more are sampled;
            their intervals are for the number sampled here.
    """

    n_molecules: int
    n_unreadable: int = 0
    n_atoms: int
    atom_stability: float | None
    molecule_stability: float
    validity: float | None
    connected_validity: float | None
    uniqueness: float | None
    validity_x_uniqueness: float | None
    novelty: float | None = None
    n_distinct: int | None
    n_novel: int | None = None
    nearest_training_similarity: float | None = None
    nearest_training_similarity_median: float | None = None
    novel_compositions: float | None = None
    protocol: str
    training: str | None = None
    reference_scores: dict[str, Any] | None
    atom_stability_interval: Interval | None
    molecule_stability_interval: Interval | None
    validity_interval: Interval | None
    connected_validity_interval: Interval | None
    validity_x_uniqueness_interval: Interval | None
    novelty_interval: Interval | None = None
    novel_compositions_interval: Interval | None = None
    metrics: dict[str, Metric] = field(default_factory=dict)
    distributions: dict[str, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All scores under their own names, ready for JSON."""
        return asdict(self)

    def to_frame(self) -> pandas.DataFrame:
        """One row for each metric, indexed by its name.

        Raises:
            MolflowError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MolflowError("a data frame needs pandas; install it with: pip install pandas") from error
        rows = []
        for metric in self.metrics.values():
            row = asdict(metric)
            row["low"], row["high"] = row.pop("interval") or (None, None)
            rows.append(row)
        return pandas.DataFrame(rows, index=pandas.Index(self.metrics, name="metric"))

    def _repr_html_(self) -> str:
        """A table in notebooks."""
        head = "".join(f"<th>{name}</th>" for name in ("", "score", "95 % interval", "of", "reference", "protocol"))
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name.replace('_', ' '))}</th>"
            f"<td>{_shown(metric, metric.value)}</td>"
            f"<td>{' – '.join(_shown(metric, end) for end in metric.interval or ())}</td>"
            f"<td style='text-align:left'>{metric.of:,} {html.escape(metric.what)}</td>"
            f"<td>{_shown(metric, metric.reference)}</td>"
            f"<td style='text-align:left'>{html.escape(metric.protocol)}</td></tr>"
            for name, metric in self.metrics.items()
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _shown(metric: Metric, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if metric.count is not None else f"{value:.4g} {metric.unit}".rstrip()
