"""Physical plausibility of single molecules: clashes of atoms, and the checks of PoseBusters."""

from typing import TYPE_CHECKING

from molflow.chem.posebusters import ENERGY_PROTOCOL, PROTOCOL
from molflow.evaluation.contacts import CLASH_PROTOCOL
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


@METRICS.register("without_clashes")
class WithoutClashes(MoleculeMetric):
    """Molecules without clashing atoms / molecules with look-up bonds."""

    group, scope = "Shape", "all"
    protocol, denominator = f"no {CLASH_PROTOCOL}", "molecules with look-up bonds"

    def counts(self, report: "MoleculeReport") -> int:
        return report.clashes == 0

    def of(self, report: "MoleculeReport") -> int:
        return report.clashes is not None


@METRICS.register("posebusters")
class PoseBusters(MoleculeMetric):
    """Molecules that pass all checks of PoseBusters / molecules that were checked, one fragment by perceived bonds."""

    group, scope, needs = "Shape", "all", "posebusters"
    protocol, denominator = PROTOCOL, "perceived connected molecules"

    def counts(self, report: "MoleculeReport") -> int:
        return report.posebusters == ()

    def of(self, report: "MoleculeReport") -> int:
        return report.posebusters is not None


@METRICS.register("posebusters_energy")
class PoseBustersEnergy(MoleculeMetric):
    """Molecules whose internal energy passes PoseBusters' check / those of which it was compared with conformers."""

    group, scope, needs, label = "Shape", "all", "posebusters_energy", "posebusters internal energy"
    protocol, denominator = ENERGY_PROTOCOL, "perceived connected molecules that were compared with conformers"

    def counts(self, report: "MoleculeReport") -> int:
        return report.posebusters_energy is True

    def of(self, report: "MoleculeReport") -> int:
        return report.posebusters_energy is not None
