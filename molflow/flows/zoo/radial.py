"""Radial flows (arXiv 1505.05770)."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, ManyConfig
from molflow.flows.zoo.coupling import Conditioner
from molflow.geometry import safe_sqrt


@FLOWS.register("radial")
class RadialConfig(ManyConfig):
    """A `BijectiveFlow` by a chain of `Radial` maps."""

    def build_one(self, n_features: int, n_conditions: int) -> Bijection:
        return Radial(n_features, n_conditions, self.hidden, self.n_layers)


class Radial(Bijection):
    """x + b (x - c) / (a + r) with r = |x - c|, a > 0, and b > -a so that it is one to one.

    The distance from c becomes r + b r / (a + r), which increases; its inverse is the root of a quadratic equation. The
    condition decides a, b and c.

    Args:
        n_features: F.
        n_conditions: C.
        hidden: width of the hidden layers.
        n_layers: hidden layers.
    """

    def __init__(self, n_features: int, n_conditions: int = 0, hidden: int = 64, n_layers: int = 2):
        super().__init__()
        start = torch.randn(n_features + 2)
        self.conditioner = Conditioner(n_conditions, start, hidden, n_layers)

    def _parameters_of(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """c (B, F), a (B, 1) and a + b (B, 1)."""
        parameters: Tensor = self.conditioner(x[:, :0] if condition is None else condition)
        centre, a, sum_of_both = parameters.split([x.shape[1], 1, 1], -1)
        return centre, softplus(a), softplus(sum_of_both)

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        centre, a, ab = self._parameters_of(x, condition)
        r = _length(x - centre)
        return x + (ab - a) * (x - centre) / (a + r), _log_det(r, a, ab, x.shape[1])

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        centre, a, ab = self._parameters_of(y, condition)
        distance = _length(y - centre)
        half = (distance - ab) / 2
        root = (half.square() + distance * a).sqrt()
        # r^2 - 2 half r - distance a = 0: the positive root, by the formula without cancellation.
        r = torch.where(half > 0, half + root, distance * a / (root - half).clamp(min=torch.finfo(y.dtype).tiny))
        x = centre + (y - centre) * (a + r) / (ab + r)
        return x, -_log_det(r, a, ab, y.shape[1])


def _length(x: Tensor) -> Tensor:
    return safe_sqrt(x.square().sum(-1, keepdim=True), 1e-24)


def _log_det(r: Tensor, a: Tensor, ab: Tensor, n_features: int) -> Tensor:
    """(F - 1) log((a + b + r) / (a + r)) across the radius, log(1 + a b / (a + r)^2) along it."""
    across = (ab + r).log() - (a + r).log()
    along = (a * (ab - a) / (a + r).square()).log1p()
    return ((n_features - 1) * across + along).squeeze(-1)
