"""Linear conditions on compositions, such as those of a molecular formula, and what can still meet them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from molflow.errors import MolflowError

_MOST_STATES = 20_000_000  # of the table of what is left; some hundred megabytes


@dataclass(frozen=True, eq=False)
class Constraint:
    """The compositions c (numbers of points of each of T types) with A c = b and points of allowed types alone.

    Attributes:
        allowed: (T,) bool.
        amounts: A, (R, T) whole numbers from 0.
        totals: b, (R,).
        words: the condition in words, for error messages.
    """

    allowed: Tensor
    amounts: Tensor
    totals: Tensor
    words: str

    def holds(self, composition: Tensor) -> Tensor:
        """Whether compositions (B, T) meet it, bool (B,)."""
        counts = composition.long()
        meets = (counts.unsqueeze(1) * self.amounts).sum(-1) == self.totals
        return meets.all(1) & (counts * ~self.allowed == 0).all(1)

    def impossible(self) -> MolflowError:
        """The error for a condition that no composition meets."""
        return MolflowError(f"no composition of this model has {self.words}")


class Remainders:
    """How few points can use up what is left of b, with types from a certain one on.

    A table over all vectors r from 0 to b and all types t has the smallest number of points of types t, t + 1, ... with
    A c = r. It is filled from the last type down, as in the unbounded knapsack problem.

    Args:
        constraint: the conditions.
        max_points: more are as good as impossible.

    Raises:
        MolflowError: the table would be too large.
    """

    def __init__(self, constraint: Constraint, max_points: int):
        self.constraint, self.impossible = constraint, max_points + 1
        self.shape = [int(b) + 1 for b in constraint.totals]
        n_types, size = len(constraint.allowed), 1
        for width in self.shape:
            size *= width
        if size * n_types > _MOST_STATES:
            raise MolflowError(f"{constraint.words}: too large to search for its compositions")
        strides = [1]
        for width in reversed(self.shape[1:]):
            strides.insert(0, strides[0] * width)
        device = constraint.totals.device
        self.strides = torch.tensor(strides[: len(self.shape)], dtype=torch.int64, device=device)
        self.least = torch.full((n_types + 1, *self.shape), self.impossible, dtype=torch.int16, device=device)
        self.least[n_types][(0,) * len(self.shape)] = 0
        for t in reversed(range(n_types)):
            self.least[t] = self.least[t + 1]
            step = constraint.amounts[:, t].tolist()
            if not constraint.allowed[t] or not any(step):
                continue
            kept = tuple(slice(a, None) for a in step)
            used = tuple(slice(0, max(0, width - a)) for a, width in zip(step, self.shape, strict=True))
            while True:  # one more point of type t each time, until nothing gets shorter
                shorter = torch.minimum(self.least[t][kept], self.least[t][used] + 1)
                if torch.equal(shorter, self.least[t][kept]):
                    break
                self.least[t][kept] = shorter

    def can_add(self, counts: Tensor) -> Tensor:
        """Whether a point of each type can be next: counts so far (K, T) -> bool (K, T).

        A type can be next if points of that type or later ones can then use up what is left, with `max_points` in all.
        Without conditions on amounts every allowed type can.
        """
        constraint = self.constraint
        if not len(constraint.totals):
            return constraint.allowed.expand_as(counts)
        left = constraint.totals - (counts.unsqueeze(1) * constraint.amounts).sum(-1)
        after = left.unsqueeze(1) - constraint.amounts.T  # (K, T, R)
        fits = (after >= 0).all(-1)
        place = (after.clamp(min=0) * self.strides).sum(-1)
        types = torch.arange(counts.shape[1], device=counts.device)
        points = self.least[:-1].flatten(1)[types, place].long() + counts.sum(1, keepdim=True) + 1
        return fits & constraint.allowed & (points < self.impossible)

    def is_complete(self, counts: Tensor) -> Tensor:
        """Whether compositions (K, T) meet the condition on amounts, bool (K,)."""
        used = (counts.unsqueeze(1) * self.constraint.amounts).sum(-1)
        return (used == self.constraint.totals).all(1)
