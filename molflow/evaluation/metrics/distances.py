"""Distances of bond lengths, angles, compositions and so on to those of a reference data set."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from molflow.evaluation import distributions
from molflow.evaluation.metrics import METRICS
from molflow.evaluation.metrics.base import Figure, SetMetric
from molflow.evaluation.reference import recorded_histogram

if TYPE_CHECKING:
    from molflow.evaluation.reports import MoleculeReport


class OfHistogram(SetMetric[np.ndarray]):
    """A metric of the flat histogram of `molflow.evaluation.distributions`, beside that of a reference."""

    group, scope, needs, shared = "Shape", "all", "reference", "histogram"

    def empty(self) -> np.ndarray:
        return np.zeros(distributions.N_BINS, dtype=np.int64)

    def add(self, state: np.ndarray, report: "MoleculeReport") -> np.ndarray:
        return distributions.add_counts(state, report.measured)

    def merge(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a += b
        return a

    @property
    def known(self) -> np.ndarray:
        """The histogram of the reference."""
        assert self.options.reference is not None
        return recorded_histogram(self.options.reference)


class Distance(OfHistogram):
    """Mean distance of the quantities of a group, weighted by how often the reference has each.

    Attributes:
        quantities: group of `molflow.evaluation.distributions.QUANTITIES`.
    """

    quantities: ClassVar[str]

    def __init_subclass__(cls, of: str = "", **further: Any) -> None:
        super().__init_subclass__(**further)
        if of:
            cls.quantities, cls.denominator = of, f"{of}s"
            cls.describe(next(q for q in distributions.QUANTITIES.values() if q.group == of))

    @classmethod
    @abstractmethod
    def describe(cls, first: distributions.Quantity) -> None:
        """Set label, unit and protocol from the first quantity of the group."""

    @abstractmethod
    def distance(self, histogram: np.ndarray, reference: np.ndarray, name: str) -> float | None:
        """The distance of one quantity; None if either histogram lacks it."""

    def value(self, state: np.ndarray) -> Figure:
        found = distributions.group_distance(state, self.known, self.quantities, self.distance)
        return Figure(found, distributions.group_count(state, self.quantities))


class Wasserstein(Distance):
    """Mean Wasserstein-1 distance, in the unit of the quantities."""

    @classmethod
    def describe(cls, first: distributions.Quantity) -> None:
        cls.unit, cls.label = first.unit, f"Wasserstein-1 distance of {first.group}s"
        cls.protocol = f"Wasserstein-1 distance to the reference in bins of {first.width:g} {first.unit}"

    def distance(self, histogram: np.ndarray, reference: np.ndarray, name: str) -> float | None:
        return distributions.wasserstein(histogram, reference, name)


class JensenShannon(Distance):
    """Mean Jensen-Shannon distance, 0..1."""

    @classmethod
    def describe(cls, first: distributions.Quantity) -> None:
        cls.label = f"Jensen-Shannon distance of {first.group}s"
        width = first.width * distributions.JS_BINS
        cls.protocol = f"Jensen-Shannon distance (base 2) to the reference in bins of {width:g} {first.unit}, by kind"

    def distance(self, histogram: np.ndarray, reference: np.ndarray, name: str) -> float | None:
        return distributions.jensen_shannon(histogram, reference, name)


@METRICS.register("w1_bond_lengths")
class BondLengths(Wasserstein, of="bond length"):
    """Distance of bond lengths in Å, by elements and bond order."""


@METRICS.register("w1_angles")
class Angles(Wasserstein, of="angle"):
    """Distance of bond angles in degrees, by elements."""


@METRICS.register("w1_dihedrals")
class Dihedrals(Wasserstein, of="dihedral"):
    """Distance of dihedral angles in degrees, by the elements of the bond in the middle."""


@METRICS.register("w1_distances")
class PairDistances(Wasserstein, of="distance"):
    """Distance of the distances of all pairs of atoms in Å, by elements."""


@METRICS.register("w1_atom_counts")
class AtomCounts(Wasserstein, of="atom count"):
    """Distance of numbers of atoms."""


@METRICS.register("w1_compositions")
class Compositions(Wasserstein, of="composition"):
    """Distance of numbers of atoms of each element."""


@METRICS.register("js_bond_lengths")
class BondLengthsJS(JensenShannon, of="bond length"):
    """Distance of bond lengths by elements and bond order."""


@METRICS.register("js_angles")
class AnglesJS(JensenShannon, of="angle"):
    """Distance of bond angles by elements."""


@METRICS.register("js_dihedrals")
class DihedralsJS(JensenShannon, of="dihedral"):
    """Distance of dihedral angles by the elements of the bond in the middle."""
