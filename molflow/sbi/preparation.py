"""Parameters without bounds and observations of order one: what a flow is trained on in place of theta and x."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from molflow.errors import MolflowError

_EDGE = 1e-6
"""Parameters closer to a bound than this share of the width, or of one, are moved there."""


@dataclass(frozen=True)
class Bounds:
    """The support of a prior, a lower and an upper bound of each parameter, which may be infinite.

    A flow has a density everywhere, so it is trained on u: theta without bounds, log(theta - low) above a bound,
    -log(high - theta) below one, and the quantile of a standard Gaussian at (theta - low) / (high - low) between two,
    so that a uniform prior becomes a Gaussian.

    Attributes:
        low, high: float64 (F,).
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, prior: Distribution | None, n_parameters: int) -> "Bounds":
        """Those of a prior; none without a prior.

        Raises:
            MolflowError: a prior of another number of parameters, or one whose support is not a box.
        """
        if prior is None:
            return cls(*(torch.full((n_parameters,), sign * torch.inf, dtype=torch.float64) for sign in (-1, 1)))
        shape = tuple(prior.event_shape)
        if shape != (n_parameters,):
            raise MolflowError(
                f"expected a prior of vectors ({n_parameters},), got event shape {shape}; "
                "torch.distributions.Independent(prior, 1) makes one vector of independent parameters"
            )
        low, high = (bound.expand(n_parameters) for bound in _limits(prior.support, n_parameters))
        return cls(low, high)

    def contain(self, theta: Tensor) -> Tensor:
        """Whether parameters are in the support, (n, F) -> (n,); infinite ones never are."""
        return ((theta >= self.low) & (theta <= self.high) & theta.isfinite()).all(-1)

    def free(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """u and log |det du/dtheta| of parameters in the support, float64 (n, F) and (n,)."""
        theta = theta.double()
        above, below, width = theta - self.low, self.high - theta, self.high - self.low
        box, free = width.isfinite(), self.low.isinf() & self.high.isinf()
        edge = _EDGE * torch.where(box, width, 1.0)
        log_above, log_below = above.clamp(min=edge).log(), below.clamp(min=edge).log()
        quantile = torch.special.ndtri(torch.where(box, (above / width).clamp(_EDGE, 1 - _EDGE), 0.5))
        half = torch.where(self.low.isfinite(), log_above, -log_below)
        u = torch.where(free, theta, torch.where(box, quantile, half))
        log_det_box = quantile.square() / 2 + math.log(2 * math.pi) / 2 - width.log()
        log_det_half = torch.where(self.low.isfinite(), -log_above, -log_below)
        log_det = torch.where(free, 0.0, torch.where(box, log_det_box, log_det_half))
        return u, log_det.sum(-1)

    def bound(self, u: Tensor) -> Tensor:
        """The parameters of u: the inverse of `free`, float64 (n, F)."""
        u = u.double()
        width = self.high - self.low
        between = torch.where(width.isfinite(), self.low + width * torch.special.ndtr(u), u)
        above = torch.where(self.low.isfinite(), self.low + u.exp(), between)
        below = torch.where(self.high.isfinite(), self.high - (-u).exp(), above)
        return torch.where(width.isfinite(), between, below)


def _limits(support: Any, n: int) -> tuple[Tensor, Tensor]:
    """Bounds that broadcast to (n,)."""
    infinity = torch.full((1,), torch.inf, dtype=torch.float64)
    if isinstance(support, constraints.independent):
        return _limits(support.base_constraint, n)
    if isinstance(support, constraints.cat | constraints.stack):
        lengths = getattr(support, "lengths", None) or [1] * len(support.cseq)
        parts = [_limits(part, length) for part, length in zip(support.cseq, lengths, strict=True)]
        sides = [torch.cat([p[side].expand(k) for p, k in zip(parts, lengths, strict=True)]) for side in (0, 1)]
        return sides[0], sides[1]
    low, high = -infinity, infinity
    if hasattr(support, "lower_bound"):
        low = torch.as_tensor(support.lower_bound, dtype=torch.float64)
    if hasattr(support, "upper_bound"):
        high = torch.as_tensor(support.upper_bound, dtype=torch.float64)
    free = support in (constraints.real, constraints.real_vector)
    if support.is_discrete or (not free and bool(low.isinf().all() and high.isinf().all())):
        raise MolflowError(
            f"the support of the prior, {support}, is not a box; train on parameters that have separate bounds"
        )
    return low, high


@dataclass(frozen=True)
class Observations:
    """What is known of the simulated observations, and how they are given to a network.

    Numbers that are never negative and skewed are taken as log(x + offset), with the smallest positive value as offset
    where zeros occur. Numbers that never change are left out. Standardising follows in the flow.

    Attributes:
        low, high: the smallest and the largest simulated value, float64 (C,).
        offset: of the logarithm, NaN where there is none, float64 (C,).
    """

    low: Tensor
    high: Tensor
    offset: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "Observations":
        """Those of simulated observations (n, C)."""
        x = x.double()
        low, high = x.min(0).values, x.max(0).values
        smallest = torch.where(x > 0, x, torch.inf).min(0).values
        offset = torch.where(low > 0, 0.0, smallest)
        logarithm = (x.clamp(min=0) + offset).log()
        takes_logarithm = (low >= 0) & (high > low) & (_skewness(x) > 1) & (_skewness(x) > _skewness(logarithm).abs())
        return cls(low, high, torch.where(takes_logarithm, offset, torch.nan))

    @property
    def kept(self) -> Tensor:
        """True for the numbers that change, (C,)."""
        return self.high > self.low

    def features(self, x: Tensor) -> Tensor:
        """The condition of a flow, float64 (n, C) -> (n, K); below the smallest simulated value logarithms are cut."""
        x = x.double()
        logarithm = (x.clamp(min=self.low) + self.offset).log()
        return torch.where(self.offset.isnan(), x, logarithm)[:, self.kept]

    def strange(self, x: Tensor) -> list[int]:
        """The numbers of an observation (C,) that no simulation reached, counted from 1."""
        outside = (x < self.low) | (x > self.high)
        return [int(k) + 1 for k in outside.nonzero()]


def _skewness(x: Tensor) -> Tensor:
    deviation = x - x.mean(0)
    return deviation.pow(3).mean(0) / deviation.square().mean(0).clamp(min=1e-300).pow(1.5)
