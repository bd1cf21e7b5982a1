"""Conditions on compositions, such as a molecular formula or room for a scaffold, and what can still meet them."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from molflow.errors import MolflowError

_MOST_STATES = 20_000_000  # of the table of what is left; some hundred megabytes


@dataclass(frozen=True, eq=False)
class Constraint:
    """The compositions c (numbers of points of each of T types) with A c = b, points of allowed types alone, and room.

    A composition has room for K atoms if each atom can have a point of its own. By Hall's marriage theorem that holds
    if, for every set of atoms, points of the types that one of them allows are at least as many as the atoms.

    Attributes:
        allowed: (T,) bool.
        amounts: A, (R, T) whole numbers from 0.
        totals: b, (R,).
        words: the condition in words, for error messages.
        room: whether a point of each type can be each atom, (K, T) bool; None without atoms.
    """

    allowed: Tensor
    amounts: Tensor
    totals: Tensor
    words: str
    room: Tensor | None = None

    def holds(self, composition: Tensor) -> Tensor:
        """Whether compositions (B, T) meet it, bool (B,)."""
        counts = composition.long()
        meets = (counts.unsqueeze(1) * self.amounts).sum(-1) == self.totals
        return meets.all(1) & (counts * ~self.allowed == 0).all(1) & (self.lacking(counts) <= 0).all(1)

    def lacking(self, counts: Tensor) -> Tensor:
        """How many points of each set compositions (B, T) lack, (B, S), negative where they have more than needed."""
        sets, needed, _ = self.sets
        return needed - counts.float() @ sets.T  # whole numbers in float32 are exact, and a GPU can multiply them

    @cached_property
    def sets(self) -> tuple[Tensor, Tensor, list[int]]:
        """Sets of types (S, T), 0 or 1, and the fewest points of each (S,) that give room, float32.

        Sets of atoms that share no type ask for nothing new together, so only unions of overlapping rows are listed.
        Those that overlap stand together, and the last value is how many there are in each such family.
        """
        room = self.allowed.new_zeros(0, len(self.allowed)) if self.room is None else self.room
        rows = [frozenset(row.nonzero().flatten().tolist()) for row in room]
        found, new = set(rows), set(rows)
        while new:
            new = {one | row for one in new for row in rows if one & row} - found
            found |= new
        sets = torch.zeros(len(found), room.shape[1], device=room.device)
        families: dict[frozenset[int], list[frozenset[int]]] = {}
        for types in sorted(found, key=sorted):
            families.setdefault(max((one for one in found if types <= one), key=len), []).append(types)
        ordered = [types for family in families.values() for types in family]
        for place, types in enumerate(ordered):
            sets[place, list(types)] = 1
        needed = torch.tensor([float(sum(row <= types for row in rows)) for types in ordered], device=room.device)
        return sets, needed, [len(family) for family in families.values()]

    def impossible(self) -> MolflowError:
        """The error for a condition that no composition meets."""
        return MolflowError(f"no composition of this model has {self.words}")


class Remainders:
    """What points of types from a certain one on can still do for a constraint.

    A table over all vectors r from 0 to b and all types t has, for points of types t, t + 1, ... with A c = r, their
    smallest number, and the largest number of them in each of the `sets` of the constraint. It is filled from the last
    type down, as in the unbounded knapsack problem. Not all sets are looked at together, so a few compositions that it
    lets begin cannot be completed.

    Args:
        constraint: the conditions.
        max_points: more are as good as impossible.

    Raises:
        MolflowError: the table would be too large.
    """

    def __init__(self, constraint: Constraint, max_points: int):
        self.constraint, self.max_points = constraint, max_points
        shape = [int(b) + 1 for b in constraint.totals]
        n_types, device = len(constraint.allowed), constraint.totals.device
        sets = constraint.sets[0]
        gains = torch.cat([torch.full((1, n_types), -1.0, device=device), sets])  # fewest points, most in a set
        if math.prod(shape) * n_types * len(gains) > _MOST_STATES:
            raise MolflowError(f"{constraint.words}: too large to search for its compositions")
        self.strides = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))], device=device).long()
        self.most = torch.full((n_types + 1, len(gains), *shape), -math.inf, device=device)
        self.most[n_types].view(len(gains), -1)[:, 0] = 0
        for t in reversed(range(n_types)):
            self.most[t] = self.most[t + 1]
            if not constraint.allowed[t]:
                continue
            step = constraint.amounts[:, t].tolist()
            kept = (slice(None), *(slice(a, None) for a in step))
            used = (slice(None), *(slice(0, max(0, width - a)) for a, width in zip(step, shape, strict=True)))
            gain = gains[:, t].view(-1, *[1] * len(shape))
            while True:  # one more point of type t each time, until nothing gets better
                better = torch.maximum(self.most[t][kept], (self.most[t][used] + gain).clamp(max=max_points))
                if torch.equal(better, self.most[t][kept]):
                    break
                self.most[t][kept] = better

    def can_add(self, counts: Tensor) -> Tensor:
        """Whether a point of each type can be next: counts so far (K, T) -> bool (K, T).

        A type can be next if points of that type or later ones can then use up what is left of b, with `max_points` in
        all, and give each set the points that it lacks.
        """
        constraint = self.constraint
        left = constraint.totals - (counts.unsqueeze(1) * constraint.amounts).sum(-1)
        after = left.unsqueeze(1) - constraint.amounts.T  # (K, T, R)
        place = (after.clamp(min=0) * self.strides).sum(-1)
        types = torch.arange(counts.shape[1], device=counts.device)
        most = self.most[:-1].reshape(len(types), len(self.most[0]), -1)[types, :, place]  # (K, T, 1 + S)
        points = self.max_points - counts.sum(1, keepdim=True) - 1
        sets, _, sizes = constraint.sets
        lacking = (constraint.lacking(counts).unsqueeze(1) - sets.T).clamp(min=0)  # (K, T, S)
        in_all = sum((family.amax(-1) for family in lacking.split(sizes, -1)), torch.zeros_like(most[..., 0]))
        fewest = torch.maximum(-most[..., 0], in_all)
        return (after >= 0).all(-1) & constraint.allowed & (fewest <= points) & (lacking <= most[..., 1:]).all(-1)
