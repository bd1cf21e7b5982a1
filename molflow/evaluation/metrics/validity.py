"""Validity by look-up bonds: whether RDKit sanitises a molecule or its largest fragment."""

from typing import TYPE_CHECKING

from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, MoleculeMetric, SetMetric

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport

LOOKED_UP = "RDKit sanitises with bonds by {bonds}"
BY_TABLES = "RDKit sanitises with bonds by {lookup}"
EDM_CODE = f"{BY_TABLES} and missing hydrogens implied; the largest fragment stands for the molecule (EDM's code)"


@METRICS.register("connected_validity")
class ConnectedValidity(MoleculeMetric):
    """Valid molecules that are one fragment / all molecules."""

    group, protocol = "Validity", f"{LOOKED_UP}; one fragment"

    def counts(self, report: "MoleculeReport") -> int:
        return report.connected


@METRICS.register("validity")
class Validity(MoleculeMetric):
    """Molecules that RDKit sanitises with the look-up bonds and no added hydrogens / all molecules."""

    group, protocol = "Validity", LOOKED_UP

    def counts(self, report: "MoleculeReport") -> int:
        return report.valid


@METRICS.register("fragments")
class Fragments(SetMetric[tuple[int, int]]):
    """Mean number of fragments, over molecules that the look-up tables cover."""

    group, protocol, unit = "Validity", "mean number of parts by {bonds}", "a molecule"

    def empty(self) -> tuple[int, int]:
        return 0, 0

    def add(self, state: tuple[int, int], report: "MoleculeReport") -> tuple[int, int]:
        return self.merge(state, (report.fragments, int(report.fragments > 0)))

    def merge(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        return a[0] + b[0], a[1] + b[1]

    def value(self, state: tuple[int, int]) -> Figure:
        total, molecules = state
        return Figure(total / molecules if molecules else None, molecules)


@METRICS.register("edm_validity")
class EDMValidity(MoleculeMetric):
    """Molecules that are valid by the code of EDM / all molecules."""

    group, protocol = "Validity", EDM_CODE

    def counts(self, report: "MoleculeReport") -> int:
        return report.edm_smiles is not None


@METRICS.register("largest_fragment_validity")
class LargestFragmentValidity(MoleculeMetric):
    """Molecules whose largest fragment RDKit sanitises / all molecules."""

    group, protocol = "Validity", f"{BY_TABLES}; the largest fragment alone"

    def counts(self, report: "MoleculeReport") -> int:
        return report.largest_fragment_valid
