"""Straight paths from data to noise, as flow matching follows them, and where on them the networks are asked.

What is drawn and paired here needs no network, so that it can be done ahead of the step that takes it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from molflow.flows.domains import Data, Domain
from molflow.geometry import Context, Points
from molflow.training.config import MeanFlowObjectiveConfig, Pairing

Times = Callable[[int, torch.Generator | None], tuple[Tensor, Tensor, int]]
"""Size of a batch -> r and t, (B,) each, and how many of the first have r other than t."""


@dataclass(frozen=True)
class Paths:
    """Points p_t = (1 - t) p + t z on the paths of a batch, from data p at t = 0 to noise z at t = 1.

    Attributes:
        at: p_t, (B, N, D) and (B, N, F).
        velocity: z - p, the same shapes.
        context: of the data.
        r: the other end of an interval of time, (B,).
        t: (B,).
        n_intervals: how many configurations, the first of the batch, have r other than t.
    """

    at: Points
    velocity: Points
    context: Context
    r: Tensor
    t: Tensor
    n_intervals: int

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, part: slice) -> "Paths":
        start, stop, _ = part.indices(len(self))
        at, velocity = (Points(p.x[part], p.h[part]) for p in (self.at, self.velocity))
        context = Context(self.context.mask[part], self.context.labels[part])
        n_intervals = min(max(self.n_intervals - start, 0), stop - start)
        return Paths(at, velocity, context, self.r[part], self.t[part], n_intervals)

    def to(self, device: torch.device | str) -> "Paths":
        at, velocity = (Points(p.x.to(device), p.h.to(device)) for p in (self.at, self.velocity))
        context = Context(self.context.mask.to(device), self.context.labels.to(device))
        return Paths(at, velocity, context, self.r.to(device), self.t.to(device), self.n_intervals)


@dataclass(frozen=True)
class DrawPaths:
    """(data, generator), both on the CPU -> `Paths`.

    Data points are without gradient: through it a dequantiser would learn to make velocities easy.

    Args:
        domain: of the data, on the CPU.
        dtype: of the paths.
        pairing: which noise belongs to which data.
        times: at which times.
    """

    domain: Domain
    dtype: torch.dtype
    pairing: Pairing
    times: Times

    @torch.no_grad()
    def __call__(self, data: Data, generator: torch.Generator | None) -> Paths:
        points, context, _ = self.domain.to_points_in(self.dtype, data, generator)
        latent = self.domain.space(context.mask).randn(generator, self.dtype)
        from molflow.training.pairing import (
            pair,
        )  # scipy.optimize takes half a second, which sampling need not wait for

        points, latent = pair(points, latent, context, self.pairing, generator)
        r, t, n_intervals = self.times(len(context.mask), generator)
        r, t = r.to(self.dtype), t.to(self.dtype)
        velocity = latent - points
        return Paths(points + velocity * t, velocity, context, r, t, n_intervals)


def moments(batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, int]:
    """Times t in (0, 1), logistic-normal about 1/2 with scale 1.2; r = t."""
    t = torch.randn(batch, generator=generator).mul(1.2).sigmoid()
    return t, t, 0


def intervals(
    config: MeanFlowObjectiveConfig, batch: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, int]:
    """r < t for the first part of a batch, some of them with t = 1, and r = t for the rest.

    r and t are the ends of a uniform interval; where t = 1, r near 0 is drawn more often, since
    there the bonds are decided. With `both_ways` every other pair of the first part is exchanged.
    """
    n = round(config.average_fraction * batch)
    draws = torch.rand(3, batch, generator=generator)
    from_latent = draws[2] < config.from_latent_fraction
    r = torch.where(from_latent, draws[0] ** 1.5, draws[:2].amin(0))
    t = torch.where(from_latent, 1.0, draws[:2].amax(0))
    if config.both_ways:
        exchanged = torch.arange(batch) % 2 == 1
        r, t = torch.where(exchanged, t, r), torch.where(exchanged, r, t)
    middle, _, _ = moments(batch, generator)
    r[n:] = t[n:] = middle[n:]
    return r, t, n
