"""An E(n)-equivariant graph network on fully connected point clouds, written with dense pair tensors.

The architecture is that of EGNN (arXiv 2102.09844) with the gates and the inner message layers that E-NF, EDM and FFF
use. The first layer of every pair MLP is split, W [h_i, h_j, d_ij] = A h_i + B h_j + C d_ij, so nothing is concatenated
and most of its arithmetic falls away; gate, mask and sum over neighbours are one matrix product.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.geometry import pair_mask, safe_sqrt, squared_distances
from molflow.nn.network import PointNetwork


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
        return h + self.node(torch.cat([h, received], -1))


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
        w = strength * weights / (distances + 1)
        return x + x * w.sum(-1, keepdim=True) - w @ x


class EGNNBlock(nn.Module):
    """Some message layers at fixed positions, then one coordinate update."""

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
    """Blocks of messages and coordinate updates; see `PointNetwork` for what goes in and out.

    Squared distances at the input of the network and of the block are the pair features; log n, and the times where the
    network has them, are features of every point.

    Args:
        n_features, n_labels, n_times: of `PointNetwork`.
        hidden: width of the layers of points.
        pair_hidden: width of the layers of pairs, by default the same; they are nearly all of the work.
        n_blocks: number of coordinate updates.
        n_inner: message layers before each of them.
    """

    def __init__(
        self,
        n_features: int,
        n_labels: int = 0,
        n_times: int = 0,
        *,
        hidden: int = 64,
        pair_hidden: int | None = None,
        n_blocks: int = 16,
        n_inner: int = 2,
    ):
        super().__init__(n_features, n_labels, n_times)
        pair_hidden = pair_hidden or hidden
        self.embed = nn.Linear(n_features + n_labels + 1 + n_times, hidden)
        self.blocks = nn.ModuleList(EGNNBlock(hidden, pair_hidden, n_inner) for _ in range(n_blocks))
        if n_features:
            self.readout = nn.Linear(hidden, n_features)
            nn.init.xavier_uniform_(self.readout.weight, gain=1e-2)
            nn.init.zeros_(self.readout.bias)

    def changes(self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        n = mask.sum(1).to(x.dtype)
        weights = pair_mask(mask).to(x.dtype) / (n - 1).clamp(min=1)[:, None, None]
        per_cloud = n.log().unsqueeze(1) if t is None else torch.cat([n.log().unsqueeze(1), t], 1)
        scalars = per_cloud.unsqueeze(1).expand(-1, x.shape[1], -1)
        squared = squared_distances(x)
        hidden = self.embed(torch.cat([h, scalars], -1))
        moved = x
        for block in self.blocks:
            moved, hidden = block(moved, hidden, squared, weights)
        return self.outputs(moved - x, hidden, h, mask)
