"""Straight paths from data to noise, and the times at which flow matching evaluates a network on them.

Drawing and pairing need no network, so they can be done ahead of the training step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from molflow.data.batches import Batch
from molflow.flows.domains import Domain
from molflow.geometry import Context, Points, point_of, scale, tensors_of
from molflow.training.pairing import PAIRINGS


class Times(NamedTuple):
    """Times of a batch.

    Attributes:
        r, t: as in `Paths`.
        n_intervals, n_near: as in `Paths`.
    """

    r: Tensor
    t: Tensor
    n_intervals: int = 0
    n_near: int = 0


DrawTimes = Callable[[int, torch.Generator | None], Times]
"""(batch size, generator) -> times."""


@dataclass(frozen=True)
class Paths:
    """Points p_t = (1 - t) p + t z on the paths of a batch, from data p at t = 0 to noise z at t = 1.

    Attributes:
        at: p_t, (B, N, D) and (B, N, F).
        velocity: z - p, the same shapes.
        context: context of the data; its condition is in the user's units, as in `Batch`.
        r: the other end of an interval of time, (B,).
        t: time, (B,).
        n_intervals: number of configurations, the first of the batch, whose r differs from t.
        n_near: number of configurations, the first of the batch, that are near the data.
    """

    at: Points
    velocity: Points
    context: Context
    r: Tensor
    t: Tensor
    n_intervals: int
    n_near: int = 0

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, part: slice) -> "Paths":
        start, stop, _ = part.indices(len(self))
        at, velocity = (_part(point, part) for point in (self.at, self.velocity))
        n_intervals, n_near = (min(max(n - start, 0), stop - start) for n in (self.n_intervals, self.n_near))
        return Paths(at, velocity, self.context.select(part), self.r[part], self.t[part], n_intervals, n_near)

    def to(self, device: torch.device | str) -> "Paths":
        at, velocity = (_map(point, lambda tensor: tensor.to(device)) for point in (self.at, self.velocity))
        r, t = self.r.to(device), self.t.to(device)
        return Paths(at, velocity, self.context.to(device), r, t, self.n_intervals, self.n_near)


@dataclass(frozen=True)
class DrawPaths:
    """Draw the paths of a batch: (batch, generator), both on the CPU -> `Paths`.

    No gradient flows to the data points: through it a dequantiser would learn to make velocities easy.

    Args:
        domain: domain of the data, on the CPU.
        dtype: dtype of the paths.
        pairing: a name in `PAIRINGS`, how noise is assigned to data.
        times: how times are drawn.
        unpaired_fraction: share of a batch, its first configurations, that keep their noise as it was drawn.
    """

    domain: Domain[Any]
    dtype: torch.dtype
    pairing: str
    times: DrawTimes
    unpaired_fraction: float = 0.0

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Paths:
        points, context, _ = self.domain.to_points_in(self.dtype, batch.data, generator)
        if batch.condition is not None:
            context = context._replace(condition=batch.condition)
        latent = self.domain.space(context.mask).randn(generator, self.dtype)
        n = round(self.unpaired_fraction * len(context.mask))
        rest = slice(n, None)
        paired = PAIRINGS[self.pairing](_part(points, rest), _part(latent, rest), context.select(rest), generator)
        points, latent = (_joined(head(p, n), q) for p, q in zip((points, latent), paired, strict=True))
        r, t, n_intervals, n_near = self.times(len(context.mask), generator)
        r, t = r.to(self.dtype), t.to(self.dtype)
        velocity = latent - points
        return Paths(points + scale(velocity, t), velocity, context, r, t, n_intervals, n_near)


def head(point: Points, n: int) -> Points:
    """The first n configurations."""
    return _part(point, slice(n))


def logistic_normal_times(batch: int, generator: torch.Generator | None) -> Times:
    """Times t in (0, 1), logistic-normal about 1/2 with scale 1.2, and r = t."""
    t = torch.randn(batch, generator=generator).mul(1.2).sigmoid()
    return Times(t, t)


def times_near_the_data(fraction: float, until: float, batch: int, generator: torch.Generator | None) -> Times:
    """`logistic_normal_times`, but the first share of the batch has t = until u^(3/2) with u uniform in (0, 1)."""
    t, _, _, _ = logistic_normal_times(batch, generator)
    n = round(fraction * batch)
    t[:n] = until * torch.rand(n, generator=generator) ** 1.5
    return Times(t, t, n_near=n)


def _part(point: Points, part: slice) -> Points:
    return _map(point, lambda tensor: tensor[part])


def _joined(first: Points, second: Points) -> Points:
    pairs = zip(tensors_of(first), tensors_of(second), strict=True)
    return point_of([torch.cat(pair) for pair in pairs])  # type: ignore[return-value]


def _map(point: Points, function: Callable[[Tensor], Tensor]) -> Points:
    """Apply a function to each tensor of a point."""
    return point_of([function(tensor) for tensor in tensors_of(point)])  # type: ignore[return-value]
