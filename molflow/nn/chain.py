"""Networks one after another, as one deep network."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Chain(nn.Module):
    """(x, h, mask) -> (dx, dh), the sum of what its stages add: every stage sees what the one before it made.

    Args:
        stages: networks with equal numbers of features and labels, and without times.
    """

    def __init__(self, stages: Iterable[nn.Module]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        first = self.stages[0]
        self.n_features, self.n_labels, self.n_times = first.n_features, first.n_labels, 0

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Arguments and results as of every stage."""
        moved, changed = x, h[..., : self.n_features]
        labels = h[..., self.n_features :]
        for stage in self.stages:
            dx, dh = stage(moved, torch.cat([changed, labels], -1), mask, t)
            moved, changed = moved + dx, changed + dh
        return moved - x, changed - h[..., : self.n_features]
