"""A residual multilayer perceptron on vectors."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.nn.network import NetworkConfig, VectorNetwork, global_inputs
from molflow.nn.registry import NETWORKS


@NETWORKS.register("mlp")
class MLPConfig(NetworkConfig):
    """`MLP`."""

    acts_on: ClassVar[Literal["points", "vectors"]] = "vectors"
    hidden: int = Field(128, gt=0, description="width of the hidden layers")
    n_blocks: int = Field(3, gt=0, description="residual blocks of two layers each")

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> nn.Module:
        return MLP(n_features, n_times, n_conditions, **self.settings())


class MLP(VectorNetwork):
    """y = x + W h_K with h_0 = V [x, t, condition] and h_k = h_(k-1) + B_k silu(A_k silu(h_(k-1))).

    The first weights W are small, so that the network starts near the identity.

    Args:
        n_features: F.
        n_times: T, times at the input.
        n_conditions: C, conditions at the input.
        hidden: width of the hidden layers.
        n_blocks: K, residual blocks.

    Example:
        >>> MLP(2, hidden=16)(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, n_features: int, n_times: int = 0, n_conditions: int = 0, *, hidden: int = 128, n_blocks: int = 3
    ):
        super().__init__()
        self.n_features, self.n_times, self.n_conditions = n_features, n_times, n_conditions
        self.embed = nn.Linear(n_features + n_times + n_conditions, hidden)
        self.first = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(n_blocks))
        self.second = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(n_blocks))
        self.last = nn.Linear(hidden, n_features)
        with torch.no_grad():
            self.last.weight *= 0.1
            self.last.bias.zero_()

    def forward(self, x: Tensor, condition: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        more = global_inputs(t, condition, self.n_times, self.n_conditions)
        h = self.embed(x if more is None else torch.cat([x, more], -1))
        for first, second in zip(self.first, self.second, strict=True):
            h = h + second(silu(first(silu(h))))
        change: Tensor = self.last(h)
        return x + change
