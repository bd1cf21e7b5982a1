"""Contracts of metrics: a `MoleculeMetric` counts molecules one by one, a `SetMetric` needs the whole set.

Implementing a metric: derive a class from one of them and register it with `METRICS.register`. After its module is
imported, or named by an entry point of the group `molflow.metrics`, its value is in the scores of `molflow.evaluate`,
the tables and the page.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from molflow.evaluation.metrics import FURTHER

if TYPE_CHECKING:
    from molflow.evaluation.options import EvaluationOptions, Scope
    from molflow.evaluation.reports import MoleculeReport

State = TypeVar("State")


@dataclass(frozen=True)
class Ratio:
    """A fraction count / of, reported with its Wilson interval."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """The fraction; None if the denominator is 0."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Figure:
    """A value that is not a fraction, such as a mean or a distance, and the number of values that it summarises."""

    value: float | None
    of: int


class Metric(ABC):
    """Base of both kinds of metrics.

    Attributes:
        kind: the name that it is registered under.
        group: heading in tables.
        scope: smallest scope of an evaluation that computes it.
        needs: option of `EvaluationOptions` without which it is left out.
        protocol: the rule in words; "{bonds}" stands for the rule of the main figures, "{lookup}" for EDM's
            rules, "{training}" for the training molecules.
        denominator: the things counted or summarised, in words.
        unit: unit of a `Figure`.
        label: label in tables, by default the name.
        options: the options of the evaluation.

    Example:
        >>> molflow.evaluation.METRICS["molecule_stability"].denominator
        'molecules'
    """

    kind: ClassVar[str | None] = None
    group: ClassVar[str] = FURTHER
    scope: ClassVar[Scope] = "lookup"
    needs: ClassVar[Literal["", "reference", "training", "strain", "posebusters", "posebusters_energy"]] = ""
    protocol: ClassVar[str]
    denominator: ClassVar[str] = "molecules"
    unit: ClassVar[str] = ""
    label: ClassVar[str] = ""

    def __init__(self, options: EvaluationOptions) -> None:
        self.options = options

    @classmethod
    def applies(cls, options: EvaluationOptions) -> bool:
        """Whether an evaluation with these options computes the metric."""
        return options.covers(cls.scope) and (not cls.needs or bool(getattr(options, cls.needs)))


class MoleculeMetric(Metric):
    """A fraction of molecules, or of their atoms: the sum of `counts` over the sum of `of`.

    Example:
        >>> from molflow.evaluation import EvaluationOptions, MoleculeReport
        >>> class SmallMolecules(MoleculeMetric):
        ...     protocol = "at most 9 atoms"
        ...     def counts(self, report):
        ...         return report.n_atoms <= 9
        >>> SmallMolecules(EvaluationOptions()).counts(MoleculeReport(n_atoms=3, formula="H2O", status="stable"))
        True
    """

    @abstractmethod
    def counts(self, report: MoleculeReport) -> int:
        """Numerator of one molecule: whether it counts, or how many of its atoms do."""

    def of(self, report: MoleculeReport) -> int:
        """Denominator of one molecule."""
        return 1


class SetMetric(Metric, Generic[State]):
    """A value of a whole set, from a state that starts empty, takes reports, and merges exactly with another.

    The order of reports, and how they are split before a merge, must not change the value. A metric over all pairs of
    molecules keeps a sample of bounded size that is drawn with a seed, and says its size in `Figure.of`.

    Attributes:
        shared: name of a state that metrics with the same `empty`, `add` and `merge` have in common and that is kept
            once; empty for a state of its own.

    Example:
        >>> from molflow.evaluation import EvaluationOptions, MoleculeReport
        >>> class LargestMolecule(SetMetric[int]):
        ...     protocol = "number of atoms"
        ...     def empty(self):
        ...         return 0
        ...     def add(self, state, report):
        ...         return max(state, report.n_atoms)
        ...     def merge(self, a, b):
        ...         return max(a, b)
        ...     def value(self, state):
        ...         return Figure(state, 1)
        >>> metric = LargestMolecule(EvaluationOptions())
        >>> water, ethane = (MoleculeReport(n_atoms=n, formula="", status="") for n in (3, 8))
        >>> metric.value(metric.add(metric.add(metric.empty(), ethane), water))
        Figure(value=8, of=1)
    """

    shared: ClassVar[str] = ""

    @abstractmethod
    def empty(self) -> State:
        """State of no molecules."""

    @abstractmethod
    def add(self, state: State, report: MoleculeReport) -> State:
        """State with one more molecule; the given one may be changed in place."""

    @abstractmethod
    def merge(self, a: State, b: State) -> State:
        """State of the molecules of both; the first may be changed in place."""

    @abstractmethod
    def value(self, state: State) -> Ratio | Figure:
        """The metric of all molecules in a state."""
