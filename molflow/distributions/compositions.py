"""Distributions of compositions, multisets of types: the first factor of the likelihood where types are given."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions.constraint import Constraint
from molflow.distributions.registry import COMPOSITIONS
from molflow.errors import MolflowError

_FACTOR = 6364136223846793005  # the multiplier of Knuth's MMIX generator, which is odd


class Compositions(nn.Module, ABC):
    """A distribution p(c) of compositions c, the number of points of each of T types.

    Implementing one: give the methods below and register the class with `COMPOSITIONS.register`.

    Args:
        n_types: T.
        n_compositions: distinct compositions of the training data.
        max_points: most points of a composition of the training data.
        ends: bond ends of each type, of E kinds, (T, E) integers: a molecule has an even number of each kind.
        n_conditions: Q, numbers that the distribution may depend on, p(c | q).

    Attributes:
        takes_conditions: whether it can depend on conditions.
    """

    takes_conditions: ClassVar[bool] = False

    def __init__(
        self,
        n_types: int,
        n_compositions: int = 0,
        max_points: int = 0,
        ends: Tensor | None = None,
        n_conditions: int = 0,
    ):
        super().__init__()
        self.n_types, self.n_conditions = n_types, n_conditions

    @staticmethod
    @abstractmethod
    def sizes(table: Tensor) -> dict[str, int]:
        """The arguments that follow from distinct compositions of training data (K, T), by name."""

    @staticmethod
    @abstractmethod
    def possible(composition: Tensor, table: Tensor) -> Tensor:
        """Whether compositions (B, T) have a probability after training on those of a table (K, T), bool (B,)."""

    @abstractmethod
    def fit(
        self, table: Tensor, counts: Tensor, seed: int = 0, progress: bool = False, given: "Given | None" = None
    ) -> None:
        """Learn from distinct compositions (K, T) and how often each occurs (K,); the same seed gives the same result.

        With `given` each molecule has its own conditions.

        Raises:
            MolflowError: more points of one type than can be stored.
        """

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether `fit` was called, or weights were loaded."""

    @abstractmethod
    def sample(
        self,
        n: int,
        generator: torch.Generator | None,
        constraint: Constraint | None = None,
        conditions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw n compositions, each under its conditions (n, Q), of those that meet a constraint: p(c) / p(constraint).

        Returns:
            Types (n, N) in ascending order, zero at padding, and their mask (n, N).

        Raises:
            MolflowError: no composition meets the constraint.
        """

    @abstractmethod
    def log_prob_of(self, constraint: Constraint) -> Tensor:
        """log p(constraint) in nats, the probability that a composition meets it, float64 (); -inf if none does."""

    @abstractmethod
    def log_prob(self, composition: Tensor, conditions: Tensor | None = None) -> Tensor:
        """log p(c), or log p(c | q) with conditions (B, Q), in nats, float64 (B,).

        Args:
            composition: numbers of points of each type (B, T); one that cannot be has -inf.
            conditions: by default none is given.
        """

    def require_fit(self) -> None:
        """Raise MolflowError if nothing was learned yet."""
        if not self.is_fitted:
            raise MolflowError("this model has no compositions yet: train it, or load its weights")


class Given(NamedTuple):
    """Conditions of training molecules.

    Attributes:
        conditions: of M molecules, all given (M, Q).
        rows: of the table, the composition of each molecule (M,).
        optional: whether the second half of the conditions says which of the first are given.
    """

    conditions: Tensor
    rows: Tensor
    optional: bool


@COMPOSITIONS.register("table")
class CompositionTable(Compositions):
    """The compositions of a data set with their frequencies: p(c) = count(c) / total, and no others."""

    table: Tensor
    counts: Tensor

    def __init__(
        self,
        n_types: int,
        n_compositions: int = 0,
        max_points: int = 0,
        ends: Tensor | None = None,
        n_conditions: int = 0,
    ):
        super().__init__(n_types)  # its frequencies depend on no conditions
        self.register_buffer("table", torch.zeros(n_compositions, n_types, dtype=torch.uint8))
        self.register_buffer("counts", torch.zeros(n_compositions, dtype=torch.int64))

    @staticmethod
    def sizes(table: Tensor) -> dict[str, int]:
        return {"n_compositions": len(table)}

    @staticmethod
    def possible(composition: Tensor, table: Tensor) -> Tensor:
        return _places(composition, table)[1]

    def fit(
        self, table: Tensor, counts: Tensor, seed: int = 0, progress: bool = False, given: Given | None = None
    ) -> None:
        """Store the compositions and their frequencies; nothing is random.

        Raises:
            MolflowError: too many points of one type for the table's bytes.
        """
        if table.max() > 255:
            raise MolflowError(f"{int(table.max())} points of one type are too many for the table of compositions")
        if len(_keys(table).unique()) < len(table):
            raise MolflowError("the compositions are not distinct, or two of them have the same key")
        self.table.copy_(table)
        self.counts.copy_(counts)

    @property
    def is_fitted(self) -> bool:
        return bool(self.counts.any())

    def sample(
        self,
        n: int,
        generator: torch.Generator | None,
        constraint: Constraint | None = None,
        conditions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.require_fit()
        weights = self.counts.double()
        if constraint is not None:
            weights = weights * constraint.holds(self.table)
            if not weights.any():
                raise constraint.impossible()
        rows = torch.multinomial(weights, n, replacement=True, generator=generator)
        return sorted_types(self.table[rows])

    def log_prob_of(self, constraint: Constraint) -> Tensor:
        self.require_fit()
        return ((self.counts * constraint.holds(self.table)).sum().double() / self.counts.sum()).log()

    def log_prob(self, composition: Tensor, conditions: Tensor | None = None) -> Tensor:
        if not len(self.counts):
            self.require_fit()
        place, is_known = _places(composition, self.table)
        log_p = (self.counts.double() / self.counts.sum()).log()
        return torch.where(is_known, log_p[place], -torch.inf)


def sorted_types(composition: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of points (B, T) -> the types of the points (B, N) in ascending order, zero at padding, and the mask."""
    ends = composition.long().cumsum(-1)
    slots = torch.arange(int(ends[:, -1].max()), device=ends.device)
    mask = slots < ends[:, -1:]
    return (ends.unsqueeze(1) <= slots[:, None]).sum(-1) * mask, mask


def _places(composition: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The row of each composition (B, T) in a table (K, T), and whether it has one; (B,) each."""
    known, rows = _keys(table).sort()
    place = rows[torch.searchsorted(known, _keys(composition)).clamp(max=len(known) - 1)]
    return place, (table[place] == composition).all(-1)


def _keys(composition: Tensor) -> Tensor:
    """A hash of each composition: the sum of its numbers times powers of an odd number, modulo 2^64."""
    weights = torch.full((composition.shape[1],), _FACTOR, device=composition.device).cumprod(0)
    return (composition.long() * weights).sum(-1)
