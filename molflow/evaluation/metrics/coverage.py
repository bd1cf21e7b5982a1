"""Which molecules the look-up tables cover, and how well: beyond the elements of QM9 they are poor."""

from typing import TYPE_CHECKING

from molflow.chem.bonds import EDM_GEOM, EDM_QM9
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


@METRICS.register("lookup_covered")
class LookupCovered(MoleculeMetric):
    """Molecules that EDM's tables know, all elements and all pairs at the distance of a bond / all molecules."""

    group, scope, protocol = "Stability", "all", f"EDM look-up tables for {' '.join(EDM_GEOM.elements)}"

    def counts(self, report: "MoleculeReport") -> int:
        return report.lookup_covered


@METRICS.register("qm9_elements")
class QM9Elements(MoleculeMetric):
    """Molecules of the elements of QM9, for which look-up bonds were made / all molecules."""

    group, scope, protocol = "Stability", "all", f"elements {' '.join(EDM_QM9.elements)}"

    def counts(self, report: "MoleculeReport") -> int:
        return report.qm9_elements
