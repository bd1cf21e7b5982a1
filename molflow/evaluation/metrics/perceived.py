"""Stability and validity by bonds that RDKit perceives, which cover all elements and formal charges."""

from typing import TYPE_CHECKING

from molflow.chem import perception
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport

VALENCES = f"{perception.PROTOCOL}; kekulised bond orders by formal charge (cf. arXiv 2505.00169)"


@METRICS.register("valence_molecule_stability")
class ValenceMoleculeStability(MoleculeMetric):
    """Molecules whose atoms all have a valence that their formal charge allows / all molecules."""

    group, scope, protocol = "Stability", "all", VALENCES

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_stable


@METRICS.register("valence_atom_stability")
class ValenceAtomStability(MoleculeMetric):
    """Atoms with a valence that their formal charge allows / all atoms."""

    group, scope, protocol, denominator = "Stability", "all", VALENCES, "atoms"

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_stable_atoms

    def of(self, report: "MoleculeReport") -> int:
        return report.n_atoms


@METRICS.register("valence_charge_separated")
class ValenceChargeSeparated(MoleculeMetric):
    """Molecules that count in `valence_molecule_stability`, but with charge-separated carbons or O+ / all molecules."""

    group, scope = "Stability", "all"
    protocol = f"{VALENCES}; with a charged carbon or an O+ beside the opposite charge in one fragment"

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_stable and report.charge_separated


@METRICS.register("perceived_connected_validity")
class PerceivedConnectedValidity(MoleculeMetric):
    """Molecules that are valid by perceived bonds and one fragment / all molecules."""

    group, scope, protocol = "Validity", "all", f"{perception.PROTOCOL}; one fragment"

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_connected


@METRICS.register("perceived_validity")
class PerceivedValidity(MoleculeMetric):
    """Molecules whose fragments all get bond orders that RDKit sanitises / all molecules."""

    group, scope, protocol = "Validity", "all", perception.PROTOCOL

    def counts(self, report: "MoleculeReport") -> int:
        return report.perceived_valid


@METRICS.register("rdkit_default_validity")
class RDKitDefaultValidity(MoleculeMetric):
    """Molecules that RDKit's DetermineBonds accepts with its default settings / all molecules."""

    group, scope, protocol = "Validity", "all", f"{perception.DEFAULT_PROTOCOL}; one fragment"

    def counts(self, report: "MoleculeReport") -> int:
        return report.default_connected
