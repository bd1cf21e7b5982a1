"""Couplings: one part of a vector is transformed element by element, with parameters that the other part decides."""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn

from molflow.flows.zoo.base import Bijection


class Conditioner(nn.Module):
    """The parameters of a bijection, v + MLP(given): (B, I) -> (B, K). Without inputs, I = 0, they are v alone.

    The last weights of the network are small, so that the parameters start near v.

    Args:
        n_given: I.
        start: v, (K,).
        hidden: width of the hidden layers.
        n_layers: hidden layers.
    """

    def __init__(self, n_given: int, start: Tensor, hidden: int, n_layers: int):
        super().__init__()
        self.offset = nn.Parameter(start.clone())
        self.network: nn.Sequential | None = None
        if n_given:
            widths = [n_given, *[hidden] * n_layers]
            layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
            last = nn.Linear(hidden, len(start), bias=False)
            with torch.no_grad():
                last.weight *= 0.1
            self.network = nn.Sequential(*layers, last)

    def forward(self, given: Tensor) -> Tensor:
        if self.network is None:
            return self.offset.expand(len(given), -1)
        change: Tensor = self.network(given)
        return self.offset + change


class Elementwise(nn.Module, ABC):
    """An increasing map of numbers with parameters: (B, F) and (B, F, K) -> (B, F).

    Args:
        start: the parameters (K,) of the identity, or of a map near it.
    """

    start: Tensor

    def __init__(self, start: Tensor):
        super().__init__()
        self.register_buffer("start", start, persistent=False)

    @abstractmethod
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The image, and the logarithm of the slope, (B, F)."""

    @abstractmethod
    def inverse(self, y: Tensor, parameters: Tensor) -> Tensor:
        """The x whose image is y."""


class Coupling(Bijection):
    """(a, b) -> (a, e(b; theta(a, condition))) with an elementwise map e (arXiv 1410.8516, 1605.08803).

    b is the second half of the vector, the larger one of an odd number; the only number of a vector of one.

    Args:
        n_features: F.
        n_conditions: C.
        elementwise: e.
        hidden: width of the hidden layers of theta.
        n_layers: hidden layers of theta.
    """

    def __init__(self, n_features: int, n_conditions: int, elementwise: Elementwise, hidden: int, n_layers: int):
        super().__init__()
        self.sizes = [n_features // 2, n_features - n_features // 2]
        self.elementwise = elementwise
        start = elementwise.start.repeat(self.sizes[1])
        self.conditioner = Conditioner(self.sizes[0] + n_conditions, start, hidden, n_layers)

    def _parameters_of(self, a: Tensor, condition: Tensor | None) -> Tensor:
        given = a if condition is None else torch.cat([a, condition], -1)
        parameters: Tensor = self.conditioner(given).unflatten(-1, (self.sizes[1], -1))
        return parameters

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        a, b = x.split(self.sizes, -1)
        image, log_slope = self.elementwise(b, self._parameters_of(a, condition))
        return torch.cat([a, image], -1), log_slope.sum(-1)

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        a, image = y.split(self.sizes, -1)
        parameters = self._parameters_of(a, condition)
        b = self.elementwise.inverse(image, parameters)
        _, log_slope = self.elementwise(b, parameters)
        return torch.cat([a, b], -1), -log_slope.sum(-1)


def bounded(x: Tensor, bound: float) -> Tensor:
    """c tanh(x / c): x near 0, within (-c, c)."""
    return bound * (x / bound).tanh()
