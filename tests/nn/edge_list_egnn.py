"""EGNN in the form in which it is published (E-NF, EDM): edge lists, concatenated pair features, index_add.

It is what `molflow.nn.EGNN` must equal on the same weights, and what benchmarks compare its speed with.
"""

import torch
from torch import Tensor, nn

from molflow.nn import EGNN
from molflow.nn.egnn import PairLayer


class GCL(nn.Module):
    def __init__(self, hidden: int, pair_hidden: int):
        super().__init__()
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden + 2, pair_hidden), nn.SiLU(), nn.Linear(pair_hidden, pair_hidden), nn.SiLU()
        )
        self.att_mlp = nn.Sequential(nn.Linear(pair_hidden, 1), nn.Sigmoid())
        self.node_mlp = nn.Sequential(nn.Linear(hidden + pair_hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, h: Tensor, row: Tensor, col: Tensor, edge_attr: Tensor, degree: Tensor) -> Tensor:
        message = self.edge_mlp(torch.cat([h[row], h[col], edge_attr], 1))
        message = message * self.att_mlp(message)
        received = message.new_zeros(len(h), message.shape[1]).index_add(0, row, message) / degree
        return h + self.node_mlp(torch.cat([h, received], 1))


class EquivariantUpdate(nn.Module):
    def __init__(self, hidden: int, pair_hidden: int):
        super().__init__()
        self.coord_mlp = nn.Sequential(
            nn.Linear(2 * hidden + 2, pair_hidden),
            nn.SiLU(),
            nn.Linear(pair_hidden, pair_hidden),
            nn.SiLU(),
            nn.Linear(pair_hidden, 1, bias=False),
        )

    def forward(
        self, x: Tensor, h: Tensor, row: Tensor, col: Tensor, direction: Tensor, edge_attr: Tensor, degree: Tensor
    ) -> Tensor:
        step = direction * self.coord_mlp(torch.cat([h[row], h[col], edge_attr], 1))
        return x + torch.zeros_like(x).index_add(0, row, step) / degree


class EquivariantBlock(nn.Module):
    def __init__(self, hidden: int, pair_hidden: int, n_inner: int):
        super().__init__()
        self.gcls = nn.ModuleList(GCL(hidden, pair_hidden) for _ in range(n_inner))
        self.update = EquivariantUpdate(hidden, pair_hidden)

    def forward(
        self, x: Tensor, h: Tensor, row: Tensor, col: Tensor, first_radial: Tensor, degree: Tensor
    ) -> tuple[Tensor, Tensor]:
        radial, direction = coord2diff(x, row, col)
        edge_attr = torch.cat([radial, first_radial], 1)
        for gcl in self.gcls:
            h = gcl(h, row, col, edge_attr, degree)
        return self.update(x, h, row, col, direction, edge_attr, degree), h


class EdgeListEGNN(nn.Module):
    """Same call and same function as `molflow.nn.EGNN`: (x, h, mask, t, condition) -> (dx, dh)."""

    def __init__(
        self, n_features: int, n_labels: int, n_globals: int, hidden: int, pair_hidden: int, n_blocks: int, n_inner: int
    ):
        super().__init__()
        self.n_features, self.n_labels = n_features, n_labels
        self.embedding = nn.Linear(n_features + n_labels + 1 + n_globals, hidden)
        self.blocks = nn.ModuleList(EquivariantBlock(hidden, pair_hidden, n_inner) for _ in range(n_blocks))
        self.embedding_out = nn.Linear(hidden, n_features) if n_features else None

    def forward(
        self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        batch, n, dim = x.shape
        node_mask = mask.reshape(-1, 1).to(x.dtype)
        count = mask.sum(1).to(x.dtype)
        degree = (count - 1).clamp(min=1).repeat_interleave(n).unsqueeze(1)
        row, col = edges(mask)
        log_count = count.log().unsqueeze(1)
        per_cloud = [log_count, *(values for values in (t, condition) if values is not None)]
        per_node = torch.cat(per_cloud, 1).repeat_interleave(n, 0)
        node = self.embedding(torch.cat([h.reshape(batch * n, -1), per_node], 1))
        start = x.reshape(batch * n, dim)
        first_radial, _ = coord2diff(start, row, col)
        moved = start
        for block in self.blocks:
            moved, node = block(moved, node, row, col, first_radial, degree)
        velocity = ((moved - start) * node_mask).view(batch, n, dim)
        velocity = (velocity - velocity.sum(1, keepdim=True) / count[:, None, None]) * mask.unsqueeze(-1)
        dh = h[..., :0] if self.embedding_out is None else (self.embedding_out(node) * node_mask).view(batch, n, -1)
        return velocity, dh


def edges(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (E,) and (E,) into the B N points of all ordered pairs of different real points of one cloud."""
    n = mask.shape[1]
    cloud, i, j = (mask.unsqueeze(2) & mask.unsqueeze(1) & ~torch.eye(n, dtype=torch.bool, device=mask.device)).nonzero(
        as_tuple=True
    )
    return cloud * n + i, cloud * n + j


def coord2diff(x: Tensor, row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance (E, 1) and (x_i - x_j) / (d_ij + 1), (E, D)."""
    difference = x[row] - x[col]
    radial = difference.square().sum(1, keepdim=True)
    return radial, difference / ((radial + 1e-12).sqrt() + 1)


def from_dense(egnn: EGNN) -> EdgeListEGNN:
    """An edge-list network with a copy of the weights of a dense one."""
    hidden, pair_hidden = egnn.embed.out_features, egnn.blocks[0].coordinates.second.out_features
    depth = len(egnn.blocks), len(egnn.blocks[0].messages)
    network = EdgeListEGNN(egnn.n_features, egnn.n_labels, egnn.n_globals, hidden, pair_hidden, *depth)
    network = network.to(egnn.embed.weight)
    copy(network.embedding, egnn.embed)
    if egnn.readout is not None:
        copy(network.embedding_out, egnn.readout)
    for block, dense in zip(network.blocks, egnn.blocks, strict=True):
        for gcl, layer in zip(block.gcls, dense.messages, strict=True):
            join(gcl.edge_mlp[0], layer.first)
            copy(gcl.edge_mlp[2], layer.second)
            copy(gcl.att_mlp[0], layer.gate)
            copy(gcl.node_mlp[0], layer.node[0])
            copy(gcl.node_mlp[2], layer.node[2])
        join(block.update.coord_mlp[0], dense.coordinates.first)
        copy(block.update.coord_mlp[2], dense.coordinates.second)
        copy(block.update.coord_mlp[4], dense.coordinates.last)
    return network


def copy(to: nn.Linear, source: nn.Linear) -> None:
    to.load_state_dict(source.state_dict())


@torch.no_grad()
def join(to: nn.Linear, source: PairLayer) -> None:
    """The matrix of the concatenation [h_i, h_j, d_ij^2, d0_ij^2] from its three parts."""
    to.weight.copy_(torch.cat([source.receiver.weight, source.sender.weight, source.pair.weight], 1))
    to.bias.copy_(source.receiver.bias)
