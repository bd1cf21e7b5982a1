"""Average velocities (MeanFlow, arXiv 2505.13447): a decoder learns whole intervals of the paths of flow matching."""

import copy
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.free_form import FreeFormFlow, average_velocity
from molflow.geometry import Context, Points, point_of, scale, tensors_of
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.flow_matching import PathObjective, PathObjectiveConfig
from molflow.training.paths import DrawTimes, Times, log_uniform_times, single_times


@OBJECTIVES.register("mean_flow")
class MeanFlowObjectiveConfig(PathObjectiveConfig):
    """Warm-up of an average-velocity decoder by flow matching (r = t) and average velocities (from t to r)."""

    requires: ClassVar[tuple[str, ...]] = ("average_velocity", "has_average_velocity", "decoder")
    remedy: ClassVar[str] = "model.kind = 'free_form' and model.average_velocity = true"

    target: Literal["mean_flow", "lagrangian"] = "mean_flow"
    average_fraction: float = Field(0.5, ge=0, le=1, description="share of a batch with r < t; 0 is flow matching")
    from_latent_fraction: float = Field(0.5, ge=0, le=1, description="share of those with t = 1")
    both_ways: bool = Field(False, description="exchange every other r < t: from data to latents, for an encoder")
    loss_exponent: float = Field(0.5, ge=0, le=1, description="a of the loss |d|^(2 - 2 a); 0 is the squared error")

    @property
    def needs_weights(self) -> str | None:
        if self.target != "lagrangian":
            return None
        return "objective.target lagrangian has a teacher: start from weights learned by flow matching"

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "MeanFlowObjective":
        return MeanFlowObjective(flow, self, teacher)


class MeanFlowObjective(PathObjective):
    """`PathObjective` of the average velocity u(p_t, r, t) of the paths that flow matching follows.

    For r = t the target is z - p, which is flow matching. Otherwise it is, with q = p_t - (t - r) u, the point to which
    u leads at time r,

    - mean_flow: v - (t - r) du/dt along (v, 0, 1), which needs no velocity but the sample's (arXiv 2505.13447);
    - lagrangian: w(q, r, r) + (t - r) du/dr, by which q moves with the velocity w of a teacher (arXiv 2505.18825; with
      the network as its own teacher it diverged).

    Args:
        flow: a flow with an average velocity.
        config: settings.
        teacher: a decoder, for the lagrangian target; by default a frozen copy of the flow's present decoder.
    """

    flow: FreeFormFlow[Any]
    config: MeanFlowObjectiveConfig

    def __init__(self, flow: Flow[Any], config: MeanFlowObjectiveConfig, teacher: nn.Module | None = None):
        super().__init__(flow, config)
        if config.target == "lagrangian":
            self.teacher = copy.deepcopy(self.flow.decoder).requires_grad_(False) if teacher is None else teacher

    def _velocity(self, at: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        return self.flow.average_velocity(at, context, r, t)

    def _targets(self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        target = self._mean_flow_target if self.config.target == "mean_flow" else self._lagrangian_target
        return target(at, context, velocity, r, t)

    def _times(self) -> DrawTimes:
        return partial(interval_times, self.config)

    def _mean_flow_target(self, at: Points, context: Context, v: Points, r: Tensor, t: Tensor) -> Points:
        def u(*arguments: Tensor) -> tuple[Tensor, ...]:
            *tensors, t = arguments
            points: Any = point_of(tensors)
            return tensors_of(self.flow.average_velocity(points, context, r, t))

        _, change = torch.func.jvp(u, (*tensors_of(at), t), (*tensors_of(v), torch.ones_like(t)))  # type: ignore[misc]
        return v - _scaled(change, t - r)

    def _lagrangian_target(self, at: Points, context: Context, v: Points, r: Tensor, t: Tensor) -> Points:
        def u(r: Tensor) -> tuple[Tensor, ...]:
            return tensors_of(self.flow.average_velocity(at, context, r, t))

        value, change = torch.func.jvp(u, (r,), (torch.ones_like(r),))  # type: ignore[misc]
        arrived = at - _scaled(value, t - r)
        assert self.teacher is not None
        return average_velocity(self.teacher, arrived, context, r, r) + _scaled(change, t - r)


def _scaled(tensors: tuple[Tensor, ...], factor: Tensor) -> Points:
    """The point that consists of these tensors, each configuration times its own number."""
    return scale(point_of(tensors), factor)  # type: ignore[return-value, type-var]


def interval_times(config: MeanFlowObjectiveConfig, batch: int, generator: torch.Generator | None) -> Times:
    """Times r < t for the first part of a batch, some of them with t = 1, and r = t for the rest.

    r and t are the ends of a uniform interval; for t = 1, r near 0 is drawn more often, since bonds are decided there,
    and a share `log_uniform_fraction` of these r is log-uniform.
    With `both_ways` every other pair of the first part is exchanged.
    """
    n = round(config.average_fraction * batch)
    draws = torch.rand(3, batch, generator=generator, device="cpu")
    from_latent = draws[2] < config.from_latent_fraction
    late = draws[0] ** 1.5
    if config.log_uniform_fraction:
        early = draws[1] < config.log_uniform_fraction
        late = torch.where(early, log_uniform_times(batch, generator), late)
    r = torch.where(from_latent, late, draws[:2].amin(0))
    t = torch.where(from_latent, 1.0, draws[:2].amax(0))
    if config.both_ways:
        exchanged = torch.arange(batch, device="cpu") % 2 == 1
        r, t = torch.where(exchanged, t, r), torch.where(exchanged, r, t)
    middle = single_times(batch - n, generator, config.log_uniform_fraction).t
    r[n:] = t[n:] = middle
    return Times(r, t, n)
