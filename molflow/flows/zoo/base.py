"""Bijections of vectors, and the flow that any of them makes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.distributions import StandardNormal
from molflow.flows.base import Flow, FlowConfig, Which
from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Domain
from molflow.flows.sampling import PAIRS_WITH_DENSITY, by_size
from molflow.geometry import Context
from molflow.nn.network import Layers

_MOST_STEPS = 400  # of a root finder; one step in six halves the bracket


class BijectiveConfig(FlowConfig):
    """Base of the configurations of a `BijectiveFlow`.

    Implementing a family: write `build_bijection` and the `Bijection`, and register the configuration with
    `FLOWS.register`.
    """

    def build(self) -> "BijectiveFlow":
        domain, conditions = self.build_domain()
        if domain.acts_on != "vectors":
            raise ValueError(
                f"the flow {self.kind} acts on vectors, the domain {self.domain.kind} is of {domain.acts_on}; "
                "take model.kind = 'free_form' or 'continuous'"
            )
        n_conditions = 0 if conditions is None else conditions.n_inputs
        return BijectiveFlow(domain, self.build_bijection(domain.n_features, n_conditions), conditions)

    def build_bijection(self, n_features: int, n_conditions: int) -> "Bijection":
        """The bijection from data to latents, with fresh weights.

        Args:
            n_features: F.
            n_conditions: C.

        Raises:
            MolflowError: a package that it needs is not installed.
        """
        raise TypeError(f"{type(self).__name__} must implement build_bijection")


class Bijection(nn.Module, ABC):
    """y = f(x, condition), one to one in x: (B, F) and (B, C) -> (B, F), with log |det dy/dx|, (B,).

    Implementing a bijection: write `_forward` and `_inverse`; override `initialize` where parameters start from data.
    """

    def forward(self, x: Tensor, condition: Tensor | None = None, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """f(x, condition) or its inverse, and the log-determinant of the map that was applied, nats."""
        return self._inverse(x, condition) if inverse else self._forward(x, condition)

    @abstractmethod
    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """y = f(x, condition) and log |det dy/dx|."""

    @abstractmethod
    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """x with f(x, condition) = y, and log |det dx/dy|."""

    def estimate(self, x: Tensor, condition: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """f(x, condition) and an unbiased estimate of the log-determinant for training; by default the exact one."""
        return self._forward(x, condition)

    def initialize(self, x: Tensor, condition: Tensor | None) -> None:
        """Set the parameters that start from a batch of data; by default there are none."""


class Composed(Bijection):
    """f_n(... f_1(x)), the log-determinants added up."""

    def __init__(self, bijections: Iterable[Bijection]):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for bijection in self.bijections:
            x, change = bijection(x, condition)
            log_det = log_det + change
        return x, log_det

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        log_det = y.new_zeros(len(y))
        for bijection in reversed(self.bijections):
            y, change = bijection(y, condition, inverse=True)
            log_det = log_det + change
        return y, log_det

    def estimate(self, x: Tensor, condition: Tensor | None, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for bijection in self.bijections:
            x, change = bijection.estimate(x, condition, generator)  # type: ignore[operator]
            log_det = log_det + change
        return x, log_det

    def initialize(self, x: Tensor, condition: Tensor | None) -> None:
        for bijection in self.bijections:
            bijection.initialize(x, condition)  # type: ignore[operator]
            x, _ = bijection(x, condition)


class ManyConfig(BijectiveConfig):
    """Base of the configurations of a chain of small bijections of one kind: write `build_one`."""

    n_transforms: int = Field(32, gt=0, description="maps, one after another")
    hidden: int = Field(64, gt=0, description="of a conditional flow: width of the networks that give the parameters")
    n_layers: Layers = Field(2, description="of a conditional flow: hidden layers of these networks")

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        return Composed(self.build_one(n_features, n_conditions) for _ in range(self.n_transforms))

    def build_one(self, n_features: int, n_conditions: int) -> Bijection:
        """One of the bijections; arguments as in `build_bijection`."""
        raise TypeError(f"{type(self).__name__} must implement build_one")


class BijectiveFlow(Flow[Tensor]):
    """z = f(x, condition) by a bijection of vectors in model units.

    log p(x) = log N(f(x)) + log |det f'(x)| is exact, and encoder and decoder have the same density. The first `nll` in
    training sets the parameters that start from data (arXiv 1602.07868, 1807.03039); nothing else changes the flow.

    Args:
        domain: of vectors.
        bijection: from data to latents.
        conditions: as in `Flow`.

    Example:
        >>> from molflow.flows import FLOWS
        >>> config = FLOWS["planar"](domain={"kind": "vectors", "n_features": 2}, n_transforms=3)
        >>> flow, x = config.build(), torch.randn(5, 2)
        >>> flow.log_prob(x).shape, flow.sample(10, seed=0).shape
        (torch.Size([5]), torch.Size([10, 2]))
    """

    initialized: Tensor

    def __init__(self, domain: Domain[Tensor], bijection: Bijection, conditions: Conditions | None = None):
        super().__init__(domain, conditions)
        self.bijection = bijection
        self.register_buffer("initialized", torch.tensor(False))

    def encode_with_log_det(self, points: Any, context: Context) -> tuple[Any, Tensor]:
        image, log_det = self.bijection(points, context.condition)
        return image, log_det

    def decode_with_log_det(self, latent: Any, context: Context) -> tuple[Any, Tensor]:
        image, log_det = self.bijection(latent, context.condition, inverse=True)
        return image, log_det

    @torch.no_grad()
    def log_prob(
        self,
        data: Tensor,
        *,
        condition: Any = None,
        which: Which = "encoder",
        seed: int = 0,
        noise: float | None = None,
    ) -> Tensor:
        """As in `Flow`; the density of the encoder is computed without the inverse, which is slow in some families."""
        if which != "encoder":
            return super().log_prob(data, condition=condition, which=which, seed=seed, noise=noise)
        points, context, correction = self.noisy_points(data, self.generator(seed), condition, noise)
        z, log_det = by_size(self.encode_with_log_det, points, context, PAIRS_WITH_DENSITY)
        return self._refuse_nan(StandardNormal(self.domain.space(context.mask)).log_prob(z) + log_det) + correction

    @torch.no_grad()
    def initialize(self, data: Tensor, condition: Any = None) -> None:
        if not self.initialized:
            points, context, _ = self.to_points(data, None, condition)
            self.bijection.initialize(points, context.condition)
            self.initialized.fill_(True)

    def nll(self, data: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.initialize(data, condition)
        points, context, correction = self.to_points(data, generator, condition)
        z, log_det = self.bijection.estimate(points, context.condition, generator)
        return -StandardNormal(self.domain.space(context.mask)).log_prob(z) - log_det - correction


def invert_increasing(function: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor) -> Tensor:
    """The root x of f(x) = y, element by element, for an increasing f that has no bound.

    Newton's method, whose steps grow by no more than a factor 4, with bisection where it would leave the known bracket
    or makes slow progress. The last step gives x its first derivatives with respect to y and to all that f depends on.
    Where f is so flat that its values do not tell two x apart, x is one of those that have the value y.

    Args:
        function: x -> f(x) and f'(x).
        y: of any shape.

    Example:
        >>> invert_increasing(lambda x: (x**3 + x, 3 * x**2 + 1), torch.tensor([10.0, -2.0]))
        tensor([ 2., -1.])
    """
    with torch.no_grad():
        x = _root(function, y)
    value, slope = function(x)
    slope = slope.detach().clamp(min=torch.finfo(y.dtype).tiny)  # 0 where the values do not change
    return x - ((value - y) / slope).clamp(-_tolerance(x), _tolerance(x))


def _root(function: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor) -> Tensor:
    """The root to three quarters of its digits, of which the last step makes all."""
    x, done = y, torch.zeros_like(y, dtype=torch.bool)
    low, high = torch.full_like(y, -torch.inf), torch.full_like(y, torch.inf)
    for step in range(_MOST_STEPS):
        value, slope = function(x)
        change = (y - value) / slope
        near = (change.abs() <= _tolerance(x)) | (high - low <= _tolerance(x))
        done |= near | (value == y) | ~value.isfinite()
        if done.all():
            break
        low, high = torch.where(value < y, x, low), torch.where(value < y, high, x)
        longest = 4.0 ** min(step, 60)
        newton, middle = x + change.clamp(-longest, longest), (low + high) / 2
        bisect = (newton <= low) | (newton >= high) | ((step % 6 == 5) & middle.isfinite())
        x = torch.where(done, x, torch.where(bisect, middle, newton))
    return x


def _tolerance(x: Tensor) -> Tensor:
    """Three quarters of the digits of x."""
    return (1 + x.abs()) * float(torch.finfo(x.dtype).eps ** 0.75)
