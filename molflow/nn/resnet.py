"""Residual networks on vectors, with conditions and times at every block."""

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.nn.network import Layers, NetworkConfig, VectorNetwork, global_inputs
from molflow.nn.registry import NETWORKS


@NETWORKS.register("resnet")
class ResNetConfig(NetworkConfig):
    """`ResNet`. The defaults are those of the free-form flows for inverse problems (arXiv 2310.16624)."""

    acts_on: ClassVar[Literal["points", "vectors"]] = "vectors"
    hidden: int = Field(256, gt=0, description="width of the hidden layers")
    n_layers: Layers = Field(2, description="hidden layers of a block")
    n_blocks: int = Field(3, gt=0, description="an MLP with a skip connection, and further residual blocks")

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> nn.Module:
        return ResNet(n_features, n_times, n_conditions, **self.settings())


class ResNet(VectorNetwork):
    """y = x_K with x_0 = x and x_k = x_(k-1) + MLP_k(x_(k-1), t, condition): every block acts on the vector itself.

    The last weights of each block are small, so that the network starts near the identity.

    Args:
        n_features: F.
        n_times: T, times at the input of every block.
        n_conditions: C, conditions at the input of every block.
        hidden: width of the hidden layers.
        n_layers: hidden layers of a block.
        n_blocks: K.

    Example:
        >>> ResNet(2, hidden=16)(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        n_features: int,
        n_times: int = 0,
        n_conditions: int = 0,
        *,
        hidden: int = 256,
        n_layers: int = 2,
        n_blocks: int = 3,
    ):
        super().__init__()
        self.n_features, self.n_times, self.n_conditions = n_features, n_times, n_conditions
        self.blocks = nn.ModuleList(self._block([hidden] * n_layers) for _ in range(n_blocks))

    def forward(self, x: Tensor, condition: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        more = global_inputs(t, condition, self.n_times, self.n_conditions)
        for block in self.blocks:
            x = x + block(x if more is None else torch.cat([x, more], -1))
        return x

    def _block(self, hidden: list[int]) -> nn.Sequential:
        widths = [self.n_features + self.n_times + self.n_conditions, *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        last = nn.Linear(hidden[-1], self.n_features)
        with torch.no_grad():
            last.weight *= 0.1
            last.bias.zero_()
        return nn.Sequential(*layers, last)
