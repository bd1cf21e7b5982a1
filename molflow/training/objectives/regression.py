"""Regression (arXiv 2506.01158): encoder and decoder learn the pairs that a teacher makes with many evaluations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.errors import MolflowError
from molflow.flows.base import Flow, FlowConfig
from molflow.flows.storage import load, read_model_config
from molflow.geometry import Context, Points, squared_norm
from molflow.pretrained import folder_of
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import CheckedCompile, Objective, ObjectiveConfig, Parts, robust_mean


@OBJECTIVES.register("regression")
class RegressionObjectiveConfig(ObjectiveConfig):
    """Both maps learn where the paths of a teacher lead: the decoder from latent to data, the encoder back."""

    requires: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    remedy: ClassVar[str] = "model.kind = 'free_form'"

    teacher: Path = Field(description="name or folder of a trained flow on the same domain")
    evaluations: int | None = Field(
        None, gt=0, description="evaluations of the teacher's network; by default those of its own solver"
    )
    loss_exponent: float = Field(0.5, ge=0, le=1, description="a of the loss |d|^(2 - 2 a); 0 is the squared error")

    def load_teacher(self, model: FlowConfig) -> Flow[Any]:
        return load_teacher_of(model, self.teacher)

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "RegressionObjective":
        return RegressionObjective(flow, self, teacher)


def load_teacher_of(model: FlowConfig, folder: Path) -> Flow[Any]:
    """The flow of a folder or the shipped one of a name, as a teacher of the flow that a configuration describes.

    Raises:
        MolflowError: it cannot be loaded, or has another domain.
    """
    folder = folder_of(str(folder))
    if read_model_config(folder).domain != model.domain:
        raise MolflowError(f"{folder}: its model.domain differs from that of the experiment")
    return load(folder)


class RegressionObjective(Objective):
    """Pairs (z, p) of a teacher: |g(z) - p|^(2 - 2 a) + |f(p) - z|^(2 - 2 a) with the loss exponent a.

    A mean over latents, |.|^2 per degree of freedom (arXiv 2506.01158). Encoder and decoder learn the two directions of
    one map, so they come to invert each other. The more exactly the teacher is solved, the easier is its way back, so a
    continuous flow is the best teacher. Of the data only the context is used, such as the composition.
    """

    config: RegressionObjectiveConfig
    teacher: Flow[Any]

    def __init__(self, flow: Flow[Any], config: RegressionObjectiveConfig, teacher: nn.Module | None):
        super().__init__(flow, config)
        if not isinstance(teacher, Flow):
            raise ValueError("the regression objective needs a flow as teacher")
        if config.evaluations is None and teacher.n_evaluations == 1:
            raise ValueError("the teacher makes pairs with one evaluation; set objective.evaluations")
        if config.evaluations is not None and not teacher.takes_evaluations:
            raise ValueError("the teacher has a decoder for one evaluation; name one that can use more")
        self.teacher = teacher.requires_grad_(False)
        self._errors: Callable[..., tuple[Tensor, Tensor]] = self._of_points

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        _, context, _ = self.to_points(batch, generator)
        space = self.flow.domain.space(context.mask)
        z = space.randn(generator, self.flow.dtype)
        with torch.no_grad():
            points = self.teacher.decode(z, context, self.config.evaluations)
        errors = self._errors(z, points, context, space.dof_or_one(self.flow.dtype))
        parts = dict(zip(("decoder_error", "encoder_error"), (e.detach().sqrt().mean() for e in errors), strict=True))
        decoder, encoder = (robust_mean(e, self.config.loss_exponent) for e in errors)
        return decoder + encoder, parts

    def _of_points(self, z: Points, points: Points, context: Context, dof: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of decoder and encoder per degree of freedom, (B,) each."""
        decoded, encoded = self.flow.decode(z, context), self.flow.encode(points, context)
        return squared_norm(decoded - points) / dof, squared_norm(encoded - z) / dof

    def compile_loss(self, dynamic: bool = False) -> None:
        self._errors = CheckedCompile(self._of_points, dynamic)
