"""An E(n)-equivariant graph network on fully connected point clouds, written with dense pair tensors.

The architecture is EGNN (arXiv 2102.09844) with the gates and the inner message layers that E-NF, EDM and FFF use. The
first layer of every pair MLP is split, W [h_i, h_j, d_ij] = A h_i + B h_j + C d_ij, which needs no concatenation and
half the arithmetic. Gate, mask and sum over neighbours are one matrix product.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.geometry import pair_mask, safe_sqrt, squared_distances
from molflow.nn.network import NetworkConfig, PointNetwork
from molflow.nn.registry import NETWORKS


@NETWORKS.register("egnn")
class EGNNConfig(NetworkConfig):
    """Sizes of an `EGNN`."""

    hidden: int = Field(64, gt=0, description="width of the layers of points")
    pair_hidden: int | None = Field(
        None, gt=0, description="width of the layers of pairs, by default `hidden`; they are nearly all of the work"
    )
    n_blocks: int = Field(16, gt=0, description="number of coordinate updates")
    n_inner: int = Field(2, ge=0, description="message layers before each of them")

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> PointNetwork:
        return EGNN(n_features, n_labels, n_times, n_conditions, **self.settings())


class PairLayer(nn.Module):
    """silu(A h_i + B h_j + C d_ij) for all pairs: (B, N, H) and (B, N, N, 2) -> (B, N, N, P)."""

    def __init__(self, hidden: int, pair_hidden: int):
        super().__init__()
        self.receiver = nn.Linear(hidden, pair_hidden)
        self.sender = nn.Linear(hidden, pair_hidden, bias=False)
        self.pair = nn.Linear(2, pair_hidden, bias=False)

    def forward(self, h: Tensor, pairs: Tensor) -> Tensor:
        return silu(self.receiver(h).unsqueeze(2) + self.sender(h).unsqueeze(1) + self.pair(pairs))


class MessageLayer(nn.Module):
    """h_i <- h_i + MLP(h_i, mean_j sigmoid(gate(m_ij)) m_ij), with m_ij = MLP(h_i, h_j, d_ij)."""

    def __init__(self, hidden: int, pair_hidden: int):
        super().__init__()
        self.first = PairLayer(hidden, pair_hidden)
        self.second = nn.Linear(pair_hidden, pair_hidden)
        self.gate = nn.Linear(pair_hidden, 1)
        self.node = nn.Sequential(nn.Linear(hidden + pair_hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
        messages = silu(self.second(self.first(h, pairs)))
        gates = self.gate(messages).squeeze(-1).sigmoid() * weights
        received = (gates.unsqueeze(2) @ messages).squeeze(2)
        change: Tensor = self.node(torch.cat([h, received], -1))
        return h + change


class CoordinateUpdate(nn.Module):
    """x_i <- x_i + mean_j (x_i - x_j) / (|x_i - x_j| + 1) MLP(h_i, h_j, d_ij)."""

    def __init__(self, hidden: int, pair_hidden: int):
        super().__init__()
        self.first = PairLayer(hidden, pair_hidden)
        self.second = nn.Linear(pair_hidden, pair_hidden)
        self.last = nn.Linear(pair_hidden, 1, bias=False)
        nn.init.xavier_uniform_(self.last.weight, gain=1e-2)

    def forward(self, x: Tensor, h: Tensor, distances: Tensor, pairs: Tensor, weights: Tensor) -> Tensor:
        strength = self.last(silu(self.second(self.first(h, pairs)))).squeeze(-1)
        w: Tensor = strength * weights / (distances + 1)
        return x + x * w.sum(-1, keepdim=True) - w @ x


class EGNNBlock(nn.Module):
    """`n_inner` message layers at fixed positions, then one coordinate update."""

    def __init__(self, hidden: int, pair_hidden: int, n_inner: int):
        super().__init__()
        self.messages = nn.ModuleList(MessageLayer(hidden, pair_hidden) for _ in range(n_inner))
        self.coordinates = CoordinateUpdate(hidden, pair_hidden)

    def forward(self, x: Tensor, h: Tensor, first_squared: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        squared = squared_distances(x)
        pairs = torch.stack([squared, first_squared], -1)
        for layer in self.messages:
            h = layer(h, pairs, weights)
        return self.coordinates(x, h, safe_sqrt(squared), pairs, weights), h


class EGNN(PointNetwork):
    """Blocks of messages and coordinate updates; `PointNetwork` describes inputs and outputs.

    Squared distances at the input of the network and at the input of the block are the pair features. log n, the times
    and the conditions are features of every point.

    Args:
        n_features, n_labels, n_times, n_conditions: as in `PointNetwork`.
        sizes: the fields of `EGNNConfig`.

    Example:
        >>> network = EGNN(0, n_blocks=2, hidden=16)
        >>> dx, dh = network(torch.randn(1, 5, 3), torch.zeros(1, 5, 0), torch.ones(1, 5, dtype=torch.bool))
        >>> dx.shape, dh.shape
        (torch.Size([1, 5, 3]), torch.Size([1, 5, 0]))
    """

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0, **sizes: Any):
        super().__init__(n_features, n_labels, n_times, n_conditions)
        config = EGNNConfig(**sizes)
        hidden, pair_hidden = config.hidden, config.pair_hidden or config.hidden
        self.embed = nn.Linear(n_features + n_labels + 1 + self.n_globals, hidden)
        self.blocks = nn.ModuleList(EGNNBlock(hidden, pair_hidden, config.n_inner) for _ in range(config.n_blocks))
        if n_features:
            self.readout = nn.Linear(hidden, n_features)
            nn.init.xavier_uniform_(self.readout.weight, gain=1e-2)
            nn.init.zeros_(self.readout.bias)

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        n = mask.sum(1).to(x.dtype)
        weights = pair_mask(mask).to(x.dtype) / (n - 1).clamp(min=1)[:, None, None]
        log_n = n.log().unsqueeze(1)
        per_cloud = log_n if global_inputs is None else torch.cat([log_n, global_inputs], 1)
        scalars = per_cloud.unsqueeze(1).expand(-1, x.shape[1], -1)
        squared = squared_distances(x)
        hidden = self.embed(torch.cat([h, scalars], -1))
        moved = x
        for block in self.blocks:
            moved, hidden = block(moved, hidden, squared, weights)
        return self.outputs(moved - x, hidden, h, mask)
