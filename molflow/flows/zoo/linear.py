"""Linear bijections."""

import torch
from torch import Tensor, nn

from molflow.flows.zoo.base import Bijection


class ActNorm(Bijection):
    """exp(s) (x - m), number by number (arXiv 1807.03039); after `initialize` the batch has mean 0 and variance 1.

    Args:
        n_features: F.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_features))
        self.log_scale = nn.Parameter(torch.zeros(n_features))

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return y * (-self.log_scale).exp() + self.shift, -self.log_scale.sum().expand(len(y))

    def initialize(self, x: Tensor, condition: Tensor | None) -> None:
        std = x.std(0, correction=0)
        self.shift.copy_(x.mean(0))
        self.log_scale.copy_(torch.where(std > 1e-6, -std.clamp(min=1e-6).log(), 0.0))  # one vector has no spread


class InvertibleLinear(Bijection):
    """W x with W = P L (U + diag(s)), which is a random rotation at first (arXiv 1807.03039).

    P is a permutation and stays, L is lower triangular with ones on its diagonal, U is strictly upper triangular.
    log |det W| = sum_k log |s_k|; the signs of s stay.

    Args:
        n_features: F.
    """

    order: Tensor
    signs: Tensor

    def __init__(self, n_features: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(n_features, n_features)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.register_buffer("order", permutation.argmax(1))
        self.register_buffer("signs", upper.diagonal().sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def _factors(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + torch.diag(self.signs * self.log_diagonal.exp())

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        return (x @ (lower @ upper).T)[:, self.order], self.log_diagonal.sum().expand(len(x))

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        lower, upper = self._factors()
        permuted = y[:, self.order.argsort()].T
        half_way = torch.linalg.solve_triangular(lower, permuted, upper=False, unitriangular=True)
        x: Tensor = torch.linalg.solve_triangular(upper, half_way, upper=True).T
        return x, -self.log_diagonal.sum().expand(len(y))


class Reversal(Bijection):
    """The numbers in reverse order, so that the next coupling transforms the others."""

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return x.flip(-1), x.new_zeros(len(x))

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._forward(y, condition)
