"""Networks one after another, as one deep network."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from molflow.nn.network import PointNetwork


class Chain(PointNetwork):
    """(x, h, mask) -> (dx, dh), the sum of what its stages add: every stage sees what the one before it made.

    Args:
        stages: networks with equal numbers of features and labels, and without times.
    """

    def __init__(self, stages: Iterable[PointNetwork]):
        first, *others = stages
        super().__init__(first.n_features, first.n_labels)
        self.stages = nn.ModuleList([first, *others])

    def changes(self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        moved, changed = x, h[..., : self.n_features]
        labels = h[..., self.n_features :]
        for stage in self.stages:
            dx, dh = stage(moved, torch.cat([changed, labels], -1), mask)
            moved, changed = moved + dx, changed + dh
        return moved - x, changed - h[..., : self.n_features]
