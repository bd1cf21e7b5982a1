"""Compositions with room for the atoms of a scaffold, and which point is which of its atoms."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from molflow.errors import MolflowError

_MOST_DRAWS = 20_000  # of compositions, to find those with room


class Room(NamedTuple):
    """What a scaffold asks of a composition: a point for each of its K atoms.

    Attributes:
        positions: of the atoms, model units (K, 3).
        allowed: whether a point of each type can be the atom, (K, T).
    """

    positions: Tensor
    allowed: Tensor

    def sample(
        self, n: int, draw: Callable[[int], tuple[Tensor, Tensor]], generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw n compositions with room, by rejection; the atoms of the scaffold are their first points, in order.

        Where fewer than n of 20,000 compositions have room, some are taken several times.

        Args:
            n: number of compositions.
            draw: gives types (n, N) and their mask, as `Compositions.sample`.
            generator: source of randomness.

        Raises:
            MolflowError: no composition has room.
        """
        rows: list[Tensor] = []
        drawn = 0
        while len(rows) < n and drawn < _MOST_DRAWS:
            at_once = min(max(256, 2 * n), _MOST_DRAWS - drawn)
            types, mask = draw(at_once)
            drawn += at_once
            for row in self._likely(types, mask).nonzero().squeeze(1).tolist():
                ordered = self._ordered(types[row, mask[row]], generator)
                if ordered is not None:
                    rows.append(ordered)
        if not rows:
            raise MolflowError(f"none of {drawn:,} compositions of this model has room for the scaffold")
        if len(rows) < n:
            again = torch.randint(len(rows), (n,), generator=generator, device=rows[0].device)
            rows = [rows[i] for i in again.tolist()]
        joined = torch.nn.utils.rnn.pad_sequence(rows[:n], batch_first=True, padding_value=-1)
        return joined.clamp(min=0), joined >= 0

    def _likely(self, types: Tensor, mask: Tensor) -> Tensor:
        """Whether each atom alone finds a point, (B,): cheap, and necessary."""
        fits = self.allowed[:, types] & mask  # (K, B, N)
        return fits.any(-1).all(0) & (mask.sum(1) >= len(self.allowed))

    def _ordered(self, types: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """The types (N,) with a random choice of those of the scaffold first; None if there is no choice."""
        from scipy.optimize import linear_sum_assignment  # takes a fifth of a second to load

        cost = torch.rand(len(self.allowed), len(types), generator=generator, device=types.device)
        cost = cost.masked_fill(~self.allowed[:, types], 1e6).cpu()
        atoms, points = linear_sum_assignment(cost.numpy())
        if float(cost[atoms, points].sum()) >= 1e6:
            return None
        rest = torch.ones(len(types), dtype=torch.bool, device=types.device)
        rest[points] = False
        return torch.cat([types[points.tolist()], types[rest.to(types.device)]])
