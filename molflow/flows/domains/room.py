"""The atoms of a scaffold, and which point of a composition is which of them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Room(NamedTuple):
    """What a scaffold asks of a composition: a point for each of its K atoms.

    Attributes:
        positions: of the atoms, model units (K, 3).
        allowed: whether a point of each type can be the atom, (K, T).
    """

    positions: Tensor
    allowed: Tensor

    def arranged(self, types: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Types (B, N) of compositions with room, a random choice of points for the atoms first, in their order."""
        ordered = [self._ordered(row[real], generator) for row, real in zip(types, mask, strict=True)]
        return torch.nn.utils.rnn.pad_sequence(ordered, batch_first=True)

    def _ordered(self, types: Tensor, generator: torch.Generator | None) -> Tensor:
        from scipy.optimize import linear_sum_assignment  # takes a fifth of a second to load

        cost = torch.rand(len(self.allowed), len(types), generator=generator, device=types.device)
        cost = cost.masked_fill(~self.allowed[:, types], torch.inf).cpu()
        points = linear_sum_assignment(cost.numpy())[1].tolist()
        rest = torch.ones(len(types), dtype=torch.bool, device=types.device)
        rest[points] = False
        return torch.cat([types[points], types[rest]])
