"""Flow matching (arXiv 2210.02747): a velocity learns that of straight paths from data to noise, without a solver."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import NameIn
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.continuous import ContinuousFlow
from molflow.geometry import Context, Points, pair_mask, safe_sqrt, squared_distances, squared_norm
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import CheckedCompile, Objective, ObjectiveConfig, Parts, robust
from molflow.training.pairing import NEED_POSITIONS, PAIRINGS
from molflow.training.paths import DrawPaths, DrawTimes, Paths, joined, part_of, single_times


class PathObjectiveConfig(ObjectiveConfig):
    """Base of the objectives on straight paths.

    With `near_fraction` a share of each batch is near the data, where the velocity sets bond lengths, and its loss is
    on the distances of the data that the velocity predicts.

    Attributes:
        pairing: how noise is assigned to data; see `molflow.training.pairing`.
    """

    pairing: Annotated[str, NameIn(PAIRINGS)] = "alignment"
    loss_exponent: float = Field(0.0, ge=0, le=1, description="a of the loss |d|^(2 - 2 a); 0 is the squared error")
    log_uniform_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the other times that is log-uniform from 0.001 to 1, for fine detail"
    )
    near_fraction: float = Field(0.0, ge=0, lt=1, description="share of a batch near the data")
    near_until: float = Field(0.2, gt=0, le=1, description="latest time of that share")
    near_weight: float = Field(3.0, gt=0, description="weight of a configuration of that share, the others have 1")


class PathObjective(Objective):
    """Errors of velocities on straight paths p_t = (1 - t) p + t z, v = z - p: a mean over configurations.

    A subclass says which velocity u it learns at p_t and what its target w is. The error is |u - w|^(2 - 2 a), |.|^2
    per degree of freedom, with a = `loss_exponent`. Near the data, t <= `near_until`, it is `near_weight` times the
    mean of |d'_ij - d_ij| over pairs of points, divided by t + 0.01, plus the squared error of generated features. Here
    d are distances in the data and d' those in the prediction p' = p_t - t u, in model units.

    The features of p are what the domain makes of types: dequantised ones where types are generated, one draw of
    q(h | types), and none where types are given and for particles. No gradient flows through p, so that a dequantiser
    is not trained.

    Raises:
        ValueError: a pairing that rotates, or `near_fraction`, for data without positions.
    """

    config: PathObjectiveConfig

    def __init__(self, flow: Flow[Any], config: PathObjectiveConfig):
        super().__init__(flow, config)
        if flow.domain.acts_on != "points":
            if config.pairing in NEED_POSITIONS:
                raise ValueError(f"pairing {config.pairing} rotates positions, which these data lack; use 'none'")
            if config.near_fraction:
                raise ValueError("near_fraction compares distances of points, which these data lack; set it to 0")
        self._errors: Callable[..., Tensor] = self._of_tensors

    @abstractmethod
    def _velocity(self, at: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        """The velocity that is learned, at times r and t (B,)."""

    def _targets(self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        """What it should be in intervals of time from r to t."""
        return velocity

    def _times(self) -> DrawTimes:
        """How times are drawn, except near the data."""
        return partial(single_times, log_uniform_fraction=self.config.log_uniform_fraction)

    def preparation(self) -> DrawPaths:
        domain, config = copy.deepcopy(self.flow.domain).cpu(), self.config
        return DrawPaths(
            domain, self.flow.dtype, config.pairing, self._times(), config.near_fraction, config.near_until
        )

    def forward(self, batch: Paths, generator: torch.Generator | None = None) -> tuple[Tensor, Parts]:
        condition = self.flow.standardized(batch.context.condition, len(batch))
        context = batch.context._replace(condition=condition)
        dof = self.flow.domain.space(context.mask).dof_or_one(batch.t.dtype)
        n, m = batch.n_near, batch.n_intervals
        errors = self._errors(batch.at, batch.velocity, context, batch.r, batch.t, dof, n, m)
        near, rest = errors[:n], errors[n:]
        loss = torch.cat([self.config.near_weight * near, robust(rest, self.config.loss_exponent)]).mean()
        parts = {"near": near, "average_velocity": rest[:m], "flow_matching": rest[m:]}
        return loss, {name: e.detach() for name, e in parts.items()}

    def _of_tensors(
        self,
        at: Points,
        velocity: Points,
        context: Context,
        r: Tensor,
        t: Tensor,
        dof: Tensor,
        n_near: int,
        n_intervals: int,
    ) -> Tensor:
        """Errors (B,) of `Paths`: squared ones per degree of freedom, but near the data those of distances."""
        target = velocity
        if n_intervals:
            part = slice(n_near, n_near + n_intervals)
            inside = part_of(at, part), part_of(velocity, part), context.select(part), r[part], t[part]
            with torch.no_grad():
                middle = self._targets(*inside)
            target = joined(part_of(velocity, slice(n_near)), middle, part_of(velocity, slice(part.stop, None)))
        found = self._velocity(at, context, r, t)
        errors = squared_norm(found - target) / dof
        if not (n := n_near):
            return errors
        predicted, data = (at.x[:n] - v.x[:n] * t[:n, None, None] for v in (found, velocity))
        near = distance_errors(predicted, data, context.mask[:n]) / (t[:n] + 0.01)
        features = (found.h[:n] - velocity.h[:n]).square().sum((1, 2)) / dof[:n]
        return torch.cat([near + features, errors[n:]])

    def compile_loss(self, dynamic: bool = False) -> None:
        self._errors = CheckedCompile(self._of_tensors, dynamic)


@OBJECTIVES.register("flow_matching")
class FlowMatchingObjectiveConfig(PathObjectiveConfig):
    """The velocity of a continuous flow learns that of straight paths from data to noise.

    With `loss_exponent` 0 the exact velocity is the minimum.
    """

    requires: ClassVar[tuple[str, ...]] = ("straight_paths", "velocity")
    remedy: ClassVar[str] = "model.kind = 'continuous'"
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "cheap"

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "FlowMatchingObjective":
        return FlowMatchingObjective(flow, self)


class FlowMatchingObjective(PathObjective):
    """`PathObjective` of the velocity f(p_t, t) of a continuous flow, target z - p (arXiv 2210.02747).

    For a = 0 the minimum is the mean of z - p given p_t, which carries the noise to the data at t = 0.
    """

    flow: ContinuousFlow[Any]

    def _velocity(self, at: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        return self.flow.velocity(at, context, t)


def distance_errors(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean over pairs of points of the difference between their distances in x and in y, (B, N, D) -> (B,)."""
    pairs = pair_mask(mask).to(x.dtype)
    difference = (safe_sqrt(squared_distances(x)) - safe_sqrt(squared_distances(y))).abs()
    return (difference * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
