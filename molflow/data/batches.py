"""A batch of training or validation data, with the condition that belongs to it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Data and their conditions.

    Attributes:
        data: anything of length B that can be sliced and has `to(device)`, such as a tensor or a `MoleculeBatch`.
        condition: numbers that describe each configuration, (B, C); None in a model without conditions.
    """

    data: Any
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, part: slice) -> "Batch":
        return Batch(self.data[part], None if self.condition is None else self.condition[part])

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.data.to(device), None if self.condition is None else self.condition.to(device))
