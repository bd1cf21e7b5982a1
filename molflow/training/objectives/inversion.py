"""Inversion: an encoder learns to invert a decoder that is not trained."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.geometry import squared_norm
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import Objective, ObjectiveConfig, Parts


@OBJECTIVES.register("inversion")
class InversionObjectiveConfig(ObjectiveConfig):
    """Warm-up of an encoder: it learns to invert the decoder, which is not trained."""

    requires: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    remedy: ClassVar[str] = "model.kind = 'free_form'"

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "InversionObjective":
        return InversionObjective(flow, self)


class InversionObjective(Objective):
    """|f(g(z)) - z|^2 for latents z, averaged over the batch, without a gradient for the decoder g."""

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        _, context, _ = self.to_points(batch, generator)
        z = self.flow.domain.space(context.mask).randn(generator, self.flow.dtype)
        with torch.no_grad():
            points = self.flow.decode(z, context)
        return squared_norm(self.flow.encode(points, context) - z).mean(), {}
