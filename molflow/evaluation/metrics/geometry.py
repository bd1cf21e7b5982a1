"""Unusual geometry: bond lengths and angles beyond those of real molecules, rare ring sizes, and strain."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from molflow.evaluation import distributions
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, MoleculeMetric, Ratio, SetMetric
from molflow.evaluation.metrics.distances import OfHistogram
from molflow.evaluation.reference import recorded_histogram

if TYPE_CHECKING:
    from molflow.evaluation.options import EvaluationOptions
    from molflow.evaluation.reports import MoleculeReport

TAIL = 1e-4
"""Share of the reference's bond lengths or angles of one kind beyond each end of the usual range."""

RARE = 0.01
"""Ring sizes that fewer of the reference's rings have are rare."""


@METRICS.register("validity_3d")
class Validity3D(MoleculeMetric):
    """Molecules whose bond lengths and angles are all usual / molecules that are one fragment by perceived bonds.

    Source: the idea of GenBench3D (arXiv 2407.04424), with quantiles of the reference in place of its densities.
    """

    group, scope, needs, label = "Shape", "all", "reference", "validity 3D"
    protocol = (
        f"every bond length and angle within the quantiles {TAIL:g} and 1 - {TAIL:g} of its kind in the reference"
    )
    denominator = "perceived connected molecules"

    def __init__(self, options: "EvaluationOptions") -> None:
        super().__init__(options)
        assert options.reference is not None
        self._usual = distributions.usual_bins(recorded_histogram(options.reference), ("bond length", "angle"), TAIL)

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_connected and bool(self._usual[report.measured[0]].all())

    def of(self, report: "MoleculeReport") -> int:
        return report.perceived_connected


@METRICS.register("rare_ring_sizes")
class RareRingSizes(OfHistogram):
    """Rings of a size that is rare in the reference / rings."""

    protocol = f"smallest rings by perceived bonds, of a size that less than {RARE:.0%} of the reference's rings have"
    denominator = "rings"

    def value(self, state: np.ndarray) -> Ratio:
        found, known = (distributions.counts_of(histogram, "ring size") for histogram in (state, self.known))
        rare = known < RARE * known.sum()
        return Ratio(int(found[rare].sum()), int(found.sum()))


@METRICS.register("strain_per_atom")
class StrainPerAtom(SetMetric[Counter[int]]):
    """Median of the strain energy of a molecule over its number of atoms, hydrogens included."""

    group, scope, needs, unit = "Shape", "all", "strain", "kcal/mol"
    protocol = "median over molecules of strain energy / atoms, to 0.001 kcal/mol"
    denominator = "molecules with a strain energy"

    def empty(self) -> Counter[int]:
        return Counter()

    def add(self, state: Counter[int], report: "MoleculeReport") -> Counter[int]:
        if report.strain is not None and np.isfinite(report.strain.energy):
            state[round(1000 * report.strain.energy / report.n_atoms)] += 1
        return state

    def merge(self, a: Counter[int], b: Counter[int]) -> Counter[int]:
        a.update(b)
        return a

    def value(self, state: Counter[int]) -> Figure:
        values = np.sort(np.fromiter(state.elements(), dtype=np.int64))
        return Figure(float(np.median(values)) / 1000 if len(values) else None, len(values))
