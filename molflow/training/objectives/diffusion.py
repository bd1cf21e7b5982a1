"""Denoising diffusion (arXiv 2006.11239): a network learns the noise in points of variance-preserving paths."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.diffusion import DiffusionFlow, path_coefficients
from molflow.geometry import Context, Points, scale, squared_norm
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import CheckedCompile, Objective, ObjectiveConfig, Parts


@OBJECTIVES.register("diffusion")
class DiffusionObjectiveConfig(ObjectiveConfig):
    """The squared error of predicted noise, at times drawn uniformly."""

    requires: ClassVar[tuple[str, ...]] = ("data_and_noise",)
    remedy: ClassVar[str] = "model.kind = 'diffusion'"
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "cheap"

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "DiffusionObjective":
        return DiffusionObjective(flow, self)


class DiffusionObjective(Objective):
    """|e' - e|^2 per degree of freedom, with e' the noise predicted in p_t = alpha p + sigma e and t uniform in (0, 1).

    A mean over configurations; its minimum is the mean of e given p_t. The features of p are what the domain makes of
    types. No gradient flows through p: a dequantiser would learn to make noise easy to predict.
    """

    flow: DiffusionFlow[Any]

    def __init__(self, flow: Flow[Any], config: ObjectiveConfig):
        super().__init__(flow, config)
        self._errors: Callable[..., Tensor] = self._of_tensors

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        with torch.no_grad():
            points, context, _ = self.to_points(batch, generator)
        space = self.flow.domain.space(context.mask)
        noise = space.randn(generator, self.flow.dtype)
        t = torch.rand(len(batch), generator=generator, dtype=self.flow.dtype, device=context.mask.device)
        return self._errors(points, noise, context, t, space.dof_or_one(t.dtype)).mean(), {}

    def _of_tensors(self, points: Points, noise: Points, context: Context, t: Tensor, dof: Tensor) -> Tensor:
        """Squared errors per degree of freedom, (B,)."""
        alpha, sigma = path_coefficients(t)
        at = scale(points, alpha) + scale(noise, sigma)
        return squared_norm(self.flow.data_and_noise(at, context, t)[1] - noise) / dof

    def compile_loss(self, dynamic: bool = False) -> None:
        self._errors = CheckedCompile(self._of_tensors, dynamic)
