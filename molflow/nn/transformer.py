"""An efficient E(n)-equivariant network: wide scalars on points, a few vectors, narrow features on pairs.

Pairs outnumber points, so the layers of pairs are narrow. One pass computes a message from the distances between
learned vector channels, and from it the attention weights, a pooled message and the strengths that move the vectors.
Learned vector channels come from SemlaFlow (arXiv 2406.07266).
"""

import copy
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.geometry import pair_mask, project, safe_sqrt
from molflow.nn.chain import Chain
from molflow.nn.network import NetworkConfig, PointNetwork
from molflow.nn.registry import NETWORKS


@NETWORKS.register("transformer")
class TransformerConfig(NetworkConfig):
    """Sizes of an `EquivariantTransformer`; with several `n_stages` of a `Chain` of them, `n_blocks` each."""

    hidden: int = Field(128, gt=0, description="width of the scalars of a point")
    n_vectors: int = Field(16, gt=0, description="vector channels of a point")
    pair_hidden: int = Field(32, gt=0, description="width of the pair messages")
    n_heads: int = Field(4, gt=0, description="heads of the attention; divides `hidden`")
    n_blocks: int = Field(6, gt=0, description="passes over pairs")
    n_stages: int = Field(1, gt=0, description="networks in sequence")

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> PointNetwork:
        if self.n_stages > 1 and n_times:
            raise ValueError("a network of several stages takes no times; set n_stages = 1 or average_velocity = false")
        sizes = {**self.settings(), "n_stages": 1}
        stages = [
            EquivariantTransformer(n_features, n_labels, n_times, n_conditions, **sizes) for _ in range(self.n_stages)
        ]
        return Chain(stages) if len(stages) > 1 else stages[0]


class RMSNorm(nn.Module):
    """h / sqrt(mean h^2), times learned weights; the reverse-over-forward gradients of `nn.LayerNorm` are wrong."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        return h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


def small_linear(inputs: int, outputs: int, factor: float, bias: bool = True) -> nn.Linear:
    """A linear layer whose initial weights are `factor` times the usual ones."""
    layer = nn.Linear(inputs, outputs, bias)
    with torch.no_grad():
        layer.weight *= factor
    return layer


class PairAttention(nn.Module):
    """Update scalars (B, N, H) and vectors (B, N, D, C) in one pass over pairs.

    p = V W are C learned points for every point, d_ij their distances (B, N, N, C). The message is
    m_ij = silu(M silu(A h_i + B h_j + C d_ij)); scalars get softmax_j(a m_ij) v_j and sum_j m_ij / sqrt(n), vectors
    get sum_j (w m_ij) (p_i - p_j) / (1 + d_ij) / sqrt(n).
    """

    def __init__(self, hidden: int, n_vectors: int, pair_hidden: int, n_heads: int, change: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm = RMSNorm(hidden)
        self.points = nn.Linear(n_vectors, n_vectors, bias=False)
        self.receiver = nn.Linear(hidden, pair_hidden)
        self.sender = nn.Linear(hidden, pair_hidden, bias=False)
        self.distance = nn.Linear(n_vectors, pair_hidden, bias=False)
        self.message = nn.Linear(pair_hidden, pair_hidden)
        self.weights = nn.Linear(pair_hidden, n_heads + n_vectors)
        self.value = nn.Linear(hidden, hidden, bias=False)
        self.scalars = small_linear(hidden + pair_hidden, hidden, change)
        self.vectors = small_linear(n_vectors, n_vectors, change, bias=False)

    def forward(self, h: Tensor, v: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
        batch, n, _ = h.shape
        normed = self.norm(h)
        p = self.points(v)
        difference = p.unsqueeze(2) - p.unsqueeze(1)
        distance = safe_sqrt(difference.square().sum(3))
        first = self.receiver(normed).unsqueeze(2) + self.sender(normed).unsqueeze(1) + self.distance(distance)
        message = silu(self.message(silu(first)))
        logits, strength = self.weights(message).split([self.n_heads, p.shape[-1]], -1)
        per_point = pairs.sum(2, keepdim=True).clamp(min=1).rsqrt()
        sums = pairs * per_point

        # A masked softmax without -inf, whose derivatives would be NaN for a point that has no neighbour.
        logits = logits.masked_fill(pairs.unsqueeze(-1) == 0, -1e4)
        attention = (logits - logits.detach().amax(2, keepdim=True)).exp() * pairs.unsqueeze(-1)
        attention = attention / (attention.sum(2, keepdim=True) + 1e-9)
        value = self.value(normed).view(batch, n, self.n_heads, -1)
        attended = torch.einsum("bijh,bjhc->bihc", attention, value).flatten(2)
        pooled = (sums.unsqueeze(2) @ message).squeeze(2)
        h = h + self.scalars(torch.cat([attended, pooled], -1))

        strength = strength * sums.unsqueeze(-1) / (1 + distance)
        moved = p * strength.sum(2).unsqueeze(2) - torch.einsum("bijc,bjdc->bidc", strength, p)
        v = v + self.vectors(moved)
        return h, v


class PointUpdate(nn.Module):
    """Update scalars by an MLP on scalars and vector lengths, and mix the vectors, gated by the scalars."""

    def __init__(self, hidden: int, n_vectors: int, change: float):
        super().__init__()
        self.norm = RMSNorm(hidden)
        self.mix = nn.Linear(n_vectors, 2 * n_vectors, bias=False)
        self.first = nn.Linear(hidden + n_vectors, 2 * hidden)
        self.second = small_linear(2 * hidden, hidden + n_vectors, change)

    def forward(self, h: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        measured, moved = self.mix(v).chunk(2, -1)
        lengths = safe_sqrt(measured.square().sum(2))
        out = self.second(silu(self.first(torch.cat([self.norm(h), lengths], -1))))
        dh, gate = out.split([h.shape[-1], v.shape[-1]], -1)
        return h + dh, v + moved * gate.unsqueeze(2)


class EquivariantTransformer(PointNetwork):
    """Passes over pairs and updates of points; `PointNetwork` describes inputs and outputs.

    Args:
        n_features, n_labels, n_times, n_conditions: as in `PointNetwork`.
        sizes: the fields of `TransformerConfig`, with one stage.

    Raises:
        ValueError: `n_heads` does not divide `hidden`, or several stages.

    Example:
        >>> network = EquivariantTransformer(n_features=1, hidden=16, n_heads=2, n_blocks=1)
        >>> x, h, mask = torch.randn(2, 5, 3), torch.zeros(2, 5, 1), torch.ones(2, 5, dtype=torch.bool)
        >>> [change.shape for change in network(x, h, mask)]
        [torch.Size([2, 5, 3]), torch.Size([2, 5, 1])]
    """

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0, **sizes: Any):
        super().__init__(n_features, n_labels, n_times, n_conditions)
        config = TransformerConfig(**sizes)
        hidden, n_vectors, n_heads, n_blocks = config.hidden, config.n_vectors, config.n_heads, config.n_blocks
        if config.n_stages > 1:
            raise ValueError("an EquivariantTransformer is one stage; TransformerConfig.build chains several")
        if hidden % n_heads:
            raise ValueError(f"hidden ({hidden}) must be a multiple of n_heads ({n_heads})")
        self.embed = nn.Linear(n_features + n_labels + 1, hidden)
        self.embed_times: nn.Sequential | None = None
        if self.n_globals:
            self.embed_times = nn.Sequential(nn.Linear(self.n_globals, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.spread = nn.Parameter(torch.randn(n_vectors))
        change = (2 * n_blocks) ** -0.5  # initial scale of the changes that a block makes
        self.pairs = nn.ModuleList(
            PairAttention(hidden, n_vectors, config.pair_hidden, n_heads, change) for _ in range(n_blocks)
        )
        self.updates = nn.ModuleList(PointUpdate(hidden, n_vectors, change) for _ in range(n_blocks))
        self.move = small_linear(n_vectors, 1, 1e-2, bias=False)
        self.norm = RMSNorm(hidden) if n_features else nn.Identity()
        if n_features:
            self.readout = small_linear(hidden, n_features, 1e-2)
            nn.init.zeros_(self.readout.bias)

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        pairs = pair_mask(mask).to(x.dtype)
        log_n = mask.sum(1).to(x.dtype).log()[:, None, None].expand(-1, x.shape[1], 1)
        scalars = self.embed(torch.cat([h, log_n], -1))
        if self.embed_times is not None:
            scalars = scalars + self.embed_times(global_inputs).unsqueeze(1)
        vectors = project(x, mask).unsqueeze(-1) * self.spread
        for pair, update in zip(self.pairs, self.updates, strict=True):
            scalars, vectors = update(*pair(scalars, vectors, pairs))
        return self.outputs(self.move(vectors).squeeze(-1), self.norm(scalars), h, mask)

    @torch.no_grad()
    def at_times(self, t: Tensor, scale: float) -> "EquivariantTransformer":
        """The network without times that equals this one at fixed times t (T,), its dx and dh multiplied by `scale`.

        Raises:
            ValueError: a network without times.
        """
        if self.embed_times is None or not self.n_times:
            raise ValueError("only a network with times can be fixed at times")
        fixed = copy.deepcopy(self)
        fixed.n_times = 0
        if not self.n_conditions:
            fixed.embed_times = None
            fixed.embed.bias.add_(self.embed_times(t))
        else:
            assert fixed.embed_times is not None
            first = fixed.embed_times[0]
            assert isinstance(first, nn.Linear)
            of_times, of_conditions = first.weight.split([self.n_times, self.n_conditions], 1)
            first.bias.add_(of_times @ t)
            first.weight, first.in_features = nn.Parameter(of_conditions.clone()), self.n_conditions
        fixed.move.weight.mul_(scale)
        if fixed.readout is not None:
            fixed.readout.weight.mul_(scale)
            fixed.readout.bias.mul_(scale)
        return fixed
