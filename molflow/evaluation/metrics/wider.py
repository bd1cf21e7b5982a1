"""Stability by EDM's tables for 16 elements, behind published figures of GEOM-Drugs."""

from typing import TYPE_CHECKING

from molflow.chem.bonds import EDM_GEOM
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


@METRICS.register("edm_geom_molecule_stability")
class EDMGeomMoleculeStability(MoleculeMetric):
    """Molecules whose atoms are all stable by these tables / all molecules."""

    group, scope, protocol = "Stability", "all", EDM_GEOM.protocol

    def counts(self, report: "MoleculeReport") -> int:
        return report.edm_geom_stable


@METRICS.register("edm_geom_atom_stability")
class EDMGeomAtomStability(MoleculeMetric):
    """Atoms that are stable by these tables / all atoms."""

    group, scope, protocol, denominator = "Stability", "all", EDM_GEOM.protocol, "atoms"

    def counts(self, report: "MoleculeReport") -> int:
        return report.edm_geom_stable_atoms

    def of(self, report: "MoleculeReport") -> int:
        return report.n_atoms


@METRICS.register("edm_geom_covered")
class EDMGeomCovered(MoleculeMetric):
    """Molecules of the elements of these tables / all molecules; any other is unsupported, and not stable by them."""

    group, scope, protocol = "Stability", "all", f"elements {' '.join(EDM_GEOM.elements)}"

    def counts(self, report: "MoleculeReport") -> int:
        return report.edm_geom_covered
