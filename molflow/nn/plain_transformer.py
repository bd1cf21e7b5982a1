"""A transformer on coordinates, which knows nothing of rotations: the control for equivariant networks."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.geometry import project
from molflow.nn.network import NetworkConfig, PointNetwork
from molflow.nn.registry import NETWORKS
from molflow.nn.transformer import RMSNorm, small_linear


@NETWORKS.register("plain_transformer")
class PlainTransformerConfig(NetworkConfig):
    """Sizes of a `PlainTransformer`."""

    dim: int = Field(3, gt=0, description="coordinates of a point")
    hidden: int = Field(128, gt=0, description="width of the scalars of a point")
    n_heads: int = Field(4, gt=0, description="heads of the attention; divides `hidden`")
    n_blocks: int = Field(6, gt=0, description="attention and MLP each")

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> PointNetwork:
        return PlainTransformer(n_features, n_labels, n_times, n_conditions, **self.settings())


class Attention(nn.Module):
    """softmax(q k^T / sqrt d) v over the real points of each configuration, (B, N, H) -> (B, N, H)."""

    def __init__(self, hidden: int, n_heads: int, change: float):
        super().__init__()
        self.n_heads = n_heads
        self.inputs = nn.Linear(hidden, 3 * hidden, bias=False)
        self.output = small_linear(hidden, hidden, change)

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (self.n_heads, -1)) for each in self.inputs(h).chunk(3, -1))
        logits = torch.einsum("bihc,bjhc->bhij", q, k) * q.shape[-1] ** -0.5
        logits = logits.masked_fill(~real[:, None, None], -1e4)  # -inf would make the derivatives NaN without points
        attended = torch.einsum("bhij,bjhc->bihc", logits.softmax(-1), v)
        output: Tensor = self.output(attended.flatten(2))
        return output


class PlainTransformer(PointNetwork):
    """A transformer whose tokens are coordinates and features of points.

    It permutes with the points and ignores translations and padding, but does not follow rotations. A flow that has one
    is trained on data in random orientations, as an augmentation.

    Args:
        n_features, n_labels, n_times, n_conditions: as in `PointNetwork`.
        sizes: the fields of `PlainTransformerConfig`.

    Raises:
        ValueError: `n_heads` does not divide `hidden`.

    Example:
        >>> network = PlainTransformer(n_features=1, hidden=16, n_heads=2, n_blocks=1)
        >>> x, h, mask = torch.randn(2, 5, 3), torch.zeros(2, 5, 1), torch.ones(2, 5, dtype=torch.bool)
        >>> [change.shape for change in network(x, h, mask)]
        [torch.Size([2, 5, 3]), torch.Size([2, 5, 1])]
    """

    equivariant = False

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0, **sizes: Any):
        super().__init__(n_features, n_labels, n_times, n_conditions)
        config = PlainTransformerConfig(**sizes)
        hidden, n_blocks = config.hidden, config.n_blocks
        if hidden % config.n_heads:
            raise ValueError(f"hidden ({hidden}) must be a multiple of n_heads ({config.n_heads})")
        self.embed = nn.Linear(config.dim + n_features + n_labels + 1, hidden)
        self.embed_globals = nn.Linear(self.n_globals, hidden) if self.n_globals else None
        change = (2 * n_blocks) ** -0.5  # initial scale of the changes that a block makes
        self.norms = nn.ModuleList(RMSNorm(hidden) for _ in range(2 * n_blocks))
        self.attention = nn.ModuleList(Attention(hidden, config.n_heads, change) for _ in range(n_blocks))
        self.first = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(n_blocks))
        self.second = nn.ModuleList(small_linear(2 * hidden, hidden, change) for _ in range(n_blocks))
        self.norm = RMSNorm(hidden)
        self.move = small_linear(hidden, config.dim, 1e-2, bias=False)
        if n_features:
            self.readout = small_linear(hidden, n_features, 1e-2)
            nn.init.zeros_(self.readout.bias)

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        log_n = mask.sum(1).to(x.dtype).log()[:, None, None].expand(-1, x.shape[1], 1)
        tokens = self.embed(torch.cat([project(x, mask), h, log_n], -1))
        if self.embed_globals is not None:
            tokens = tokens + self.embed_globals(global_inputs).unsqueeze(1)
        norms = iter(self.norms)
        for attention, first, second in zip(self.attention, self.first, self.second, strict=True):
            tokens = tokens + attention(next(norms)(tokens), mask)
            tokens = tokens + second(silu(first(next(norms)(tokens))))
        scalars = self.norm(tokens)
        return self.outputs(self.move(scalars), scalars, h, mask)
