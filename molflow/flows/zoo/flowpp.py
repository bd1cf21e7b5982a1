"""Flow++ (arXiv 1902.00275) on vectors: couplings by the distribution functions of mixtures of logistics."""

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, BijectiveConfig, Composed, invert_increasing
from molflow.flows.zoo.coupling import Coupling, Elementwise, bounded
from molflow.flows.zoo.linear import ActNorm, Reversal
from molflow.nn.network import Layers

_LARGEST_LOG_SCALE = 5.0
_SMALLEST_SLOPE = 1e-3  # between logistics far apart; a smaller one would lose digits in the inverse


@FLOWS.register("flowpp")
class FlowPPConfig(BijectiveConfig):
    """A `BijectiveFlow` by steps of `ActNorm`, a `Coupling` with a `LogisticMixture`, and a `Reversal`.

    The paper's conditioners are convolutions with attention over pixels; on vectors they are MLPs.
    """

    n_transforms: int = Field(6, gt=0, description="steps")
    n_components: int = Field(8, gt=0, description="logistics in a mixture")
    hidden: int = Field(64, gt=0, description="width of the networks of the couplings")
    n_layers: Layers = Field(2, description="hidden layers of these networks")

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        steps = (
            (
                ActNorm(n_features),
                Coupling(n_features, n_conditions, LogisticMixture(self.n_components), self.hidden, self.n_layers),
                Reversal(),
            )
            for _ in range(self.n_transforms)
        )
        return Composed(bijection for step in steps for bijection in step)


class LogisticMixture(Elementwise):
    """exp(s) ((1 - e) logit(F(x)) + e x) + t, where F is the distribution function of a mixture of logistics.

    F(x) = sum_k p_k sigmoid((x - m_k) exp(-l_k)). The parameters are (s, t), then the logits of p, then m, then l. One
    logistic with m = l = 0 is the identity. The inverse is found numerically; e = 0.001, which is 0 in the paper, keeps
    its digits where F is flat. Logarithms of F and of 1 - F are computed apart, so that both tails keep theirs.

    Args:
        n_components: K.
    """

    def __init__(self, n_components: int):
        spread = torch.linspace(-1, 1, n_components) if n_components > 1 else torch.zeros(1)
        zeros = torch.zeros(n_components)
        super().__init__(torch.cat([torch.zeros(2), zeros, spread, zeros]))
        self.n_components = n_components

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift, mixture = self._split(parameters)
        value, log_slope = _transformed(x, *mixture)
        return log_scale.exp() * value + shift, log_scale + log_slope

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        log_scale, shift, mixture = self._split(parameters)

        def with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
            value, log_slope = _transformed(x, *mixture)
            return value, log_slope.exp()

        return invert_increasing(with_slope, (y - shift) * (-log_scale).exp())

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        affine, logits, means, log_scales = parameters.split([2, *[self.n_components] * 3], -1)
        mixture = log_softmax(logits, -1), means, bounded(log_scales, _LARGEST_LOG_SCALE)
        return bounded(affine[..., 0], _LARGEST_LOG_SCALE), affine[..., 1], mixture


def _transformed(x: Tensor, log_p: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - e) logit F(x) + e x, and the logarithm of its slope, where that of the logit is F' / (F (1 - F))."""
    standard = (x.unsqueeze(-1) - means) * (-log_scales).exp()
    log_below, log_above = logsigmoid(standard), logsigmoid(-standard)
    log_cdf, log_survival = (log_p + log_below).logsumexp(-1), (log_p + log_above).logsumexp(-1)
    log_density = (log_p + log_below + log_above - log_scales).logsumexp(-1)
    value = (1 - _SMALLEST_SLOPE) * (log_cdf - log_survival) + _SMALLEST_SLOPE * x
    slope = math.log1p(-_SMALLEST_SLOPE) + log_density - log_cdf - log_survival
    return value, torch.logaddexp(slope, torch.full_like(slope, math.log(_SMALLEST_SLOPE)))
