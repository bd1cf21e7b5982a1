"""Flow matching (arXiv 2210.02747): a velocity learns that of straight paths from data to noise, without a solver."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import NameIn
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.continuous import ContinuousFlow
from molflow.geometry import Context, Points, squared_norm
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import (
    CheckedCompile,
    Objective,
    ObjectiveConfig,
    Parts,
    Preparation,
    robust_mean,
)
from molflow.training.pairing import NEED_POSITIONS, PAIRINGS
from molflow.training.paths import DrawPaths, Paths, Times, logistic_normal_times


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
        self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor, dof: Tensor, n_intervals: int
    ) -> Tensor:
        """Squared error per degree of freedom of each of the `Paths`, (B,)."""

    @abstractmethod
    def _times(self) -> Times:
        """How times are drawn."""

    def preparation(self) -> Preparation:
        domain = copy.deepcopy(self.flow.domain).cpu()
        return DrawPaths(domain, self.flow.dtype, self.config.pairing, self._times())

    def forward(self, batch: Paths, generator: torch.Generator | None = None) -> tuple[Tensor, Parts]:
        context, n = batch.context, batch.n_intervals
        context = context._replace(condition=self.flow.standardized(context.condition, len(batch)))
        dof = self.flow.domain.space(context.mask).dof_or_one(batch.t.dtype)
        errors = self._errors(batch.at, batch.velocity, context, batch.r, batch.t, dof, n)
        parts = {"flow_matching": errors[n:], "average_velocity": errors[:n]}
        loss = robust_mean(errors, self.config.loss_exponent)
        return loss, {name: e.detach().mean() for name, e in parts.items() if len(e)}

    def compile_loss(self) -> None:
        self._errors = CheckedCompile(self._of_tensors)


@OBJECTIVES.register("flow_matching")
class FlowMatchingObjectiveConfig(PathObjectiveConfig):
    """The velocity of a continuous flow learns that of straight paths from data to noise.

    With `loss_exponent` 0 the exact velocity is the minimum.
    """

    requires: ClassVar[tuple[str, ...]] = ("velocity",)
    remedy: ClassVar[str] = "model.kind = 'continuous'"
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "cheap"

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
    """

    flow: ContinuousFlow[Any]

    def _of_tensors(
        self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor, dof: Tensor, n_intervals: int
    ) -> Tensor:
        return squared_norm(self.flow.velocity(at, context, t) - velocity) / dof

    def _times(self) -> Times:
        return logistic_normal_times
