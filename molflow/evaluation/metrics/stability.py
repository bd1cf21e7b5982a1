"""Stability by look-up bonds: atoms and molecules whose bond orders sum to the valences of EDM (arXiv 2203.17003)."""

from typing import TYPE_CHECKING

from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


@METRICS.register("molecule_stability")
class MoleculeStability(MoleculeMetric):
    """Molecules whose atoms are all stable / all molecules."""

    group, scope, protocol = "Stability", "stability", "{bonds}"

    def counts(self, report: "MoleculeReport") -> int:
        return report.stable


@METRICS.register("atom_stability")
class AtomStability(MoleculeMetric):
    """Stable atoms / all atoms."""

    group, scope, protocol, denominator = "Stability", "stability", "{bonds}", "atoms"

    def counts(self, report: "MoleculeReport") -> int:
        return report.stable_atoms

    def of(self, report: "MoleculeReport") -> int:
        return report.n_atoms
