"""Straight paths from data to noise, and the times at which flow matching evaluates a network on them.

Drawing and pairing need no network, so they can be done ahead of the training step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from molflow.data.batches import Batch
from molflow.flows.domains import Domain
from molflow.geometry import Context, Points, point_of, scale, tensors_of
from molflow.training.pairing import PAIRINGS

EARLIEST = 1e-3
"""The earliest of log-uniform times, at which a path is within a thousandth of its noise of the data."""


class Times(NamedTuple):
    """Times of a batch.

    Attributes:
        r, t: as in `Paths`.
        n_intervals: number of configurations, the first, whose r differs from t.
    """

    r: Tensor
    t: Tensor
    n_intervals: int = 0


DrawTimes = Callable[[int, torch.Generator | None], Times]
"""(batch size, generator) -> times."""


@dataclass(frozen=True)
class Paths:
    """Points p_t = (1 - t) p + t z on the paths of a batch, from data p at t = 0 to noise z at t = 1.

    A batch has three parts, in this order: near the data, intervals of time, and single times.

    Attributes:
        at: p_t, (B, N, D) and (B, N, F).
        velocity: z - p, the same shapes.
        context: context of the data; its condition is in the user's units, as in `Batch`.
        r: the other end of an interval of time, (B,).
        t: time, (B,).
        n_near: number of configurations near the data.
        n_intervals: number of configurations whose r differs from t.
    """

    at: Points
    velocity: Points
    context: Context
    r: Tensor
    t: Tensor
    n_near: int
    n_intervals: int

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, part: slice) -> "Paths":
        start, stop, step = part.indices(len(self))
        at, velocity = (part_of(point, part) for point in (self.at, self.velocity))
        counts = (len(range(start, min(n, stop), step)) for n in (0, self.n_near, self.n_near + self.n_intervals))
        n_near, n_intervals = (b - a for a, b in pairwise(counts))
        return Paths(at, velocity, self.context.select(part), self.r[part], self.t[part], n_near, n_intervals)

    def to(self, device: torch.device | str) -> "Paths":
        at, velocity = (_map(point, lambda tensor: tensor.to(device)) for point in (self.at, self.velocity))
        r, t = self.r.to(device), self.t.to(device)
        return Paths(at, velocity, self.context.to(device), r, t, self.n_near, self.n_intervals)


@dataclass(frozen=True)
class DrawPaths:
    """Draw the paths of a batch: (batch, generator), both on the CPU -> `Paths`.

    No gradient flows to the data points: through it a dequantiser would learn to make velocities easy.

    Args:
        domain: domain of the data, on the CPU.
        dtype: dtype of the paths.
        pairing: a name in `PAIRINGS`, how noise is assigned to data.
        times: how times are drawn, except near the data.
        near_fraction: share of a batch near the data. Half of it keeps its noise as it was drawn, since the errors left
            at the end of a sampled path are not aligned with the data.
        near_until: latest time of that share; a time is this times u^(3/2), u uniform in (0, 1).
    """

    domain: Domain[Any]
    dtype: torch.dtype
    pairing: str
    times: DrawTimes
    near_fraction: float = 0.0
    near_until: float = 0.2

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator | None) -> Paths:
        points, context, _ = self.domain.to_points_in(self.dtype, batch.data, generator)
        if batch.condition is not None:
            context = context._replace(condition=batch.condition)
        latent = self.domain.space(context.mask).randn(generator, self.dtype)
        n_near = round(self.near_fraction * len(context.mask))
        rest = slice(n_near // 2, None)
        paired = PAIRINGS[self.pairing](part_of(points, rest), part_of(latent, rest), context.select(rest), generator)
        unpaired = (part_of(points, slice(rest.start)), part_of(latent, slice(rest.start)))
        points, latent = (joined(p, q) for p, q in zip(unpaired, paired, strict=True))
        near = self.near_until * torch.rand(n_near, generator=generator, device="cpu") ** 1.5
        times = self.times(len(context.mask) - n_near, generator)
        r, t = (torch.cat([near, rest]).to(self.dtype) for rest in (times.r, times.t))
        velocity = latent - points
        return Paths(points + scale(velocity, t), velocity, context, r, t, n_near, times.n_intervals)


def part_of(point: Points, part: slice) -> Points:
    """Some configurations of a point."""
    return _map(point, lambda tensor: tensor[part])


def joined(*parts: Points) -> Points:
    """The configurations of several points, one after another."""
    tensors = zip(*(tensors_of(part) for part in parts), strict=True)
    return point_of([torch.cat(each) for each in tensors])  # type: ignore[return-value]


def single_times(batch: int, generator: torch.Generator | None, log_uniform_fraction: float = 0.0) -> Times:
    """Times t in (0, 1), logistic-normal about 1/2 with scale 1.2, the first of them log-uniform, and r = t."""
    t = torch.randn(batch, generator=generator, device="cpu").mul(1.2).sigmoid()
    if n := round(log_uniform_fraction * batch):
        t[:n] = log_uniform_times(n, generator)
    return Times(t, t)


def log_uniform_times(n: int, generator: torch.Generator | None) -> Tensor:
    """Times (n,) whose logarithms are uniform, from 0.001 to 1: as many between 0.001 and 0.01 as between 0.1 and 1."""
    return EARLIEST ** torch.rand(n, generator=generator, device="cpu")


def _map(point: Points, function: Callable[[Tensor], Tensor]) -> Points:
    """Apply a function to each tensor of a point."""
    return point_of([function(tensor) for tensor in tensors_of(point)])  # type: ignore[return-value]
