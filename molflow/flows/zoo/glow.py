"""Glow (arXiv 1807.03039) on vectors."""

import torch
from pydantic import Field
from torch import Tensor

from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, BijectiveConfig, Composed
from molflow.flows.zoo.coupling import Coupling, Elementwise, bounded
from molflow.flows.zoo.linear import ActNorm, InvertibleLinear
from molflow.nn.network import Layers

_LARGEST_LOG_SCALE = 5.0


@FLOWS.register("glow")
class GlowConfig(BijectiveConfig):
    """A `BijectiveFlow` by steps of `ActNorm`, `InvertibleLinear` and an affine `Coupling`.

    On vectors the invertible 1x1 convolution is a matrix that mixes all numbers, and there is one scale.
    """

    n_transforms: int = Field(8, gt=0, description="steps")
    hidden: int = Field(64, gt=0, description="width of the networks of the couplings")
    n_layers: Layers = Field(2, description="hidden layers of these networks")

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        steps = (
            (
                ActNorm(n_features),
                InvertibleLinear(n_features),
                Coupling(n_features, n_conditions, Affine(), self.hidden, self.n_layers),
            )
            for _ in range(self.n_transforms)
        )
        return Composed(bijection for step in steps for bijection in step)


class Affine(Elementwise):
    """exp(s) x + t with the parameters (s, t); s is kept within -5 and 5."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(2))

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = bounded(parameters[..., 0], _LARGEST_LOG_SCALE)
        return x * log_scale.exp() + parameters[..., 1], log_scale

    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        return (y - parameters[..., 1]) * (-bounded(parameters[..., 0], _LARGEST_LOG_SCALE)).exp()
