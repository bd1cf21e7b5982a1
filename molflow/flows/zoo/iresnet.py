"""Invertible residual networks (arXiv 1811.00995), trained by an unbiased estimate in high dimension (1906.02735)."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, BijectiveConfig, Composed
from molflow.flows.zoo.linear import ActNorm
from molflow.geometry import inner
from molflow.nn.network import Layers
from molflow.volume import vjp

_STEEPEST_SILU = 1.1  # the largest slope of x sigmoid(x) is 1.0998
_EXACT_TERMS = 4  # of the power series, before the roulette begins
_MOST_ITERATIONS = 1000


@FLOWS.register("iresnet")
class IResNetConfig(BijectiveConfig):
    """A `BijectiveFlow` by steps of `ActNorm` and a `ResidualBlock`."""

    n_transforms: int = Field(10, gt=0, description="residual blocks")
    hidden: int = Field(64, gt=0, description="width of the networks of the blocks")
    n_layers: Layers = Field(2, description="hidden layers of these networks")
    lipschitz: float = Field(0.9, gt=0, lt=1, description="bound on how far a block's network can spread two points")
    exact_up_to: int = Field(
        10, ge=0, description="training computes log-determinants of up to this dimension, and estimates larger ones"
    )

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        steps = (
            (
                ActNorm(n_features),
                ResidualBlock(
                    n_features, n_conditions, self.hidden, self.n_layers, self.lipschitz, n_features <= self.exact_up_to
                ),
            )
            for _ in range(self.n_transforms)
        )
        return Composed(bijection for step in steps for bijection in step)


class ResidualBlock(Bijection):
    """x + g(x, condition), where g is an MLP with |g(x) - g(y)| <= c |x - y| and c < 1 at any condition.

    Each weight matrix that acts on x is divided by an upper bound of its spectral norm where that is too large, and
    activations are x sigmoid(x) / 1.1. So the fixed-point iteration x <- y - g(x) always converges to the inverse.

    Args:
        n_features: F.
        n_conditions: C.
        hidden: width of the hidden layers.
        n_layers: hidden layers.
        lipschitz: c.
        exact: whether `estimate` is the exact log-determinant.
    """

    def __init__(
        self,
        n_features: int,
        n_conditions: int = 0,
        hidden: int = 64,
        n_layers: int = 2,
        lipschitz: float = 0.9,
        exact: bool = True,
    ):
        super().__init__()
        self.lipschitz, self.exact = lipschitz, exact
        widths = [n_features, *[hidden] * n_layers, n_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.of_condition = nn.Linear(n_conditions, hidden, bias=False) if n_conditions else None

    def contraction(self, condition: Tensor | None) -> "_Contraction":
        """g at a condition, with its weights normalised once."""
        allowed = self.lipschitz ** (1 / len(self.layers))
        weights = [_limited(layer.weight, allowed) for layer in self.layers]  # type: ignore[arg-type]
        biases: list[Tensor] = [layer.bias for layer in self.layers]  # type: ignore[misc]
        if self.of_condition is not None:
            biases[0] = biases[0] + self.of_condition(condition)
        return _Contraction(weights, biases)

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        value, jacobian = self.contraction(condition).with_jacobian(x)
        return x + value, _log_det(jacobian)

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        g = self.contraction(condition)
        with torch.no_grad():
            x = _newton_step(g, _fixed_point(g, y), y)
        x = _newton_step(g, x, y)  # for the first derivatives
        return x, -_log_det(g.with_jacobian(x)[1])

    def estimate(self, x: Tensor, condition: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """x + g(x) and, in high dimension, an unbiased estimate of log |det (1 + g')| with an unbiased gradient.

        With random signs v, log det (1 + J) = E sum_k (-1)^(k+1) / k v^T J^k v. The series ends at a random term: after
        the first ones, each further term follows with probability c and is divided by the probability of reaching it.
        Terms fall like c^k, so the variance is finite. The gradient is that of w^T J v with w = sum_k (-J^T)^k v.
        """
        if self.exact:
            return self._forward(x, condition)
        g = self.contraction(condition)
        v = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device).sign()
        chance = float(torch.rand((), generator=generator, device=x.device, dtype=torch.float64).clamp(min=1e-12))
        n_terms = _EXACT_TERMS + int(math.log(chance) / math.log(self.lipschitz))
        value, pull_back = vjp(g, x)
        log_det, power, series = torch.zeros_like(x[:, 0]), v, v
        with torch.no_grad():
            for k in range(1, n_terms + 1):
                weight = (-1) ** k / self.lipschitz ** max(0, k - _EXACT_TERMS)
                power = pull_back(power)
                log_det = log_det - weight / k * inner(power, v)
                series = series + weight * power if k < n_terms else series
        with_gradient = inner(pull_back(series), v)
        return x + value, log_det + with_gradient - with_gradient.detach()


def _limited(weight: Tensor, allowed: float) -> Tensor:
    """A matrix as it is, or smaller, so that its spectral norm is at most `allowed`."""
    return weight * (allowed / spectral_norm_bound(weight)).clamp(max=1)


def spectral_norm_bound(weight: Tensor, n_squarings: int = 5) -> Tensor:
    """An upper bound of the spectral norm of a matrix, by Gram iteration (arXiv 2305.16173).

    |(W^T W)^(2^n)|_F^(2^-(n+1)), which with n = 5 is at most rank^(1/128) times the norm. It can be differentiated.
    Unlike the estimate of a power iteration, it needs no state and is never too small.
    """
    gram = weight @ weight.T if weight.shape[0] < weight.shape[1] else weight.T @ weight
    log_size = torch.zeros((), dtype=weight.dtype, device=weight.device)
    tiny = torch.finfo(weight.dtype).tiny
    for _ in range(n_squarings):
        size = gram.norm() + tiny
        gram = gram / size
        gram = gram @ gram
        log_size = 2 * (log_size + size.log())
    bound: Tensor = ((log_size + (gram.norm() + tiny).log()) / 2 ** (n_squarings + 1)).exp()
    return bound


class _Contraction:
    """g(x) = W_L h_L + b_L with h_k = swish(W_(k-1) h_(k-1) + b_(k-1)) / 1.1 and h_0 = x; b_0 may be one for each x."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]):
        self.weights, self.biases = weights, biases

    def __call__(self, x: Tensor) -> Tensor:
        h = x @ self.weights[0].T + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            h = linear(silu(h) / _STEEPEST_SILU, weight, bias)
        return h

    def with_jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g(x) and the matrix dg_j/dx_i, (B, F) and (B, F, F)."""
        h, jacobian = x @ self.weights[0].T + self.biases[0], self.weights[0].T
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            sigmoid = h.sigmoid()
            slope = sigmoid * (1 + h * (1 - sigmoid)) / _STEEPEST_SILU
            jacobian = linear(slope.unsqueeze(1) * jacobian, weight)
            h = linear(h * sigmoid / _STEEPEST_SILU, weight, bias)
        return h, jacobian


def _plus_one(jacobian: Tensor) -> Tensor:
    return jacobian + torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)


def _log_det(jacobian: Tensor) -> Tensor:
    """log |det (1 + dg/dx)|, (B,)."""
    log_det: Tensor = torch.linalg.slogdet(_plus_one(jacobian)).logabsdet
    return log_det


def _newton_step(g: _Contraction, x: Tensor, y: Tensor) -> Tensor:
    """x closer to the root of x + g(x) = y: twice as many digits."""
    value, jacobian = g.with_jacobian(x)
    step: Tensor = torch.linalg.solve(_plus_one(jacobian.detach()).mT, x + value - y)
    return x - step


def _fixed_point(g: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """x with x = y - g(x), to half of the digits."""
    x, tolerance = y, torch.finfo(y.dtype).eps ** 0.5
    for _ in range(_MOST_ITERATIONS):
        last, x = x, y - g(x)
        if not ((x - last).abs() > tolerance * (1 + x.abs())).any():
            break
    return x
