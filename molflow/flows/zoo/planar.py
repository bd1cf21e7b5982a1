"""Planar flows (arXiv 1505.05770)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, ManyConfig, invert_increasing
from molflow.flows.zoo.coupling import Conditioner

_SMALLEST_SLOPE = 1e-3  # of the map along w; a smaller one would lose digits in the inverse


@FLOWS.register("planar")
class PlanarConfig(ManyConfig):
    """A `BijectiveFlow` by a chain of `Planar` maps."""

    def build_one(self, n_features: int, n_conditions: int) -> Bijection:
        return Planar(n_features, n_conditions, self.hidden, self.n_layers)


class Planar(Bijection):
    """x + u tanh(w^T x + b), with w^T u > -1 so that it is one to one.

    u = v + (m(w^T v) - w^T v) w / |w|^2 with m(a) = softplus(a) - 1. Along w the map is a -> a + w^T u tanh(a + b). It
    increases, and its inverse is found numerically. The condition decides v, w and b.

    Args:
        n_features: F.
        n_conditions: C.
        hidden: width of the hidden layers.
        n_layers: hidden layers.
    """

    def __init__(self, n_features: int, n_conditions: int = 0, hidden: int = 64, n_layers: int = 2):
        super().__init__()
        self.n_features = n_features
        start = torch.randn(2 * n_features + 1) / math.sqrt(n_features)
        self.conditioner = Conditioner(n_conditions, start, hidden, n_layers)

    def _parameters_of(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, w, b and w^T u."""
        parameters: Tensor = self.conditioner(x[:, :0] if condition is None else condition)
        v, w, b = parameters.split([self.n_features, self.n_features, 1], -1)
        product = (v * w).sum(-1, keepdim=True)
        wanted = softplus(product) - 1 + _SMALLEST_SLOPE
        tiny = torch.finfo(x.dtype).tiny
        return v + (wanted - product) * w / (w.square().sum(-1, keepdim=True) + tiny), w, b, wanted

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, product = self._parameters_of(x, condition)
        bend = ((x * w).sum(-1, keepdim=True) + b).tanh()
        return x + u * bend, (product * (1 - bend.square())).log1p().squeeze(-1)

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, product = self._parameters_of(y, condition)

        def along_w(a: Tensor) -> tuple[Tensor, Tensor]:
            bend = (a + b).tanh()
            return a + product * bend, 1 + product * (1 - bend.square())

        a = invert_increasing(along_w, (y * w).sum(-1, keepdim=True))
        bend = (a + b).tanh()
        return y - u * bend, -(product * (1 - bend.square())).log1p().squeeze(-1)
