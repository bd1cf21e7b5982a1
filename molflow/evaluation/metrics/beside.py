"""Figures by look-up bonds, where another protocol fills the main figures, and how given and perceived bonds agree."""

from typing import TYPE_CHECKING, ClassVar

from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import MoleculeMetric
from molflow.evaluation.metrics.validity import BY_TABLES
from molflow.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from molflow.evaluation.options import EvaluationOptions
    from molflow.evaluation.reports import MoleculeReport


class _Beside(MoleculeMetric):
    """A field of the report, if another protocol than look-up was asked for."""

    scope = "all"
    field: ClassVar[str]

    @classmethod
    def applies(cls, options: "EvaluationOptions") -> bool:
        return options.bonds != "lookup"

    def counts(self, report: "MoleculeReport") -> int:
        value: int = getattr(report, self.field)
        return value


@METRICS.register("lookup_molecule_stability")
class LookupMoleculeStability(_Beside):
    """Molecules whose atoms are all stable by EDM's rules / all molecules."""

    group, protocol, field = "Stability", "{lookup}", "lookup_stable"


@METRICS.register("lookup_atom_stability")
class LookupAtomStability(_Beside):
    """Stable atoms by EDM's rules / all atoms."""

    group, protocol, field, denominator = "Stability", "{lookup}", "lookup_stable_atoms", "atoms"

    def of(self, report: "MoleculeReport") -> int:
        return report.n_atoms


@METRICS.register("lookup_connected_validity")
class LookupConnectedValidity(_Beside):
    """Molecules that are valid by look-up bonds and one fragment / all molecules."""

    group, protocol, field = "Validity", f"{BY_TABLES}; one fragment", "lookup_connected"


@METRICS.register("lookup_validity")
class LookupValidity(_Beside):
    """Molecules that RDKit sanitises with the look-up bonds / all molecules."""

    group, protocol, field = "Validity", BY_TABLES, "lookup_valid"


@METRICS.register("bonds_as_perceived")
class BondsAsPerceived(_Beside):
    """Molecules whose bonds in the file give the SMILES of perceived bonds / molecules with bonds in the file."""

    group, protocol, denominator = "Validity", f"{PROTOCOLS['file']}; equal SMILES", "molecules with bonds in the file"

    def counts(self, report: "MoleculeReport") -> int:
        return report.agree

    def of(self, report: "MoleculeReport") -> int:
        return report.given
