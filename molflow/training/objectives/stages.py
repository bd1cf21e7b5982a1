"""Distillation stage by stage: the stages of a deep decoder learn consecutive parts of a teacher's paths."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.flows.base import Flow, FlowConfig
from molflow.flows.continuous import ContinuousFlow
from molflow.flows.free_form import FreeFormFlow
from molflow.flows.networks import euler_steps, fall_to_zero, transform
from molflow.geometry import Context, Points, squared_norm
from molflow.nn import Chain
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import CheckedCompile, Objective, ObjectiveConfig, Parts, robust_mean
from molflow.training.objectives.flow_matching import distance_errors
from molflow.training.objectives.regression import load_teacher_of


@OBJECTIVES.register("stages")
class StagesObjectiveConfig(ObjectiveConfig):
    """The stages of one map learn where a continuous flow leads their own inputs, each in its interval of time."""

    requires: ClassVar[tuple[str, ...]] = ("has_stages",)
    remedy: ClassVar[str] = "a decoder or encoder of several n_stages"

    map: Literal["decoder", "encoder"] = "decoder"
    teacher: Path = Field(description="name or folder of a trained continuous flow on the same domain")
    times: tuple[float, ...] = Field(description="of the stages, from 1 down to 0; one more than stages")
    longest_step: float = Field(0.05, gt=0, le=1, description="of the Euler steps of the teacher in a stage")
    loss_exponent: float = Field(0.5, ge=0, le=1, description="a of the loss |d|^(2 - 2 a); 0 is the squared error")
    distance_weight: float = Field(3.0, ge=0, description="weight of the errors of distances in data that are made")
    noise: float = Field(0.0, ge=0, description="of the data that an encoder starts from, model units")

    @field_validator("times")
    @classmethod
    def _fall(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if not fall_to_zero(times) or times[0] != 1 or len(times) < 3:
            raise ValueError("times must fall from 1 to 0, with at least one between")
        return times

    def load_teacher(self, model: FlowConfig) -> Flow[Any]:
        return load_teacher_of(model, self.teacher)

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "StagesObjective":
        return StagesObjective(flow, self, teacher)


class StagesObjective(Objective):
    """Stage i takes p at time t_i to p + d_i(p), and the teacher's path leads from the same p to q at time t_(i + 1).

    The error of a stage is |p + d_i(p) - q|^2 per degree of freedom over (t_i - t_(i + 1))^2, to the power 1 - a with
    the loss exponent a; it is summed over stages, a mean over a batch. A decoder starts from latents at time 1, and its
    last stage adds `distance_weight` times the mean of |d_jk - d'_jk| over pairs of points, over t_i. An encoder starts
    from data, times reversed, with noise s if there is any, which is where the path is at time s / (1 + s). The input
    of every other stage is the output of the stage before, without gradient. So a stage learns on the inputs that it
    will have, their errors included, and corrects them as far as the teacher does.

    Raises:
        ValueError: another teacher, or other numbers of stages and times.
    """

    flow: FreeFormFlow[Any]
    config: StagesObjectiveConfig
    teacher: ContinuousFlow[Any]

    def __init__(self, flow: Flow[Any], config: StagesObjectiveConfig, teacher: nn.Module | None):
        super().__init__(flow, config)
        if not isinstance(teacher, ContinuousFlow):
            raise ValueError("the stages objective needs a continuous flow as teacher")
        maps = {"decoder": self.flow.decoder, "encoder": self.flow.encoder}
        trained = maps.pop(config.map)
        self.stages = list(trained.stages) if isinstance(trained, Chain) else [trained]
        if (n := len(config.times)) != len(self.stages) + 1:
            raise ValueError(f"{n} times are those of {n - 1} stages, the {config.map} has {len(self.stages)}")
        if isinstance(trained, Chain) and any(factor != 1 for factor in trained.factors):
            raise ValueError(f"stages of the {config.map} scale their input, which no stage of a path does")
        self.teacher = teacher.requires_grad_(False)
        for other in maps.values():
            other.requires_grad_(False)
        self.times = config.times if config.map == "decoder" else config.times[::-1]
        self._stages: list[Callable[..., Points]] = [partial(self._stage, i) for i in range(len(self.stages))]

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        point, context, _ = self.to_points(batch, generator)
        space = self.flow.domain.space(context.mask)
        dof = space.dof_or_one(self.flow.dtype)
        decodes = self.config.map == "decoder"
        if decodes:
            point = space.randn(generator, self.flow.dtype)
        else:
            point, _ = self.flow.add_noise(point, context, self.config.noise, generator)
        loss, parts = torch.zeros((), dtype=self.flow.dtype, device=self.flow.device), {}
        for i, (t, r) in enumerate(pairwise(self.times)):
            with torch.no_grad():
                target = self._path(point, context, t, r)
            image = self._stages[i](point, context)
            errors = squared_norm(image - target) / (dof * (t - r) ** 2)
            parts[f"stage_{i + 1}"] = errors.detach().sqrt().mean()
            loss = loss + robust_mean(errors, self.config.loss_exponent)
            point = Points(*(tensor.detach() for tensor in image))
        if decodes:
            distances = distance_errors(image.x, target.x, context.mask).mean()
            parts["distances"] = distances.detach()
            loss = loss + self.config.distance_weight / t * distances
        return loss, parts

    def _path(self, point: Points, context: Context, t: float, r: float) -> Points:
        """Euler steps of the teacher from time t to time r; data with noise are on the path a little later than 0."""
        if t == 0:
            t, scale = self.teacher.path_at(self.config.noise)
            point = point * scale
        n = math.ceil(abs(t - r) / self.config.longest_step - 1e-6)
        times = torch.linspace(t, r, n + 1, dtype=torch.float64, device="cpu").tolist()
        return euler_steps(lambda p, at: self._velocity(p, context, at), point, times)

    def _velocity(self, point: Points, context: Context, t: Tensor) -> Points:
        return self.teacher.velocity(point, context, t)

    def _stage(self, i: int, point: Points, context: Context) -> Points:
        return transform(self.stages[i], point, context)

    def compile_loss(self, dynamic: bool = False) -> None:
        self._velocity = CheckedCompile(self._velocity, dynamic)  # type: ignore[method-assign, assignment]
        self._stages = [CheckedCompile(stage, dynamic) for stage in self._stages]
