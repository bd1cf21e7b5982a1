"""Networks in sequence, as one deep network."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from molflow.nn.network import PointNetwork


class Chain(PointNetwork):
    """The sum of the changes of several stages: every stage gets the output of the one before.

    Args:
        stages: networks with equal numbers of features, labels and conditions, and without times.

    Example:
        >>> network = Chain([molflow.nn.EGNN(n_features=0, hidden=8, n_blocks=1) for _ in range(2)])
        >>> x, h, mask = torch.randn(2, 5, 3), torch.zeros(2, 5, 0), torch.ones(2, 5, dtype=torch.bool)
        >>> [change.shape for change in network(x, h, mask)]
        [torch.Size([2, 5, 3]), torch.Size([2, 5, 0])]
    """

    def __init__(self, stages: Iterable[PointNetwork]):
        first, *others = stages
        super().__init__(first.n_features, first.n_labels, 0, first.n_conditions)
        self.stages = nn.ModuleList([first, *others])

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        moved, changed = x, h[..., : self.n_features]
        labels = h[..., self.n_features :]
        for stage in self.stages:
            dx, dh = stage(moved, torch.cat([changed, labels], -1), mask, None, global_inputs)
            moved, changed = moved + dx, changed + dh
        return moved - x, changed - h[..., : self.n_features]
