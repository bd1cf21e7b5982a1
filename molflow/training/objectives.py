"""Losses as modules: data in, one number out, so that `DistributedDataParallel` and `torch.compile` can wrap them."""

from typing import Any

import torch
from torch import Tensor, nn

from molflow.flows.free_form import FreeFormFlow
from molflow.training.config import ObjectiveConfig


class FreeFormObjective(nn.Module):
    """beta |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction, averaged over the batch (arXiv 2310.16624)."""

    def __init__(self, flow: FreeFormFlow, config: ObjectiveConfig):
        super().__init__()
        self.flow, self.config = flow, config

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the means of its parts for the log."""
        terms = self.flow.terms(data, generator, self.config.n_probes, self.config.surrogate)
        parts = {
            "reconstruction": terms.reconstruction.detach().mean(),
            "latent_nll": terms.latent.detach().mean(),
            "correction": terms.correction.detach().mean(),
        }
        return terms.loss(self.config.beta), parts
