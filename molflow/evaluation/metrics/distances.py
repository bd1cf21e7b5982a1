"""Wasserstein distances of bond lengths, angles, compositions and so on to those of a reference data set."""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from molflow.evaluation import distributions
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, SetMetric
from molflow.evaluation.reference import recorded_histogram

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


class Distance(SetMetric[np.ndarray]):
    """Mean Wasserstein-1 distance of a group of quantities, weighted by how often the reference has each.

    Attributes:
        quantities: group of `molflow.evaluation.distributions.QUANTITIES`.
    """

    group, scope, needs, shared = "Shape", "all", "reference", "histogram"
    quantities: ClassVar[str]

    def __init_subclass__(cls, of: str, **further: Any) -> None:
        super().__init_subclass__(**further)
        first = next(q for q in distributions.QUANTITIES.values() if q.group == of)
        cls.quantities, cls.unit, cls.denominator = of, first.unit, f"{of}s"
        cls.label = f"Wasserstein-1 distance of {of}s"
        cls.protocol = f"Wasserstein-1 distance to the reference in bins of {first.width:g} {first.unit}"

    def empty(self) -> np.ndarray:
        return np.zeros(distributions.N_BINS, dtype=np.int64)

    def add(self, state: np.ndarray, report: "MoleculeReport") -> np.ndarray:
        return distributions.add_counts(state, report.measured)

    def merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a += b
        return a

    def value(self, state: np.ndarray) -> Figure:
        assert self.options.reference is not None
        known = recorded_histogram(self.options.reference)
        distance = distributions.group_wasserstein(state, known, self.quantities)
        return Figure(distance, distributions.group_count(state, self.quantities))


@METRICS.register("w1_bond_lengths")
class BondLengths(Distance, of="bond length"):
    """Distance of bond lengths in Å, by elements and bond order."""


@METRICS.register("w1_angles")
class Angles(Distance, of="angle"):
    """Distance of bond angles in degrees, by elements."""


@METRICS.register("w1_dihedrals")
class Dihedrals(Distance, of="dihedral"):
    """Distance of dihedral angles in degrees, by the elements of the bond in the middle."""


@METRICS.register("w1_distances")
class PairDistances(Distance, of="distance"):
    """Distance of the distances of all pairs of atoms in Å, by elements."""


@METRICS.register("w1_atom_counts")
class AtomCounts(Distance, of="atom count"):
    """Distance of numbers of atoms."""


@METRICS.register("w1_compositions")
class Compositions(Distance, of="composition"):
    """Distance of numbers of atoms of each element."""
