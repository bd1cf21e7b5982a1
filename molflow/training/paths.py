"""Straight paths from data to noise, and the times at which flow matching evaluates a network on them.

Drawing and pairing need no network, so they can be done ahead of the training step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from molflow.data.batches import Batch
from molflow.flows.domains import Domain
from molflow.geometry import Context, Points, point_of, scale, tensors_of
from molflow.training.pairing import PAIRINGS

Times = Callable[[int, torch.Generator | None], tuple[Tensor, Tensor, int]]
"""Batch size B -> r and t, (B,) each, and the number of configurations, the first ones, whose r differs from t."""


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
        at, velocity = (_map(point, lambda tensor: tensor[part]) for point in (self.at, self.velocity))
        n_intervals = min(max(self.n_intervals - start, 0), stop - start)
        return Paths(at, velocity, self.context.select(part), self.r[part], self.t[part], n_intervals)

    def to(self, device: torch.device | str) -> "Paths":
        at, velocity = (_map(point, lambda tensor: tensor.to(device)) for point in (self.at, self.velocity))
        return Paths(at, velocity, self.context.to(device), self.r.to(device), self.t.to(device), self.n_intervals)


@dataclass(frozen=True)
class DrawPaths:
    """Draw the paths of a batch: (batch, generator), both on the CPU -> `Paths`.

    No gradient flows to the data points: through it a dequantiser would learn to make velocities easy.

    Args:
        domain: domain of the data, on the CPU.
        dtype: dtype of the paths.
        pairing: a name in `PAIRINGS`, how noise is assigned to data.
        times: how times are drawn.
    """

    domain: Domain[Any]
    dtype: torch.dtype
    pairing: str
    times: Times

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Paths:
        points, context, _ = self.domain.to_points_in(self.dtype, batch.data, generator)
        if batch.condition is not None:
            context = context._replace(condition=batch.condition)
        latent = self.domain.space(context.mask).randn(generator, self.dtype)
        points, latent = PAIRINGS[self.pairing](points, latent, context, generator)
        r, t, n_intervals = self.times(len(context.mask), generator)
        r, t = r.to(self.dtype), t.to(self.dtype)
        velocity = latent - points
        return Paths(points + scale(velocity, t), velocity, context, r, t, n_intervals)


def head(point: Points, n: int) -> Points:
    """The first n configurations."""
    return _map(point, lambda tensor: tensor[:n])


def logistic_normal_times(batch: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, int]:
    """Times t in (0, 1), logistic-normal about 1/2 with scale 1.2, and r = t; (B,), (B,) and 0."""
    t = torch.randn(batch, generator=generator).mul(1.2).sigmoid()
    return t, t, 0


def _map(point: Points, function: Callable[[Tensor], Tensor]) -> Points:
    """Apply a function to each tensor of a point."""
    return point_of([function(tensor) for tensor in tensors_of(point)])  # type: ignore[return-value]
