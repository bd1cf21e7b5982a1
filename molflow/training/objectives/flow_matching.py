"""Flow matching (arXiv 2210.02747): a velocity learns that of straight paths from data to noise, without a solver."""

import copy
import dataclasses
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
from molflow.training.objectives.base import (
    CheckedCompile,
    Objective,
    ObjectiveConfig,
    Parts,
    robust,
    robust_mean,
)
from molflow.training.pairing import NEED_POSITIONS, PAIRINGS
from molflow.training.paths import DrawPaths, DrawTimes, Paths, logistic_normal_times, times_near_the_data


class PathObjectiveConfig(ObjectiveConfig):
    """Base of the objectives on straight paths.

    Attributes:
        pairing: how noise is assigned to data; see `molflow.training.pairing`.
        loss_exponent: a of the loss |error|^(2 - 2 a).
    """

    pairing: Annotated[str, NameIn(PAIRINGS)] = "alignment"
    loss_exponent: float = Field(0.0, ge=0, le=1, description="a of the loss |d|^(2 - 2 a); 0 is the squared error")


class PathObjective(Objective):
    """Squared errors of velocities on straight paths: a mean over configurations of |error|^(2 - 2 loss_exponent)."""

    config: PathObjectiveConfig

    def __init__(self, flow: Flow[Any], config: PathObjectiveConfig):
        super().__init__(flow, config)
        if config.pairing in NEED_POSITIONS and flow.domain.acts_on != "points":
            raise ValueError(f"pairing {config.pairing} rotates positions, which these data lack; set pairing = 'none'")
        self._errors: Callable[..., Tensor] = self._of_tensors

    @abstractmethod
    def _of_tensors(
        self,
        at: Points,
        velocity: Points,
        context: Context,
        r: Tensor,
        t: Tensor,
        dof: Tensor,
        n_intervals: int,
        n_near: int,
    ) -> Tensor:
        """Squared error per degree of freedom of each of the `Paths`, (B,)."""

    @abstractmethod
    def _times(self) -> DrawTimes:
        """How times are drawn."""

    def preparation(self) -> DrawPaths:
        domain = copy.deepcopy(self.flow.domain).cpu()
        return DrawPaths(domain, self.flow.dtype, self.config.pairing, self._times())

    def forward(self, batch: Paths, generator: torch.Generator | None = None) -> tuple[Tensor, Parts]:
        condition = self.flow.standardized(batch.context.condition, len(batch))
        context = batch.context._replace(condition=condition)
        dof = self.flow.domain.space(context.mask).dof_or_one(batch.t.dtype)
        n = batch.n_intervals, batch.n_near
        errors = self._errors(batch.at, batch.velocity, context, batch.r, batch.t, dof, *n)
        loss, parts = self._loss(errors, batch)
        return loss, {name: e.detach().mean() for name, e in parts.items() if len(e)}

    def _loss(self, errors: Tensor, batch: Paths) -> tuple[Tensor, Parts]:
        """The loss, and the errors of its parts."""
        n = batch.n_intervals
        loss = robust_mean(errors, self.config.loss_exponent)
        return loss, {"flow_matching": errors[n:], "average_velocity": errors[:n]}

    def compile_loss(self) -> None:
        self._errors = CheckedCompile(self._of_tensors)


@OBJECTIVES.register("flow_matching")
class FlowMatchingObjectiveConfig(PathObjectiveConfig):
    """The velocity of a continuous flow learns that of straight paths from data to noise.

    With `loss_exponent` 0 the exact velocity is the minimum. With `near_fraction` a share of each batch is near the
    data, where the velocity sets bond lengths, and its loss is on the distances of the data that the velocity predicts.
    """

    requires: ClassVar[tuple[str, ...]] = ("velocity",)
    remedy: ClassVar[str] = "model.kind = 'continuous'"
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "cheap"

    near_fraction: float = Field(0.0, ge=0, lt=1, description="share of a batch near the data")
    near_until: float = Field(0.2, gt=0, le=1, description="latest time of that share")
    near_weight: float = Field(3.0, gt=0, description="weight of a configuration of that share, the others have 1")

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "FlowMatchingObjective":
        return FlowMatchingObjective(flow, self)


class FlowMatchingObjective(PathObjective):
    """|f(p_t, t) - v|^(2 - 2 a) with p_t = (1 - t) p + t z, v = z - p and the loss exponent a (arXiv 2210.02747).

    A mean over configurations, |.|^2 per degree of freedom. For a = 0 the minimum is the mean of v given p_t, which
    carries the noise to the data at t = 0. The features of p are what the domain makes of types: dequantised ones where
    types are generated, one draw of q(h | types), and none where types are given and for particles. No gradient flows
    through p, so that a dequantiser is not trained.

    Near the data, t <= `near_until`, the error of a configuration is `near_weight` times the mean of |d'_ij - d_ij|
    over pairs of points, divided by t + 0.01. Here d are distances in the data and d' those in the prediction
    p' = p_t - t f(p_t, t), in model units. The squared error of generated features is added. Half of these
    configurations keep their noise as it was drawn, since the errors that are left at the end of a sampled path are not
    aligned with the data.

    Raises:
        ValueError: `near_fraction` for data without positions.
    """

    flow: ContinuousFlow[Any]
    config: FlowMatchingObjectiveConfig

    def __init__(self, flow: Flow[Any], config: FlowMatchingObjectiveConfig):
        super().__init__(flow, config)
        if config.near_fraction and flow.domain.acts_on != "points":
            raise ValueError("near_fraction compares distances of points, which these data lack; set near_fraction = 0")

    def preparation(self) -> DrawPaths:
        prepare = super().preparation()
        return dataclasses.replace(prepare, unpaired_fraction=self.config.near_fraction / 2)

    def _of_tensors(
        self,
        at: Points,
        velocity: Points,
        context: Context,
        r: Tensor,
        t: Tensor,
        dof: Tensor,
        n_intervals: int,
        n_near: int,
    ) -> Tensor:
        """Squared errors (B,), but near the data those of distances."""
        found = self.flow.velocity(at, context, t)
        errors = squared_norm(found - velocity) / dof
        if not (n := n_near):
            return errors
        predicted, data = (at.x[:n] - v.x[:n] * t[:n, None, None] for v in (found, velocity))
        near = _distance_errors(predicted, data, context.mask[:n]) / (t[:n] + 0.01)
        features = (found.h[:n] - velocity.h[:n]).square().sum((1, 2)) / dof[:n]
        return torch.cat([near + features, errors[n:]])

    def _loss(self, errors: Tensor, batch: Paths) -> tuple[Tensor, Parts]:
        near, far = errors[: batch.n_near], errors[batch.n_near :]
        loss = torch.cat([self.config.near_weight * near, robust(far, self.config.loss_exponent)]).mean()
        return loss, {"flow_matching": far, "near": near}

    def _times(self) -> DrawTimes:
        if not self.config.near_fraction:
            return logistic_normal_times
        return partial(times_near_the_data, self.config.near_fraction, self.config.near_until)


def _distance_errors(x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean over pairs of points of the difference between their distances in x and in y, (B, N, D) -> (B,)."""
    pairs = pair_mask(mask).to(x.dtype)
    difference = (safe_sqrt(squared_distances(x)) - safe_sqrt(squared_distances(y))).abs()
    return (difference * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
